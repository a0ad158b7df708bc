"""Pictures of lesson 02: one attention map at each step of CCA, what attention costs, and the ablation.

Shapes: b batch, t time, h query heads, j KV heads, d channels of a head.
"""

import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import repeat
from matplotlib.figure import Figure
from torch import Tensor

from ..arch.attention import causal_mask, locate, rope
from ..arch.cca import CCA, convolve, qk_mean, qk_norm
from ..arch.model import Zaya
from ..plan import attention_cost
from ..studies import cca_ablation, phone_book
from .style import BLUE, COLOR, GREEN, ORANGE, WIDTH, styled

SENTENCE = "Ann 7 Bob 2 Eve 9 Dan 4 Bob"


# ---- one attention map -----------------------------------------------------------------------------------------------


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) over the keys up to the query's own: q (1, t, h, d), k (1, t, j, d) -> (h, t, t)."""
    k = repeat(k, "b s j d -> b s (j g) d", g=q.shape[2] // k.shape[2])
    scores = torch.einsum("bthd,bshd->bhts", q, k)[0] * q.shape[-1] ** -0.5
    token = torch.arange(q.shape[1])
    return scores.masked_fill(~causal_mask(token, token), float("-inf")).softmax(-1)


@torch.no_grad()
def steps(layer: CCA, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Queries and keys after each step of the layer that changes them: x (1, t, E) -> step -> (q, k)."""
    cfg, place = layer.config, locate(layer.config, 1, x.shape[1], 0, x.dtype, x.device)
    z = layer.down_proj(x)[..., : cfg.query_size + cfg.kv_size]
    one = convolve(F.pad(z, (0, 0, cfg.cca_time0 - 1, 0)), layer.conv_depthwise, None)
    two = convolve(F.pad(z, (0, 0, cfg.conv_lag, 0)), layer.conv_depthwise, layer.conv_grouped)
    done = {"project": layer.heads(z), "depthwise convolution": layer.heads(one),
            "grouped convolution": layer.heads(two)}
    mean_q, mean_k = qk_mean(*done["project"])
    q, k = done["grouped convolution"]
    done["q-k mean"] = q + mean_q, k + mean_k
    done["norm and temperature"] = qk_norm(*done["q-k mean"], layer.temperature)
    done["rotation"] = tuple(rope(part, place.angles[layer.sliding]) for part in done["norm and temperature"])
    return done


class Walk:
    """Follows one head through the steps of a layer: the head that reads token `answer` best in the end.

    x: (1, t, E), what the layer reads; words: t of them, the last one asks. `maps`: step -> its attention map (t, t).
    """

    def __init__(self, layer: CCA, x: Tensor, words: list[str], answer: int):
        self.words, self.maps = words, {}
        # what a layer must know about places: masks, and the angles of the rotation at the end
        self.place = locate(layer.config, 1, len(words), 0, x.dtype, x.device)
        self.head = int(attention_map(*layer.project(x, self.place)[:2])[:, -1, answer].argmax())

    def look(self, name: str, q: Tensor, k: Tensor) -> None:
        """Notes the head's map of q (1, t, h, d) and k (1, t, j, d), and prints whom the last word looks at most."""
        self.maps[name] = attention_map(q, k)[self.head]
        seen = sorted(enumerate(self.maps[name][-1].tolist()), key=lambda item: -item[1])[:3]
        most = ", ".join(f"{self.words[i]} ({i}) {share:.2f}" for i, share in seen)
        print(f"{name:22} the last {self.words[-1]} looks at {most}")


@torch.no_grad()
def layer_input(model: Zaya, tokens: Tensor) -> Tensor:
    """What the first attention layer of a `Zaya` reads: tokens (b, t) -> (b, t, E)."""
    return model.layers[0].attention_norm((model.embed(tokens) + model.embed_bias) * model.embed_scale)


@styled
def map_at_each_step(maps: dict[str, Tensor] | None = None, words: list[str] | None = None) -> Figure:
    """One head's map after each step, all on one colour scale; the last row is the question.

    maps: step -> (t, t). Default: the phone book, learned here (seconds), and the head that reads the answer best.
    """
    if maps is None:
        model, tokens = phone_book.learn(seed=0), phone_book.encode(SENTENCE)
        done = {name: attention_map(q, k) for name, (q, k) in
                steps(model.layers[0].attention, layer_input(model, tokens)).items()}
        answer = SENTENCE.split().index(SENTENCE.split()[-1]) + 1
        head = int(done["rotation"][:, -1, answer].argmax())
        maps, words = {name: weights[head] for name, weights in done.items()}, SENTENCE.split()
    rows = math.ceil(len(maps) / 3)
    figure, axes = plt.subplots(rows, 3, figsize=(WIDTH, 2.5 * rows), sharex=True, sharey=True, squeeze=False)
    ticks, last = range(len(words)), len(words) - 1
    for number, (axis, (name, weights)) in enumerate(zip(axes.flat, maps.items()), start=1):
        hidden = torch.ones_like(weights).triu(1).bool()
        image = axis.imshow(weights.masked_fill(hidden, float("nan")), cmap="Blues", vmin=0, vmax=1)
        axis.set_title(f"{number}. {name}", fontsize=10)
        axis.set(xticks=ticks, yticks=ticks, xticklabels=words, yticklabels=words)
        axis.tick_params(labelsize=8, length=0)
        axis.tick_params(axis="x", rotation=90)
        axis.spines[:].set_visible(False)
        axis.add_patch(plt.Rectangle((-0.5, last - 0.5), len(words), 1, fill=False, edgecolor=ORANGE, linewidth=1.5))
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.6)
    figure.supylabel("query: who asks", fontsize=10)
    figure.supxlabel("key: who is asked", fontsize=10)
    return figure


# ---- what it costs ---------------------------------------------------------------------------------------------------

KINDS = {  # at ZAYA1's width: 16 heads of 128 for those that do not compress queries
    "full (MHA)": (lambda S: attention_cost.mha(2048, S), COLOR["baseline"], "-"),
    "GQA, 2 KV heads": (lambda S: attention_cost.gqa(2048, S, 8), ORANGE, "--"),
    "MLA": (lambda S: attention_cost.mla(2048, S, 2, 4, 16, 64), GREEN, "-."),
    "CCA of ZAYA1": (lambda S: attention_cost.ccgqa(2048, S, 2, 8, attention_cost.conv_weights(1280, 10)), BLUE, "-"),
}


@styled
def costs(layers: int = 40, longest: int = 131072) -> Figure:
    """Cache in bytes, and FLOPs of prefill and decoding as shares of MHA's, against the length of the context."""
    lengths = [2**i for i in range(9, longest.bit_length())]
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.9))
    for name, (cost, color, dashes) in KINDS.items():
        found, base = [cost(S) for S in lengths], [KINDS["full (MHA)"][0](S) for S in lengths]
        # the caches of CCA and GQA are the same: dashes over a solid line show both
        style = dict(color=color, linestyle=dashes, label=name, zorder=2 if dashes == "-" else 3)
        axes[0].plot(lengths, [2 * layers * c.kv / 2**30 for c in found], **style)
        axes[1].plot(lengths, [c.forward / b.forward for c, b in zip(found, base)], **style)
        axes[2].plot(lengths, [c.decode / b.decode for c, b in zip(found, base)], **style)
    axes[0].set(title="KV cache, GiB (CCA = GQA)", yscale="log")
    axes[1].set(title="prefill FLOPs / MHA", ylim=(0, 1.1))
    axes[2].set(title="decode FLOPs / MHA", ylim=(0, None))
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set(xlabel="tokens of context", xticks=[2**9, 2**13, 2**17], xticklabels=["512", "8k", "131k"])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, handlelength=2,
                  columnspacing=1.0)
    return figure


