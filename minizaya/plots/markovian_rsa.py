"""Pictures of lesson 10: the rounds as a movie, what they cost, and what they buy."""

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from ..config import ZayaConfig
from ..data.tasks import END, Problem
from ..data.tasks.sheet import parts_of
from ..infer.rsa import RSAConfig, stream_of, subsets
from ..plan.account import kv_bytes_per_token
from ..studies import recorded
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, styled

METHODS = {"single": GREY, "greedy": BLACK, "majority": SKY, "by_parts": GREEN, "full_rsa": ORANGE,
           "delethink": PURPLE, "markovian_rsa": BLUE}
NAMES = {"majority": "vote", "by_parts": "vote by parts"}   # the others say their own


@styled
def movie(texts: list[list[str]], right: list[list[bool]], read: list[list[list[int]]], tau: int,
          shown: int = 6) -> Figure:
    """The population round by round: a row a trace, its tail shaded, and lines from each tail to who read it. A tick
    stands behind a right answer, a cross behind a wrong one, dots behind a trace that was cut off.

    texts: texts[t][n], trace n of round t. right: is its answer right? read: read[t][n], the traces of round t that
    trace n of round t + 1 read. shown: traces drawn.
    """
    rounds = len(texts)
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * shown * 1.3 + 0.8))
    longest = max(len(text) for own in texts for text in own)
    gap = max(12, longest // 5)
    for t, own in enumerate(texts):
        left = t * (longest + gap)
        for n, text in enumerate(own[:shown]):
            head = max(0, len(text) - tau)
            axis.barh(n, head, left=left, height=0.6, color=SKY, alpha=0.35)
            axis.barh(n, len(text) - head, left=left + head, height=0.6, color=ORANGE, alpha=0.8)
            mark, color = (("✓", GREEN) if right[t][n] else ("✗", RED) if text.endswith(END) else ("…", GREY))
            axis.text(left + longest + 1, n, mark, color=color, va="center", fontsize=10)
            if t:
                for source in read[t - 1][n]:
                    if source < shown:
                        axis.plot([left - gap + 5, left - 1], [source, n], color=GREY, linewidth=0.7, alpha=0.7)
        solved = sum(right[t]) / len(right[t])
        axis.text(left, -0.75, f"round {t}: {solved:.0%} of {len(own)} right", fontsize=9.5)
    axis.set(ylim=(shown - 0.4, -1.1), xlim=(-1, rounds * (longest + gap)), yticks=range(shown),
             xlabel="tokens (orange: the tail that is handed on)", ylabel=f"trace ({shown} of {len(texts[0])} shown)")
    axis.set_xticks([])
    return figure


@styled
def sheets(texts: list[list[str]], problem: Problem) -> Figure:
    """The population of one sheet, round by round: a row a trace, a column a part; dark is what its list has right.

    texts: texts[t][n], trace n of round t. What a trace did not find, or has not written, stays light.
    """
    truth = parts_of(problem.answer)
    figure, axes = plt.subplots(1, len(texts), figsize=(WIDTH, 2.7), sharey=True, squeeze=False)
    for t, (axis, own) in enumerate(zip(axes[0], texts)):
        told = [parts_of(text) for text in own]
        found = [[trace.get(letter) == pair for letter, pair in truth.items()] for trace in told]
        axis.imshow(found, cmap=ListedColormap(["#E8EEF2", BLUE]), vmin=0, vmax=1, aspect="auto")
        whole = sum(map(all, found))
        axis.set(title=f"round {t}: {whole} of {len(own)} whole", xlabel="part", xticks=range(len(truth)))
        axis.set_xticklabels(truth if len(truth) < 13 else [a if i % 4 == 0 else "" for i, a in enumerate(truth)])
    axes[0, 0].set(ylabel="trace", yticks=range(0, len(texts[0]), 5))
    return figure


@styled
def by_length(record: dict | None = None) -> Figure:
    """The exam: accuracy against the number of parts on a sheet, a line a method; the vote falls, aggregation does not.

    The mean of the recorded seeds.
    """
    runs = [run for run in (record or recorded("aggregation"))["runs"]
            if run["study"] == "compare" and run["setting"] == "exam"]
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    levels = list(runs[0]["single"]["by_level"])
    for i, (method, color) in enumerate(METHODS.items()):
        means = [sum(run[method]["by_level"][level] for run in runs) / len(runs) for level in levels]
        places = [at + 0.04 * (i - len(METHODS) / 2) for at in range(len(levels))]      # or equal lines would hide
        axis.plot(places, means, "o-", color=color, label=NAMES.get(method, method.replace("_", " ")))
    axis.set(xlabel="parts on a sheet", ylabel="sheets solved", ylim=(-0.03, 1.05), xticks=range(len(levels)))
    axis.set_xticklabels(levels)
    axis.legend(ncols=2, loc="lower left")
    return figure


def readers(question: list[int], rsa: RSAConfig, seed: int = 0) -> list[list[list[int]]]:
    """Which traces each trace read, round by round: the draws of `markovian_rsa`,
    made again for numbers instead of tails."""
    draws, numbers = stream_of(seed, question), list(range(rsa.N))
    return [subsets(numbers, rsa, draws) for _ in range(rsa.T)]


@styled
def cost(preset: str = "zaya1-8b", beta: int = 16384, tau: int = 4096, c: int = 4, n: int = 16) -> Figure:
    """What thinking longer costs: the context and the KV cache of one chain, against those of Markovian RSA, of one
    trace and of all n at once."""
    per_token = kv_bytes_per_token(ZayaConfig.preset(preset))
    thought = [beta * k for k in range(1, 9)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    bound = beta + c * tau
    for axis, unit in ((left, 1e3), (right, 2**30 / per_token)):
        axis.plot([x / 1e3 for x in thought], [x / unit for x in thought], color=RED, label="one long chain")
        axis.plot([x / 1e3 for x in thought], [min(x, bound) / unit for x in thought], color=BLUE,
                  label="Markovian RSA, a trace")
        axis.set(xlabel="thinking in a row (thousand tokens)")
    right.plot([x / 1e3 for x in thought], [n * min(x, bound) * per_token / 2**30 for x in thought], "--", color=BLUE,
               label=f"Markovian RSA, all {n}")
    left.set(title="context", ylabel="tokens (thousands)")
    right.set(title="KV cache", ylabel="GiB, bfloat16")
    right.legend()
    return figure


@styled
def misled(found: dict[str, list[float]], what: str = "answers") -> Figure:
    """How often the answer, or the planted part of it, is right when 0 to 4 of the four tails are wrong, a curve for
    each kind of slip. A dashed line is a model that copies one tail.

    found: kind -> five shares.
    """
    figure, axis = plt.subplots(figsize=(WIDTH * 0.75, 2.9))
    for (name, shares), color, mark in zip(found.items(), (RED, ORANGE, BLUE), ("o-", "s-", "^-")):
        axis.plot(range(5), shares, mark, color=color, label=name)
    axis.plot(range(5), [1 - wrong / 4 for wrong in range(5)], "--", color=GREY, label="copying one tail")
    axis.set(xlabel="wrong tails of four", ylabel=f"{what} right", ylim=(-0.03, 1.05), xticks=range(5))
    axis.legend(loc="lower left")
    return figure


@styled
def measured(record: dict | None = None) -> Figure:
    """Accuracy by method in each setting but the exam, mean of the seeds with their standard error; the numbers are
    tokens a problem. A diamond shows what a vote over a method's last round would give."""
    record = record or recorded("aggregation")
    names = list(dict.fromkeys(run["setting"] for run in record["runs"]
                               if run["study"] == "compare" and run["setting"] != "exam"))
    figure, axes = plt.subplots(1, len(names), figsize=(WIDTH, 3.1), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        runs = [run for run in record["runs"] if run["study"] == "compare" and run["setting"] == name]
        shown = [method for method in METHODS if method in runs[0]]
        for i, method in enumerate(shown):
            values, color = [run[method]["accuracy"] for run in runs], METHODS[method]
            errors = [run[method]["stderr"] for run in runs]
            average = sum(values) / len(values)
            axis.bar(i, average, color=color, alpha=0.55, yerr=sum(e * e for e in errors) ** 0.5 / len(errors),
                     capsize=3)
            axis.plot([i] * len(values), values, "o", color=color, markersize=3.5)
            if "vote" in runs[0][method]:
                axis.plot(i, sum(run[method]["vote"] for run in runs) / len(runs), "D", color=color, mec=BLACK, mew=0.7,
                          markersize=5)
            tokens = sum(run[method]["tokens"] for run in runs) / len(runs)
            axis.text(i + 0.08, 0.03, f"{tokens:.0f}", ha="center", va="bottom", rotation=90, fontsize=8)
        axis.set(title=name, xticks=range(len(shown)), ylim=(0, 1.12))
        axis.set_xticklabels([NAMES.get(method, method.replace("_", " ")) for method in shown], rotation=60, ha="right")
    axes[0, 0].set_ylabel("held-out problems solved")
    return figure


@styled
def sweep(record: dict | None = None, setting: str = "tight") -> Figure:
    """Accuracy after each round, over one number at the most frequent value of the other: beta and tau (the shape of
    the report's Table XII), on the exam C and tau, its long sheets alone."""
    first = {"tight": "beta", "exam": "C"}[setting]
    points = {(run[first], run["tau"]): [cell["by_level"]["24"] if setting == "exam" else cell["accuracy"]
                                         for cell in run["rounds"]]
              for run in (record or recorded("aggregation"))["runs"]
              if run["study"] == "sweep" and run["setting"] == setting}
    taus, firsts = ([pair[i] for pair in points] for i in (1, 0))
    tau, most = max(set(taus), key=taus.count), max(set(firsts), key=firsts.count)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), sharey=True)
    names = {"beta": "beta (tokens a trace)", "C": "C (tails that a trace reads)"}
    for axis, pairs, label, pick in ((left, sorted(p for p in points if p[1] == tau), names[first], 0),
                                     (right, sorted(p for p in points if p[0] == most), "tau (tokens a tail)", 1)):
        for t, color in zip(range(len(points[pairs[0]])), (GREY, SKY, BLUE)):
            axis.plot([pair[pick] for pair in pairs], [points[pair][t] for pair in pairs], "o-", color=color,
                      label=f"round {t}")
        axis.set(xlabel=label)
    left.set(title=f"tau = {tau}", ylabel="held-out problems solved", ylim=(-0.03, 1.03))
    right.set(title=f"{first} = {most}")
    right.legend()
    return figure
