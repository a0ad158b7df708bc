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


def assert_caught(name: str, bugs, everything, wanted, without=()) -> list[str]:
    """Plants each (old, new, why) in the kernel's text and runs `everything(launcher)`, which gives tensors one by one,
    on the CPU and under the tracer. Returns the whys of those that neither raise an error nor change a result.
    without: lines of the text that are left out, so that only what runs is built."""
    text = (hip.KERNELS / name / f"{name}.hip").read_text()
    for header in sorted((hip.KERNELS / name).glob("*.h")):
        text = text.replace(f'#include "{name}/{header.name}"\n', header.read_text())
    for line in without:
        assert line in text, f"{line!r} is not in {name}.hip"
        text = text.replace(line, "")
    survived, ways = [], (("trace", 64, "reverse"), ("cpu", 32, "7"))
    assert not notices(text, ways[0], everything, wanted), f"{name}: wrong before any bug is planted"
    for old, new, why in bugs:
        times = text.count(old)
        assert times == 1, f"{old!r} occurs {times} times in {name}.hip; the table must follow the code"
        planted = text.replace(old, new)
        if not any(notices(planted, way, everything, wanted) for way in ways):
            survived.append(why)
    return survived


def notices(text: str, way, everything, wanted) -> bool:
    target, wave, order = way
    try:
        with hip.order(order):
            got = everything(hip.launcher(target, wave, text))
        for x, right in zip(got, wanted, strict=True):
            assert_close(x, right)
    except (hip.KernelError, AssertionError):
        return True
    return False