# ---- the ablation ----------------------------------------------------------------------------------------------------


@styled
def ablation(runs: list[dict]) -> Figure:
    """How much each added part changes the held-out loss: ours, a dot a seed, with mean and standard error; the
    paper's.

    runs: those of the record of `studies.cca_ablation`; a panel for each size of the first weights.
    """
    names = list(cca_ablation.VARIANTS)
    pairs = list(zip(names, names[1:]))[::-1]
    sizes = sorted({run["initial"] for run in runs})
    figure, axes = plt.subplots(1, len(sizes) + 1, figsize=(WIDTH, 2.9), sharey=True)
    ours, theirs = (-0.55, 0.4), (-0.02, 0.005)
    finer = (ours[1] - ours[0]) / (theirs[1] - theirs[0])
    for axis, size in zip(axes, sizes):
        mine = [run for run in runs if run["initial"] == size]
        for y, (first, second) in enumerate(pairs):
            each = cca_ablation.differences(mine, first, second)
            mean, error = cca_ablation.paired(mine, first, second)
            axis.plot(each, [y] * len(each), "o", color=COLOR["attention"], alpha=0.45, markersize=5)
            axis.errorbar(mean, y - 0.22, xerr=error, fmt="D", color=COLOR["ours"], markersize=5, capsize=3)
        axis.set(title=f"nano,\nfirst weights {size}", xlim=ours, xticks=(-0.4, 0, 0.4))
    changes = [cca_ablation.PAPER[second] - cca_ablation.PAPER[first] for first, second in pairs]
    axes[-1].barh(range(len(pairs)), changes, color=COLOR["baseline"], height=0.5)
    axes[-1].set(title=f"paper, 1.5B:\nthe axis {finer:.0f} times finer", xlim=theirs)
    for axis in axes:
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel="change of loss")
    axes[0].set_yticks(range(len(pairs)), [second for _, second in pairs])
    return figure
