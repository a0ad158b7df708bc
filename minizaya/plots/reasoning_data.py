"""Pictures of lesson 07: trimming at three budgets, what it does to a model, and rows packed three ways."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..data import tasks, text
from ..data.chat import Chat, encode
from ..data.pack import first_fit, pack, wrapped
from ..data.tokenizer import CharTokenizer
from ..data.trim import cut
from ..studies import recorded
from ..studies.trimming import VARIANTS, fits
from .style import BLUE, EXPERTS, GREEN, GREY, ORANGE, RED, SKY, WIDTH, styled

KIND = {"prompt": SKY, "reasoning": ORANGE, "answer": GREEN, "template": GREY}
VARIANT_COLORS = dict(zip(VARIANTS, (BLUE, RED, ORANGE)))


def conversations() -> list[list[dict]]:
    """Five conversations of one to three turns about additions of 3 to 20 digits."""
    task, found = tasks.get("addition"), []
    for sizes in ((3,), (12,), (20,), (6, 8), (5, 7, 9)):
        turns = []
        for seed, digits in enumerate(sizes):
            problem = task.generate(seed, digits)
            content = f"<think>{problem.reasoning.removesuffix(tasks.CUE)}</think>{problem.answer}"
            turns += [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": content}]
        found.append(turns)
    return found


@styled
def three_budgets(budgets: tuple[int, ...] = (240, 160, 110)) -> Figure:
    """Each conversation as a bar of its tokens, coloured by what they are, as a whole and at three budgets."""
    tokenizer = CharTokenizer(text.ALPHABET)
    chats = [encode(conversation, tokenizer) for conversation in conversations()]
    figure, axes = plt.subplots(len(budgets) + 1, 1, figsize=(WIDTH, 6.2), sharex=True)
    for axis, budget in zip(axes, (None, *budgets)):
        for y, chat in enumerate(chats):
            trimmed = None if budget is None else cut(chat, budget)
            kinds = kinds_kept(chat, chat.tokens if budget is None else trimmed and trimmed.tokens)
            for kind, start, width in kinds:
                axis.barh(y, width, left=start, color=KIND[kind], height=0.75)
            if budget is not None:
                end = sum(width for *_, width in kinds)
                axis.text(end + 4, y, "dropped" if trimmed is None else trimmed.action.replace("_", " "), va="center",
                          fontsize=8.5)
        if budget:
            axis.axvline(budget, color="black", linewidth=1, linestyle="--")
        axis.set(title="as written" if budget is None else f"budget {budget}", yticks=range(len(chats)),
                 ylim=(len(chats) - 0.4, -0.6))
        axis.set_yticklabels([f"{len(c.blocks)} turn{'s' * (len(c.blocks) > 1)}" for c in chats])
    axes[-1].set_xlabel("tokens")
    figure.legend(handles=[Patch(color=color, label=kind) for kind, color in KIND.items()], loc="outside upper center",
                  ncols=4)
    return figure


def kinds_kept(chat: Chat, kept: Sequence[int] | None) -> list[tuple[str, int, int]]:
    """(kind, start, width) of each span that is left of `chat` in the tokens `kept`; [] if it was dropped.

    Only reasoning and its tags are ever removed, so the spans are found from the outside in: a removed token shows as a
    shorter reasoning span.
    """
    if kept is None:
        return []
    removed, found, at = len(chat.tokens) - len(kept), [], 0
    blocks = chat.blocks
    gone: dict[int, int] = {}
    if removed and removed <= blocks[-1].end - blocks[-1].start:
        gone[blocks[-1].start] = removed
    elif removed:
        for block in blocks[:-1]:
            gone[block.start] = block.end - block.start + 2
        gone[blocks[-1].start] = removed - sum(gone.values())
    for span in chat.spans:
        width = span.end - span.start
        if span.kind == "reasoning":
            width -= min(width, gone.get(span.start, 0))
        elif span.kind == "template" and span.trained and width == 1:  # a think tag goes with its block
            inside = next((b for b in blocks[:-1] if span.start in (b.start - 1, b.end)), None)
            width = 0 if inside and gone.get(inside.start) else width
        if width:
            found.append((span.kind, at, width))
            at += width
    return found


@styled
def after_training(record: dict | None = None) -> Figure:
    """Accuracy by the number of operations, before and after the context extension; one line a variant, mean of seeds.

    record: of the study "trimming" (None: the one in the repository). Thin lines are single seeds.
    """
    record = record or recorded("trimming")
    longest = record["setting"]["longest"]
    numbers = range(1, longest + 1)
    border = sum(map(fits, numbers)) + 0.5
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharey=True)
    for axis, when in zip(axes, ("before", "after")):
        for variant in VARIANTS:
            curves = [run[when] for run in record["runs"] if run["variant"] == variant]
            for curve in curves:
                axis.plot(numbers, curve, color=VARIANT_COLORS[variant], linewidth=0.7, alpha=0.5)
            axis.plot(numbers, [sum(points) / len(points) for points in zip(*curves)], color=VARIANT_COLORS[variant],
                      marker="o", markersize=3, label=variant)
        axis.axvline(border, color="black", linewidth=1, linestyle="--")
        axis.set(title=f"{when} the extension", xlabel="operations in the chain", xticks=range(2, longest + 1, 2),
                 ylim=(-0.03, 1.03))
    axes[0].set_ylabel("held-out chains solved")
    axes[0].text(border + 0.2, 0.95, "too long\nfor a row", fontsize=8.5, va="top")
    axes[0].legend(loc="center right")
    return figure


@styled
def rows_three_ways(lengths: list[int], capacity: int) -> Figure:
    """The same documents laid into rows in three ways: joined and cut (hatched), first fit, and best fit; one colour a
    document, grey: padding."""
    ways = {"joined, then cut": wrapped(lengths, capacity)}
    for name, bins in (("first fit", first_fit(lengths, capacity)), ("best fit, decreasing", pack(lengths, capacity))):
        ways[name] = [[(i, 0, lengths[i]) for i in members] for members in bins]
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.9), sharey=True)
    for axis, (name, rows) in zip(axes, ways.items()):
        for y, pieces in enumerate(rows):
            left = 0
            for i, start, stop in pieces:
                whole = stop - start == lengths[i]
                axis.barh(y, stop - start, left=left, color=EXPERTS[i % 7], edgecolor="white",
                          hatch=None if whole else "////", height=0.85)
                left += stop - start
            axis.barh(y, capacity - left, left=left, color=GREY, alpha=0.35, height=0.85)
        axis.set(title=f"{name}\n{len(rows)} rows, {sum(lengths) / len(rows) / capacity:.0%} full", xlabel="tokens",
                 xlim=(0, capacity))
        axis.title.set_fontsize(9)
    axes[0].set(ylabel="row", yticks=range(0, max(map(len, ways.values())), 4),
                ylim=(max(map(len, ways.values())) - 0.4, -0.6))
    return figure
