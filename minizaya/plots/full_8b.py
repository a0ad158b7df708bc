"""Pictures of lesson 16 and of `plan --figures`: parameters, what decoding is bound by,
training memory, pages touched."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ..config import PRESETS, ZayaConfig
from ..plan import account, devices
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, styled

GB = 1e9


@styled
def ladder(context: int = 32768) -> Figure:
    """Left: bytes of each preset's file, of one token's share of it, and of a long text's cache. Right: tokens a second
    at most, by batch, of ZAYA1-8B on one MI300X at three contexts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4), width_ratios=(1.15, 1))
    for y, preset in enumerate(PRESETS):
        config = ZayaConfig.preset(preset)
        rows = ((2 * sum(account.parameters(config).values()), GREY), (devices.decode_bytes(config, 1, 0), ORANGE),
                (context * account.kv_bytes_per_token(config), BLUE))
        for i, (size, color) in enumerate(rows):
            left.barh(y + 0.27 * (1 - i), size / GB, color=color, height=0.25)
    left.axvline(24, ymin=0.24, color=RED, linewidth=1, linestyle="--")
    left.text(27, len(PRESETS) - 0.62, "24 GB", color=RED, fontsize=8.5)
    left.set_yticks(range(len(PRESETS)), list(PRESETS))
    left.set(xscale="log", xlabel="GB in bfloat16", xlim=(1e-4, 300))
    left.legend(handles=[Patch(color=GREY, label="the file"), Patch(color=ORANGE, label="a token reads"),
                         Patch(color=BLUE, label=f"cache of {context:,}")], loc="lower right", fontsize=8)
    bound_of_decoding(right)
    right.set(title="one MI300X", ylim=(60, None))   # room for the legend
    right.legend(loc="lower right", fontsize=8)
    return figure


@styled
def parameters(preset: str = "zaya1-8b") -> Figure:
    """One bar a part: what is stored, and in full colour what one token uses of it."""
    config = ZayaConfig.preset(preset)
    parts = {name: count for name, count in account.parameters(config).items() if count}
    figure, axis = plt.subplots(figsize=(WIDTH, 1.1 + 0.3 * len(parts)))
    for y, (name, count) in enumerate(reversed(parts.items())):
        used = count / config.num_experts if name == "experts" else count
        axis.barh(y, count, color=ORANGE, alpha=0.3, height=0.7)
        axis.barh(y, used, color=ORANGE, height=0.7)
        axis.text(count, y, f"  {count:,} ({count / sum(parts.values()):.1%})", va="center", fontsize=9)
    axis.set_yticks(range(len(parts)), [name.replace("_", " ") for name in reversed(parts)])
    axis.set(xlabel="parameters", xlim=(0, 1.5 * max(parts.values())),
             title=f"{preset}: {sum(parts.values()):,}, of which a token uses {account.active_parameters(config):,}")
    figure.legend(handles=[Patch(color=ORANGE, alpha=0.3, label="stored"),
                           Patch(color=ORANGE, label="used by one token")],
                  loc="outside upper center", ncols=2, fontsize=8.5)
    return figure


def bound_of_decoding(axis: Axes, preset: str = "zaya1-8b", device: str = "mi300x",
                      contexts: tuple[int, ...] = (128, 4096, 131072), dtype: str = "bfloat16") -> None:
    """Tokens a second by batch; a dot at the ridge, where arithmetic takes over, if it ever does.
    contexts: up to three.

    Faint where weights and caches need more than the device's memory.
    """
    config, on = ZayaConfig.preset(preset), devices.device(device)
    batches = [2**i for i in range(14)]

    def rate(batch: int, context: int) -> float:
        return batch / max(devices.decode_seconds(config, batch, context, on, dtype))

    def fits(batch: int, context: int) -> bool:
        cache = context * account.kv_bytes_per_token(config, dtype) + account.state_bytes_per_sequence(config, dtype)
        return account.bytes_of(dtype) * sum(account.parameters(config).values()) + batch * cache <= on.memory

    for context, color, line in zip(contexts, (GREEN, ORANGE, PURPLE), ("-", "--", "-.")):
        axis.plot(batches, [rate(batch, context) for batch in batches], line, color=color, alpha=0.35)
        held = [batch for batch in batches if fits(batch, context)]
        axis.plot(held, [rate(batch, context) for batch in held], line, color=color, label=f"context {context:,}",
                  marker="." if len(held) == 1 else None)
        ridge = devices.ridge_batch(config, context, on, dtype)
        if ridge and ridge <= batches[-1]:
            above = context == min(contexts)    # two ridges may lie side by side
            axis.plot(ridge, rate(ridge, context), "o", color=BLACK, zorder=3)
            axis.annotate(f"ridge: {ridge:,}", (ridge, rate(ridge, context)), xytext=(-4, 5) if above else (4, -13),
                          textcoords="offset points", ha="right" if above else "left", fontsize=8.5)
    axis.set(xscale="log", yscale="log", xlabel="sequences at once", ylabel="tokens/s at most")


