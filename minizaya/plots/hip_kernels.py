"""Pictures of lesson 14: which lanes touch which bytes, what a launch moves, LDS banks, and the ladder."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..hip import ladder
from ..hip.accesses import BANKS, PIECE, Trace
from .style import BLUE, GREEN, GREY, ORANGE, WIDTH, styled

BARS = {"asked": BLUE, "moved": ORANGE, "least": GREEN}


def first_instruction(trace: Trace, tensor: int) -> Trace:
    """The accesses of the first wave's first instruction on a tensor, as a `Trace`."""
    part = trace.where(tensor=tensor)
    part = part.where(instruction=int(part.column("instruction")[0]), block=int(part.column("block")[0]), turn=0)
    part.events = part.events[part.column("thread") < trace.wave]
    return part


def draw_lanes(axis: Axes, trace: Trace, tensor: int, span: int | None = None) -> None:
    """Lanes up, bytes to the right; a grey band for each 64-byte piece that travels, wide enough to be seen."""
    part = first_instruction(trace, tensor)
    lanes, offsets, size = part.column("thread") % trace.wave, part.column("offset"), part.column("bytes")
    offsets = offsets - int(offsets.min()) // PIECE * PIECE
    moved = torch.cat([offsets // PIECE, (offsets + size - 1) // PIECE]).unique().tolist()
    shown = span or max((max(moved) + 1) * PIECE, 4 * PIECE)
    for piece in moved:
        if piece * PIECE < shown:
            axis.axvspan(piece * PIECE, piece * PIECE + max(PIECE, shown / 160), color=GREY, alpha=0.3, linewidth=0)
    width = torch.clamp(size.float(), min=shown / 160)      # wide enough to be seen
    axis.barh(lanes.tolist(), width.tolist(), left=offsets.tolist(), height=1.0, color=BLUE)
    axis.set(xlim=(0, shown), ylim=(-1, trace.wave), xlabel="byte")
    # in the corner that the lanes leave free: they climb from the left below, and end short of the right if the axis is
    # longer
    at, side = (0.97, "right") if (max(moved) + 1) * PIECE < shown / 2 else (0.03, "left")
    axis.text(at, 0.97, f"{len(moved)} pieces for\n{int(size.sum())} bytes", transform=axis.transAxes, va="top",
              ha=side, fontsize=9.5, bbox=dict(facecolor="white", edgecolor="none", alpha=0.8, pad=1.5))


@styled
def traffic(trace: Trace, tensor: int | None = None, names: tuple[str, ...] = ()) -> Figure:
    """Left: one wave instruction on a tensor (by default the one with the most waste). Right: bytes of all tensors.

    trace: of `minizaya.hip.trace.traced`, one launch or several. names: what the tensors are called, in the order of
    the kernel's arguments; by default they are numbered.
    """
    def called(row: dict) -> str:
        return names[row["tensor"]] if names else str(row["tensor"])

    table = trace.table()
    if tensor is None:
        worst = max(table, key=lambda row: row["moved"] - row["least"])
    else:
        worst = next(row for row in table if row["tensor"] == tensor)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    draw_lanes(left, trace, worst["tensor"])
    left.set(title=f"tensor {called(worst)}, one instruction", ylabel="lane")
    left.locator_params(axis="x", nbins=4)
    for shift, (name, color) in zip((-0.27, 0, 0.27), BARS.items()):
        right.barh([i + shift for i in range(len(table))], [row[name] for row in table], height=0.27, color=color,
                   label=name)
    right.set(xscale="log", xlabel="bytes", yticks=range(len(table)), title="all tensors",
              yticklabels=[f"{called(row)}: {'x'.join(map(str, row['shape']))}" for row in table])
    right.invert_yaxis()
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3)
    return figure


@styled
def banks(traces: dict) -> Figure:
    """How many words each of the 32 LDS banks must serve for one instruction of the first 32 lanes.
    traces: title -> Trace."""
    figure, axes = plt.subplots(1, len(traces), figsize=(WIDTH, 2.6), sharey=True, squeeze=False)
    for axis, (title, trace) in zip(axes[0], traces.items()):
        part = trace.lds
        part = part.where(instruction=int(part.column("instruction")[0]), block=0, turn=0)
        words = part.column("offset")[part.column("thread") < 32] // 4
        axis.bar(range(BANKS), torch.bincount(words % BANKS, minlength=BANKS).tolist(), color=BLUE)
        axis.set(title=title, xlabel="bank", xlim=(-1, BANKS))
    axes[0][0].set_ylabel("words to serve in turn")
    return figure


@styled
def climb() -> Figure:
    """The ladder: one instruction of v0, v1 and v3, and what each step moves, against the least there is to move."""
    figure, axes = plt.subplot_mosaic([["v0", "v1", "v3"], ["bars", "bars", "bars"]], figsize=(WIDTH, 5.4))
    for step, title in (("v0", "v0: a thread a row"), ("v1", "v1: neighbours"), ("v3", "v3: 16 bytes a lane")):
        span = 64 * 4 * ladder.WIDTH if step == "v0" else 1024
        draw_lanes(axes[step], ladder.trace(step), 0, span)
        axes[step].set(title=title, xticks=[0, span // 2, span])
    axes["v0"].set_ylabel("lane")
    figures = {step: ladder.measure(step) for step in ladder.STEPS}
    bars, least = axes["bars"], figures["v0"]["least"]
    for shift, key, title, color in ((-0.2, "moved", "moved", ORANGE), (0.2, "cached", "behind a small cache", BLUE)):
        bars.barh([i + shift for i in range(5)], [f[key] / 1e6 for f in figures.values()], color=color, height=0.4,
                  label=title)
    bars.axvline(least / 1e6, color=GREEN, linestyle="--", linewidth=1.2)
    bars.text(least / 1e6, -0.62, "the least", color=GREEN, ha="center", fontsize=9.5)
    for i, f in enumerate(figures.values()):
        registers = "" if f["vgpr"] is None else f", {f['vgpr']} registers"
        bars.text(f["moved"] / 1e6 + 0.3, i - 0.1, va="center", fontsize=9.5,
                  s=f"{f['ratio']:.2f} times{registers}, {f['instructions']} instructions")
    bars.legend(loc="lower right")
    bars.set(xlim=(0, 44), yticks=range(5), yticklabels=list(figures),
             xlabel="megabytes moved, 128 rows of 512 channels")
    bars.invert_yaxis()
    return figure
