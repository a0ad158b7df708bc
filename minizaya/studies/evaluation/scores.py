"""What answers are worth: avg@k, pass@k, maj@k, the mean over Markovian RSA's last round, with standard errors.

Standard errors count questions, not answers: the answers to one question share its luck. A request that failed costs
its sample and nothing else; a question without any answer counts as wrong.
"""

from collections.abc import Sequence
from math import comb

from .answers import Judge
from .asking import Told
from .questions import Question


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that one of k answers, drawn from n of which some are right, is right. Chen et al., arXiv 2107.03374.

    trap: 1 - (1 - right / n) ** k draws with replacement, and so is smaller on average than what k fresh answers give.
    """
    return 1 - comb(n - right, k) / comb(n, k)


def mean(shares: Sequence[float]) -> dict:
    """{"accuracy", "stderr"} over questions; one question has no standard error."""
    n = len(shares)
    average = sum(shares) / n
    spread = (sum((share - average) ** 2 for share in shares) / (n - 1) / n) ** 0.5 if n > 1 else None
    return {"accuracy": round(average, 4), "stderr": None if spread is None else round(spread, 4)}


def score(questions: Sequence[Question], told: Sequence[Told], judge: Judge, single: bool) -> dict:
    """{name: {"accuracy", "stderr"}}, and "failed", "tokens" (generated ones a question, None where not counted).

    single: avg@k, pass@k at 1, 2, 4 .. and k, maj@k. Else "mean", "vote" and "best" of a last round. Where failed
    requests leave fewer than k answers to a question, pass@k is of those that it has.
    """
    rights = [[judge.right(question, text) for text in own.texts] for question, own in zip(questions, told)]
    averages = mean([sum(own) / len(own) if own else 0.0 for own in rights])
    votes = mean([float(judge.voted(question, own.texts)) for question, own in zip(questions, told)])
    tokens = [own.tokens for own in told]
    found = {"failed": sum(own.failed for own in told), "unanswered": sum(not own.texts for own in told),
             "tokens": None if None in tokens else round(sum(tokens) / len(tokens), 1)}
    if not single:
        return {"mean": averages, "vote": votes, "best": mean([float(any(own)) for own in rights])} | found
    k = max(len(own.texts) + own.failed for own in told)
    powers = sorted({2**i for i in range(k.bit_length()) if 2**i < k} | {k})
    passed = {f"pass@{j}": mean([pass_at_k(len(own), sum(own), min(j, len(own))) if own else 0.0 for own in rights])
              for j in powers}
    return {f"avg@{k}": averages, **passed, f"maj@{k}": votes} | found


def table(found: dict) -> str:
    """The figures of one run as lines of text."""
    lines = [f"{found['model']} on {found['questions']}: {found['count']} questions, compared {found['compared']}"]
    for method in ("single", "markovian_rsa"):
        for name, cell in found.get(method, {}).items():
            if isinstance(cell, dict) and "accuracy" in cell:
                lines.append(f"{method:15}{name:10}{percent(cell)}")
        if method in found:
            own = found[method]
            spent = "" if own["tokens"] is None else f"{own['tokens']:,.0f} tokens a question"
            lost = f"{own['failed']} requests failed, {own['unanswered']} questions without an answer"
            lost *= bool(own["failed"])
            lines += [f"{'':15}{'; '.join(filter(None, [spent, lost]))}"] * bool(spent or lost)
    if found["stopped"]:
        lines.append(f"{found['stopped']} comparisons were ended after too long, and count as wrong")
    return "\n".join(lines)


def percent(cell: dict) -> str:
    error = "" if cell["stderr"] is None else f" +- {100 * cell['stderr']:.1f}"
    return f"{100 * cell['accuracy']:6.1f}{error}"