@styled
def decode_bounds(preset: str = "zaya1-8b", names: tuple[str, ...] = tuple(devices.PEAK),
                  contexts: tuple[int, ...] = (128, 4096, 131072), dtype: str = "bfloat16") -> Figure:
    """Tokens a second at most, by batch, at three contexts, a panel a device; a dot where arithmetic takes over."""
    figure, axes = plt.subplots(1, len(names), figsize=(WIDTH, 3.1), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        bound_of_decoding(axis, preset, name, contexts, dtype)
        axis.set(title=f"{preset} on one {name}" if len(names) == 1 else name)
        axis.label_outer()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(contexts),
                  fontsize=8.5)
    return figure


@styled
def training_memory(held: dict[str, dict[str, int]], limit: float = devices.PEAK["mi300x"].memory,
                    title: str = "") -> Figure:
    """Stacked bars: what one device holds in training, against its memory.

    held: label -> `memory.training_memory`. limit: bytes of the device's memory.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 1.5 + 0.4 * len(held)))
    colors = {"weights": ORANGE, "gradients": SKY, "optimizer": BLUE, "gathered": PURPLE, "activations": GREEN,
              "logits": GREY, "overhead": "#DDDDDD"}
    for y, parts in enumerate(reversed(held.values())):
        left = 0.0
        for part, color in colors.items():
            axis.barh(y, parts[part] / GB, left=left, color=color, height=0.65, edgecolor="white", linewidth=0.5)
            left += parts[part] / GB
        axis.text(left, y, f" {left:,.3g}", va="center", fontsize=9)
    longest = max(parts["sum"] for parts in held.values())
    if 4 * longest > limit:
        axis.axvline(limit / GB, color=RED, linewidth=1.2, linestyle="--")
        axis.text(limit / GB, len(held) - 0.4, f" {limit / GB:.0f} GB", color=RED, fontsize=8.5)
        longest = max(longest, limit)
    axis.set_yticks(range(len(held)), list(reversed(held)))
    axis.set(xlabel=f"GB on one device, which has {limit / GB:.0f}", xlim=(0, 1.12 * longest / GB),
             ylim=(-0.5, len(held) - 0.05), title=title)
    figure.legend(handles=[Patch(color=color, label=part) for part, color in colors.items()],
                  loc="outside upper center", ncols=7, handlelength=1, columnspacing=1, fontsize=8.5)
    return figure


def of_plan(figures: dict) -> dict:
    """File name, without ".png" -> Figure: the pictures of `plan.plan` with a device."""
    preset, context, held, device = (figures[name] for name in ("preset", "context", "memory", "device"))
    layout, training = figures["layout"], held["training"]
    where = (f"dp {layout['dp']}, ep {layout['ep']}, cp {layout['cp']}: {held['batch']} x {context:,} tokens, "
             f"{held['optimizer']}")
    return {
        "parameters": parameters(preset),
        "memory": training_memory({"all kept": training["kept"], "recomputed": training["recomputed"]},
                                  device["memory"], where),
        "decoding": decode_bounds(preset, (device["name"],), sorted({min(128, context), context, 8 * context}),
                                  figures["dtype"]),
    }


@styled
def pages(reads: Tensor, title: str = "") -> Figure:
    """A map of layers against experts: how often each was read.

    reads: int (layers, experts).
    """
    layers, experts = reads.shape
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.16 * max(layers, 6)))
    image = axis.imshow(reads, cmap="Oranges", aspect="auto", vmin=0)
    axis.set(xlabel="expert", ylabel="layer", xticks=range(experts), title=title)
    axis.set_yticks(range(0, layers, max(1, layers // 8)))
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="times read")
    for layer, row in enumerate(reads.tolist() if layers <= 6 else ()):
        for expert, count in enumerate(row):
            axis.text(expert, layer, count, ha="center", va="center", fontsize=8.5,
                      color="white" if count > 0.6 * reads.max() else BLACK)
    return figure
