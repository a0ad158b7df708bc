"""The picture of lesson 09: what top-p and min-p keep, where the model is sure and where it is not."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from ..hub import zoo
from ..infer.sample import min_p_mask, probabilities, top_p_mask
from .style import GREY, ORANGE, PURPLE, WIDTH, styled

TEXTS = {"sure: inside a calculation": "47+85?a0752b1", "unsure: a search begins": "N3478=29?0"}


@styled
def two_filters(top_p: float = 0.99, min_p: float = 0.1, shown: int = 24) -> Figure:
    """The shipped reasoner's probabilities of the next token, ranked, at two positions;
    bars coloured by who keeps them."""
    model, tokenizer = zoo.load("nano-reasoner")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.5), sharey=True)
    for axis, (title, text) in zip(axes, TEXTS.items()):
        with torch.no_grad():
            probs = probabilities(model(torch.tensor([tokenizer.encode(text)])).logits[:, -1], 1.0)
        kept = top_p_mask(probs, top_p)[0], min_p_mask(probs, min_p)[0]
        ranked, order = probs[0].sort(descending=True)
        for rank, token in enumerate(order[:shown].tolist()):
            axis.bar(rank, float(ranked[rank]), color=GREY, alpha=0.4, width=0.85)
            for width, shift, mask, color in ((0.4, -0.2, kept[0], ORANGE), (0.4, 0.2, kept[1], PURPLE)):
                if mask[token]:
                    axis.bar(rank + shift, float(ranked[rank]), color=color, width=width)
        axis.axhline(min_p * float(ranked[0]), color=PURPLE, linewidth=1, linestyle="--")
        axis.set(title=f"{title}\n{text}", yscale="log", ylim=(1e-8, 1.5), xticks=range(shown),
                 xlabel="next token, most probable first")
        axis.set_xticklabels([tokenizer.decode([token]).replace("\n", "⏎") for token in order[:shown].tolist()],
                             fontsize=7)
        axis.title.set_fontsize(9.5)
        axis.text(0.98, 0.95, "top-p keeps {}, min-p {}".format(*(int(mask.sum()) for mask in kept)), ha="right",
                  va="top", transform=axis.transAxes, fontsize=8.5)
    axes[0].set_ylabel("probability")
    for color, label in ((ORANGE, f"top-p {top_p} keeps"), (PURPLE, f"min-p {min_p} keeps"), (GREY, "neither")):
        axes[1].bar(0, 0, color=color, label=label)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
