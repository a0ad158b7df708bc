"""Pictures of lesson 16: the ladder of presets; what decoding is bound by; training memory; which experts a text touched."""

import matplotlib.pyplot as plt
from matplotlib.patches import Patch
from torch import Tensor

from ..config import PRESETS, ZayaConfig
from ..scale import account, devices, memory
from .style import BLACK, BLUE, COLOR, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, styled

GB = 1e9


@styled
def ladder(context: int = 32768):
    """Left: bytes of each preset's file, of one token's share of it, and of a long text's cache. Right: tokens a second at
    most, by batch, of ZAYA1-8B on one MI300X at three contexts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4), width_ratios=(1.15, 1))
    for y, preset in enumerate(PRESETS):
        config = ZayaConfig.preset(preset)
        rows = ((2 * sum(account.parameters(config).values()), GREY), (devices.decode_bytes(config, 1, 0), ORANGE),
                (context * account.kv_bytes_per_token(config), BLUE))
        for i, (size, color) in enumerate(rows):
            left.barh(y + 0.27 * (1 - i), size / GB, color=color, height=0.25)
    left.axvline(24, color=RED, linewidth=1, linestyle="--")
    left.text(27, len(PRESETS) - 0.62, "24 GB", color=RED, fontsize=8.5)
    left.set_yticks(range(len(PRESETS)), list(PRESETS))
    left.set(xscale="log", xlabel="GB in bfloat16", xlim=(1e-4, 300))
    left.legend(handles=[Patch(color=GREY, label="the file"), Patch(color=ORANGE, label="a token reads"),
                         Patch(color=BLUE, label=f"cache of {context:,}")], loc="lower right", fontsize=8)
    bound_of_decoding(right)
    return figure


def bound_of_decoding(axis, preset: str = "zaya1-8b", device: str = "mi300x", contexts=(128, 4096, 131072)) -> None:
    """Tokens a second by batch; a dot where arithmetic takes over, if it ever does."""
    config, on = ZayaConfig.preset(preset), devices.device(device)
    batches = [2**i for i in range(14)]
    for context, color in zip(contexts, (GREEN, ORANGE, PURPLE)):
        rate = [batch / max(devices.decode_seconds(config, batch, context, on)) for batch in batches]
        axis.plot(batches, rate, color=color, label=f"context {context:,}")
        ridge = devices.ridge_batch(config, context, on)
        if ridge:
            axis.plot(ridge, ridge / max(devices.decode_seconds(config, ridge, context, on)), "o", color=BLACK, zorder=3)
            axis.annotate(f"ridge: {ridge:,}", (ridge, ridge / max(devices.decode_seconds(config, ridge, context, on))),
                          xytext=(-4, -14), textcoords="offset points", ha="right", fontsize=8.5)
    axis.set(xscale="log", yscale="log", xlabel="sequences at once", ylabel="tokens/s at most", title="one MI300X")
    axis.legend(loc="lower right", fontsize=8)


@styled
def decode_bounds(preset: str = "zaya1-8b", contexts=(128, 4096, 131072)):
    """The right panel of `ladder` for each device."""
    figure, axes = plt.subplots(1, len(devices.PEAK), figsize=(WIDTH, 2.9), sharey=True)
    for axis, name in zip(axes, devices.PEAK):
        bound_of_decoding(axis, preset, name, contexts)
        axis.set(title=name, ylabel="tokens/s at most" if axis is axes[0] else "")
    return figure


@styled
def training_memory(layouts: dict[str, memory.Layout], preset: str = "zaya1-8b", batch: int = 1, length: int = 4096,
                    recompute: bool = False):
    """Stacked bars: what one device holds in training, layout by layout, against an MI300X's 192 GB."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * len(layouts)))
    colors = {"weights": COLOR["experts"], "gradients": SKY, "optimizer": BLUE, "gathered": PURPLE, "activations": GREEN,
              "logits": GREY, "overhead": "#DDDDDD"}
    for y, (label, layout) in enumerate(reversed(layouts.items())):
        held, left = memory.training_memory(ZayaConfig.preset(preset), batch, length, recompute=recompute, layout=layout), 0.0
        for part, color in colors.items():
            axis.barh(y, held[part] / GB, left=left, color=color, height=0.65)
            left += held[part] / GB
    axis.axvline(192, color=RED, linewidth=1, linestyle="--")
    axis.set_yticks(range(len(layouts)), list(reversed(layouts)))
    axis.set(xlabel=f"GB on one device, {batch} x {length:,} tokens")
    figure.legend(handles=[Patch(color=color, label=part) for part, color in colors.items()], loc="outside upper center",
                  ncols=7, handlelength=1, columnspacing=1, fontsize=8)
    return figure


@styled
def pages(reads: Tensor, title: str = ""):
    """A map of layers against experts: how often each was read. reads: int (layers, experts)."""
    layers, experts = reads.shape
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.16 * max(layers, 6)))
    image = axis.imshow(reads, cmap="Oranges", aspect="auto", vmin=0)
    axis.set(xlabel="expert", ylabel="layer", xticks=range(experts), title=title)
    axis.set_yticks(range(0, layers, max(1, layers // 8)))
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="times read")
    return figure
