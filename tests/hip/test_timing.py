"""Times on a GPU, as far as they can be looked at without one: what would be launched, and what stands beside it."""

import subprocess
import sys

import pytest
import torch

from minizaya import hip
from minizaya.hip import report, timing


@pytest.mark.parametrize("name", timing.MAIN)
def test_what_is_timed_is_the_launch_at_full_size(name):
    """A kernel that there is, of tensors with as many bytes as `work` counts at least."""
    one = timing.full_launch(name)
    assert name in report.declared(timing.MAIN[name]) and one.block % 64 == 0
    tensors = [arg for arg in one.args if isinstance(arg, torch.Tensor)]
    least, flops = hip.kernel(timing.MAIN[name]).work(name)
    assert sum(x.numel() * x.element_size() for x in tensors) > 0.9 * least
    own = timing.beside(name, [x.to("meta") if isinstance(x, torch.Tensor) else x for x in one.args])
    assert (own is None) == (name.split("_")[0] in ("residual", "router") or "mix" in name)
    if own is not None:
        from torch.utils.flop_counter import FlopCounterMode
        with FlopCounterMode(display=False) as counter:
            own()
        times = 2 if "attention" in name else 1          # theirs counts what the mask hides
        assert counter.get_total_flops() == pytest.approx(times * flops, rel=1e-3)


def test_numbers_for_tensors_without_any():
    whole = timing.filled(torch.empty(6, dtype=torch.int32, device="meta"), "cpu")
    assert whole.tolist() == [0, 1, 2, 3, 4, 5] and whole.dtype == torch.int32
    some = timing.filled(torch.empty(40, 50, dtype=torch.bfloat16, device="meta"), "cpu")
    assert some.shape == (40, 50) and 0.05 < some.float().std() < 0.08
    assert timing.filled(None, "cpu") is None and timing.filled(3, "cpu") == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, "-m", "minizaya.hip.timing"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith("no GPU here: ")
