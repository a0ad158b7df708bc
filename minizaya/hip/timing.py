"""How long the kernels take on a GPU, beside what torch's own libraries take there for the same work.

    python -m minizaya.hip.timing      # a table under the device's name; where there is no GPU, one line that says so

At ZAYA1-8B's size, in bfloat16: the launches that `full` makes, of random numbers. Beside products stands torch's own
product of the same size (cuBLAS or hipBLASLt), beside attention `scaled_dot_product_attention`, beside what only moves
bytes a copy. Memory is allocated before, launches follow one another, and the median of them is shown.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernel, launcher
from .launch import Launch

MAIN = {"residual_norm_bf16": "residual_norm", "cca_mix_bf16": "cca_mix", "router_bf16": "router",
        "moe_hidden_bf16": "moe", "moe_output_bf16": "moe", "newton_schulz_product_bf16": "newton_schulz",
        "cca_attention_128_bf16": "cca_attention"}
TURNS, WARM, COPIED = 20, 3, 2**30


def full_launch(name: str) -> Launch:
    """The launch of a kernel function at full size, its large tensors on "meta"; of several, the last, as in `work`."""
    found = []

    def run(source: str, function: str, grid: tuple, block: int, args: list, lds: int = 0) -> None:
        found.append(Launch(source, function, tuple(grid), block, tuple(args), lds))

    kernel(MAIN[name]).full(run, name)
    return [one for one in found if one.kernel == name][-1]


def filled(arg: Tensor | int | float | None, device: str) -> Tensor | int | float | None:
    """A tensor with numbers for one without: small random ones, and counted ones where they are whole (an order)."""
    if not isinstance(arg, Tensor) or arg.device.type != "meta":
        return arg.to(device) if isinstance(arg, Tensor) else arg
    if arg.is_floating_point():
        return torch.randn(arg.shape, device=device, dtype=arg.dtype) / 16
    return torch.arange(arg.numel(), device=device).to(arg.dtype).view(arg.shape)


def beside(name: str, args: list) -> Callable | None:
    """What torch does for the same work, of the same tensors; None for what has no such call."""
    if "moe" in name:                      # every token meets one expert: one product of the same size, not grouped
        x, weights = args[0], args[1][0]
        return lambda: x @ weights.T
    if "newton" in name:
        return lambda: args[0] @ args[1].mT
    if "attention" in name:
        q, k, v = (x.transpose(1, 2) for x in args[:3])
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return None


def timed(call: Callable) -> float:
    """Microseconds of one call on the GPU: the median of several."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(TURNS + 1)]
    for _ in range(WARM):
        call()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return sorted(1e3 * before.elapsed_time(after) for before, after in zip(events, events[1:]))[TURNS // 2]


def rows() -> tuple[float, list[dict]]:
    """GB/s of a copy, and a row for each kernel: us, TFLOP/s, GB/s of its fewest bytes, and us of torch's own."""
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy, found = 2e-3 * COPIED / timed(partial(target.copy_, source)), []
    for name in MAIN:
        one, (least, flops) = full_launch(name), kernel(MAIN[name]).work(name)
        args = [filled(arg, "cuda") for arg in one.args]
        us = timed(partial(launcher(), one.source, one.kernel, one.grid, one.block, args, one.lds))
        own = beside(name, args)
        found.append(dict(name=name, us=us, tflops=flops / us / 1e6, gbs=least / us / 1e3,
                          theirs=own and timed(own)))
    return copy, found


def markdown() -> str:
    """The table. Raises ValueError where there is no GPU."""
    if not torch.cuda.is_available():
        raise ValueError("no GPU here: the kernels' times need one (MI300X or H100) that torch can use")
    copy, found = rows()
    lines = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a copy moves {copy:.0f} GB/s", "",
             "| kernel | us | TFLOP/s | GB/s | of the copy | torch's own, us | ours / theirs |", "|---" * 7 + "|"]
    for row in found:
        theirs = f"{row['theirs']:.1f} | {row['us'] / row['theirs']:.2f}" if row["theirs"] else "- | -"
        lines.append(f"| {row['name']} | {row['us']:.1f} | {row['tflops']:.1f} | {row['gbs']:.0f} | "
                     f"{row['gbs'] / copy:.0%} | {theirs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(markdown())
    except ValueError as error:
        sys.exit(str(error))
