"""Pictures of lesson 01: where parameters sit, where tokens go, and what routing buys."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ..config import ZayaConfig
from ..plan import account
from .style import COLOR, EXPERTS, WIDTH, styled

# the account's fine parts, gathered into the five that a lesson names
PARTS = {
    "experts": ("experts",),
    "attention": ("attention_projections", "attention_convolutions", "attention_scores", "key_temperature"),
    "router": ("router",),
    "embedding": ("embedding", "embedding_scale", "head"),
    "residual": ("norms", "residual_scaling"),
}
LABEL = {"embedding": "embedding and head", "residual": "norms, residual scaling"}


def gather(parts: dict[str, float]) -> dict[str, float]:
    """The figures of `plan.account` summed into the five parts of PARTS."""
    return {name: sum(parts.get(fine, 0) for fine in group) for name, group in PARTS.items()}


@styled
def where_parameters_sit(config: ZayaConfig | None = None, context: int = 4096) -> Figure:
    """What the model stores, what one token uses of it, and the arithmetic of that token.

    config: default zaya1-8b. context: tokens that the new token attends to, itself included.
    """
    config = config or ZayaConfig.preset("zaya1-8b")
    stored = gather(account.parameters(config))
    used = stored | {"experts": stored["experts"] / config.num_experts}
    work = gather(account.flops(config, 1, context - 1))

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 3.6), height_ratios=(2, 1))
    rows = [("stored", stored, top, 1, 1e9, "B"), ("used by\none token", used, top, 0, 1e9, "B"),
            ("computed for\none token", work, bottom, 0, 1e9, " GFLOP")]
    for _, parts, axis, y, unit, suffix in rows:
        left, total = 0.0, sum(parts.values())
        for part, count in parts.items():
            axis.barh(y, count / unit, left=left / unit, color=COLOR[part], height=0.62)
            left += count
        axis.text(left / unit, y, f"  {total / unit:.3g}{suffix}", va="center", weight="bold")
    one = stored["experts"] / config.num_experts / 1e9
    for expert in range(1, config.num_experts):                  # white cuts: each expert of all layers is one slice
        top.plot([expert * one] * 2, [0.69, 1.31], color="white", linewidth=1)
    for edge in (0, one):                                        # the slice that the token below uses
        top.plot([edge, edge], [0.31, 0.69], color=COLOR["experts"], linewidth=1)
    top.text(0.33, 0.2, "one slice: one expert of every layer.\nA token uses one slice and everything else.",
             transform=top.transAxes, va="center", fontsize=9.5)
    top.set_yticks([1, 0], [rows[0][0], rows[1][0]])
    bottom.set_yticks([0], [rows[2][0]])
    top.set(xlabel="billions of parameters", xlim=(0, sum(stored.values()) / 1e9 * 1.13))
    bottom.set(xlabel=f"GFLOP: one more token after {context - 1:,} cached ones",
               xlim=(0, sum(work.values()) / 1e9 * 1.22))
    figure.legend(handles=[Patch(color=COLOR[p], label=LABEL.get(p, p)) for p in PARTS], loc="outside upper center",
                  ncols=5, handlelength=1, columnspacing=1.2)
    return figure


@styled
def text_by_expert(text: str, routes: Tensor, num_experts: int, columns: int = 56) -> Figure:
    """Each character on the colour of the expert it visited; the skip route is white.

    text: n characters. routes: int (n,).
    """
    lines = (len(text) - 1) // columns + 1
    figure, axis = plt.subplots(figsize=(WIDTH, 0.5 + 0.27 * lines))
    for i, (char, route) in enumerate(zip(text, routes.tolist(), strict=True)):
        x, y = i % columns, -(i // columns)
        color = EXPERTS[route % len(EXPERTS)] if route < num_experts else "white"
        axis.add_patch(plt.Rectangle((x, y), 1, 1, color=color, alpha=0.55, linewidth=0))
        axis.text(x + 0.5, y + 0.45, char if char != "\n" else "⏎", ha="center", va="center", family="monospace")
    axis.set(xlim=(0, columns), ylim=(1 - lines, 1))
    axis.set_axis_off()
    figure.legend(handles=[Patch(color=EXPERTS[e % len(EXPERTS)], alpha=0.55, label=f"expert {e}")
                           for e in range(num_experts)], loc="outside upper center", ncols=min(num_experts, 8))
    return figure


@styled
def errors_by_model(errors: dict[str, list[float]], colors: dict[str, str], xlabel: str, title: str = "") -> Figure:
    """Errors: one row a model, one dot a seed, a bar to the mean.

    errors: name -> one value a seed; colors: name -> colour.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 0.9 + 0.36 * len(errors)))
    for y, (name, values) in enumerate(reversed(errors.items())):
        axis.barh(y, sum(values) / len(values), color=colors[name], alpha=0.35, height=0.6)
        axis.plot(values, [y] * len(values), "o", color=colors[name], markersize=6)
    axis.set_yticks(range(len(errors)), list(reversed(errors)))
    axis.set(xlabel=xlabel, xlim=(0, None), title=title)
    return figure


@styled
def who_goes_where(share: Tensor, title: str = "") -> Figure:
    """A map of kinds of token against experts, the darker the larger the share of the kind; each row sums to one.

    share: float (kinds, experts).
    """
    kinds, experts = share.shape
    figure, axis = plt.subplots(figsize=(0.55 * WIDTH, 0.5 * WIDTH))
    image = axis.imshow(share, cmap="Oranges", vmin=0, vmax=1)
    axis.set(xlabel="expert", ylabel="kind of token", xticks=range(experts), yticks=range(kinds), title=title)
    axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axis, label="share of the kind's tokens")
    return figure
