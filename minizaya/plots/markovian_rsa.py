"""Pictures of lesson 10: the rounds as a movie, what they cost, and what they buy."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..config import ZayaConfig
from ..data.tasks import END
from ..infer.rsa import RSAConfig, stream_of, subsets
from ..plan.account import kv_bytes_per_token
from ..studies import recorded
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, WIDTH, styled

METHODS = {"single": GREY, "majority": SKY, "full_rsa": ORANGE, "delethink": PURPLE, "markovian_rsa": BLUE}


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
    longest, gap = max(len(text) for own in texts for text in own), 12
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
def misled(found: dict[str, list[float]]) -> Figure:
    """How often the answer is right when 0 to 4 of the four tails are wrong, a curve for each kind of slip. A dashed
    line is a model that copies one tail.

    found: kind -> five shares.
    """
    figure, axis = plt.subplots(figsize=(WIDTH * 0.75, 2.9))
    for (name, shares), color, mark in zip(found.items(), (RED, ORANGE, BLUE), ("o-", "s-", "^-")):
        axis.plot(range(5), shares, mark, color=color, label=name)
    axis.plot(range(5), [1 - wrong / 4 for wrong in range(5)], "--", color=GREY, label="copying one tail")
    axis.set(xlabel="wrong tails of four", ylabel="answers right", ylim=(-0.03, 1.05), xticks=range(5))
    axis.legend(loc="lower left")
    return figure


@styled
def measured(record: dict | None = None) -> Figure:
    """Accuracy by method in each setting, mean of the seeds with their standard error; the numbers are tokens a
    problem. A diamond shows what a vote over a method's last round would give."""
    record = record or recorded("aggregation")
    names = list(dict.fromkeys(run["setting"] for run in record["runs"] if run["study"] == "compare"))
    figure, axes = plt.subplots(1, len(names), figsize=(WIDTH, 3.1), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        runs = [run for run in record["runs"] if run["study"] == "compare" and run["setting"] == name]
        for i, (method, color) in enumerate(METHODS.items()):
            values = [run[method]["accuracy"] for run in runs]
            errors = [run[method]["stderr"] for run in runs]
            average = sum(values) / len(values)
            axis.bar(i, average, color=color, alpha=0.55, yerr=sum(e * e for e in errors) ** 0.5 / len(errors),
                     capsize=3)
            axis.plot([i] * len(values), values, "o", color=color, markersize=3.5)
            if "vote" in runs[0][method]:
                axis.plot(i, sum(run[method]["vote"] for run in runs) / len(runs), "D", color=color, mec=BLACK, mew=0.7,
                          markersize=5)
            tokens = sum(run[method]["tokens"] for run in runs) / len(runs)
            axis.text(i, average + 0.05, f"{tokens:.0f}", ha="center", fontsize=8)
        axis.set(title=name, xticks=range(len(METHODS)), ylim=(0, 1.12))
        axis.set_xticklabels([method.replace("_", " ") for method in METHODS], rotation=35, ha="right")
    axes[0, 0].set_ylabel("held-out problems solved")
    return figure


@styled
def sweep(record: dict | None = None) -> Figure:
    """Accuracy after each round, over beta at one tau and over tau at one beta (the shape of the report's Table
    XII)."""
    record = record or recorded("aggregation")
    points = {(run["beta"], run["tau"]): run["rounds"] for run in record["runs"] if run["study"] == "sweep"}
    taus, betas = ([pair[i] for pair in points] for i in (1, 0))
    tau, beta = max(set(taus), key=taus.count), max(set(betas), key=betas.count)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), sharey=True)
    for axis, pairs, label, pick in ((left, sorted(p for p in points if p[1] == tau), "beta (tokens a trace)", 0),
                                     (right, sorted(p for p in points if p[0] == beta), "tau (tokens a tail)", 1)):
        for t, color in zip(range(len(points[pairs[0]])), (GREY, SKY, BLUE)):
            axis.plot([pair[pick] for pair in pairs], [points[pair][t]["accuracy"] for pair in pairs], "o-",
                      color=color, label=f"round {t}")
        axis.set(xlabel=label)
    left.set(title=f"tau = {tau}", ylabel="held-out problems solved", ylim=(-0.03, 1.03))
    right.set(title=f"beta = {beta}")
    right.legend()
    return figure
