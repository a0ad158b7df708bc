"""What the kernel tests share: the ways to run a kernel on the CPU, and how close is close."""

import shutil

import pytest
import torch

from minizaya import hip

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ on this machine")
# target, wave, order of the threads. "trace" checks bounds, races and unwritten LDS at every access
WAYS = [("cpu", 64, "forward"), ("cpu", 64, "reverse"), ("cpu", 32, "7"), ("trace", 64, "3"), ("trace", 32, "reverse")]
WAY_IDS = ["-".join(map(str, way)) for way in WAYS]
every_way = pytest.mark.parametrize("way", WAYS, ids=WAY_IDS)
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])


def run(way, call, *args, **kwargs):
    """`call(launcher, *args)` on one of WAYS."""
    target, wave, order = way
    with hip.order(order):
        return call(hip.launcher(target, wave), *args, **kwargs)


def assert_close(got: torch.Tensor, wanted: torch.Tensor, what: str = "") -> None:
    """float32 to 1e-5; bfloat16 to the rounding of its last operation, half a unit in the last of its 8 bits (2 ** -8
    of the value at most).

    wanted: computed in float32 or wider, not rounded.
    """
    assert got.shape == wanted.shape, f"{what}: {tuple(got.shape)} instead of {tuple(wanted.shape)}"
    wide, right = got.double(), wanted.double()
    allowed = 1e-5 * (1 + right.abs())
    if got.dtype == torch.bfloat16:
        allowed = allowed + 2.0 ** -8 * right.abs()
    wrong = ~((wide - right).abs() <= allowed)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} differ; at {at} {wide[at]} instead of {right[at]}"
        )
