"""The picture of lesson 06: the data flow of one layer. (Its loss curve is `plots.picture`.)"""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..config import ZayaConfig
from .style import BLACK, COLOR, WIDTH, styled


@styled
def one_layer(config: ZayaConfig | None = None) -> Figure:
    """The data flow of one layer, from stream to stream: norm, attention, merge; norm, router and experts, merge. Every
    arrow has its width in numbers per token.

    config: default zaya1-8b.
    """
    config = config or ZayaConfig.preset("zaya1-8b")
    width, packed = config.hidden_size, config.query_size + config.kv_size
    half, route = config.kv_size // 2, config.router_hidden_size
    figure, axis = plt.subplots(figsize=(WIDTH, 7.2))
    axis.set(xlim=(0, 10), ylim=(0.1, 13.4))
    axis.set_axis_off()

    def box(x: float, y: float, text: str, part: str, w: float = 2.3, h: float = 0.72):
        axis.add_patch(plt.Rectangle((x - w / 2, y - h / 2), w, h, facecolor=COLOR[part], alpha=0.3, linewidth=0))
        axis.add_patch(plt.Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor=COLOR[part], linewidth=1.4))
        axis.text(x, y, text, ha="center", va="center", fontsize=9.5)

    def arrow(*points, label: str = "", at: tuple[float, float] | None = None, color: str = BLACK, ha: str = "left"):
        for start, end in zip(points[:-2], points[1:-1]):
            axis.plot(*zip(start, end), color=color, linewidth=1.3, solid_capstyle="round")
        axis.annotate("", points[-1], points[-2], arrowprops=dict(arrowstyle="-|>", color=color, linewidth=1.3,
                                                                  shrinkA=0, shrinkB=0))
        if label:
            axis.text(*at, label, fontsize=9, ha=ha, va="center", color=BLACK)

    stream = 1.1
    arrow((stream, 0.3), (stream, 5.94), label=f"residual stream\n{width} numbers, float32", at=(0.1, -0.02 + 0.02))
    arrow((stream, 6.66), (stream, 12.24))
    arrow((stream, 12.96), (stream, 13.4))
    box(stream, 6.3, "merge: scale\nboth, add", "residual", w=1.9)
    box(stream, 12.6, "merge: scale\nboth, add", "residual", w=1.9)

    # CCA
    box(5.6, 0.9, "RMSNorm", "residual")
    arrow((stream, 0.9), (4.45, 0.9))
    box(5.6, 2.0, "down: one packed matrix", "attention", w=4.4)
    arrow((5.6, 1.26), (5.6, 1.64), label=f"{width}", at=(5.75, 1.45))
    box(3.5, 3.2, "two causal convolutions", "attention", w=2.9)
    box(6.35, 3.2, "q-k mean", "attention", w=1.7)
    box(8.75, 3.2, "value shift", "attention", w=1.9)
    arrow((4.2, 2.36), (4.2, 2.84), label=f"q, k  {config.query_size} + {config.kv_size}", at=(4.08, 2.6), ha="right")
    arrow((6.35, 2.36), (6.35, 2.84), label=f"{packed}", at=(6.5, 2.6))
    arrow((7.8, 2.0), (8.4, 2.0), (8.4, 2.84), label=f"v  {half} now\n+ {half} late", at=(8.52, 2.3))
    box(4.7, 4.35, "add, norm, temperature, half RoPE", "attention", w=4.4)
    arrow((3.5, 3.56), (3.5, 3.99))
    arrow((6.35, 3.56), (6.35, 3.99))
    box(5.6, 5.35, f"attention: {config.num_attention_heads} query heads, {config.num_key_value_heads} KV heads",
        "attention", w=4.8)
    arrow((4.7, 4.71), (4.7, 4.99))
    arrow((8.75, 3.56), (8.75, 5.35), (8.0, 5.35), label=f"{config.kv_size}", at=(8.88, 4.4))
    box(5.6, 6.3, "up", "attention")
    arrow((5.6, 5.71), (5.6, 5.94), label=f"{config.query_size}", at=(5.75, 5.82))
    arrow((4.45, 6.3), (2.05, 6.3), label=f"{width}", at=(3.25, 6.47), ha="center")

    # MoE
    box(5.6, 7.4, "RMSNorm", "residual")
    arrow((stream, 7.4), (4.45, 7.4))
    box(7.2, 8.6, f"down to {route}, add the router\nstate of the layer below", "router", w=3.7, h=0.9)
    arrow((6.75, 7.4), (7.2, 7.4), (7.2, 8.15), label=f"{width}", at=(7.32, 7.75))
    box(7.2, 9.75, "norm, MLP, softmax", "router", w=3.7)
    arrow((7.2, 9.05), (7.2, 9.39), label=f"{route}", at=(7.35, 9.22))
    arrow((9.05, 8.6), (9.5, 8.6), (9.5, 9.2), color=COLOR["router"])
    axis.text(9.5, 9.3, "to the\nrouter\nabove", fontsize=9, ha="center", va="bottom")
    box(7.2, 10.8, "argmax(probability + bias)", "router", w=3.7)
    arrow((7.2, 10.11), (7.2, 10.44), label=f"{config.num_experts + 1} probabilities", at=(7.35, 10.28))
    arrow((5.0, 7.76), (5.0, 8.6), (3.3, 8.6), (3.3, 10.95), label=f"{width}", at=(3.4, 9.75))
    box(3.35, 11.35,
        f"one of {config.num_experts} SwiGLU experts\n{width} to 2 x {config.moe_intermediate_size} to {width}",
        "experts", w=3.4, h=0.8)
    arrow((6.4, 11.16), (6.4, 11.35), (5.05, 11.35), label="which, and how much (gate)", at=(6.55, 11.4))
    arrow((3.3, 11.75), (3.3, 12.6), (2.05, 12.6), label=f"{width}", at=(3.4, 12.2))
    return figure
