"""`python -m minizaya solve --compare`: one rollout, votes, and three kinds of recursive self-aggregation.

All methods get the same held-out problems and the same budget a trace; temperature 1, but for the greedy one.

    single          one rollout: the mean over the N of round 0
    greedy          one rollout at temperature 0
    majority        the most frequent answer of as many rollouts as Markovian RSA has traces: (T + 1) N
    by_parts        the same rollouts; where answers have parts (`sheet`), each part is voted on by itself
    full_rsa        whole traces are handed on: tau = beta
    delethink       each trace goes on from its own tail: C = 1
    markovian_rsa   the last tau tokens of C traces

The last three also say what a vote over their last population would give, and how often it holds a right trace at all.
An accuracy's standard error counts problems, not traces: the N traces of a problem share its luck.

The *exam* mixes sheets of one to three parts with sheets of 24. No single trace finds all parts of a long one, so a
vote over whole answers has nothing to count, while every part is found in some traces.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ..arch.model import Zaya
from ..data import tasks
from ..data.aggregation import GO, SEPARATOR
from ..data.tasks import Problem
from ..data.tokenizer import Tokenizer
from ..infer.generate import generate
from ..infer.rsa import Generator, RSAConfig, RSAResult, delimited, markovian_rsa_many
from ..notebook import tqdm
from ..plan.account import kv_bytes_per_token
from .scoring import answer_of, mean, scored, voted, voted_by_parts

ROWS = 256  # sequences decoded at a time
METHODS = ("single", "greedy", "majority", "by_parts", "full_rsa", "delethink", "markovian_rsa")


@dataclass(frozen=True)
class Setting:
    """One task at one difficulty, or several in turn, and how much a trace may write and hand on."""

    task: str
    difficulty: int | tuple[int, ...]
    rsa: RSAConfig

    def problems(self, n: int, seed: int) -> list[Problem]:
        """`n` held-out problems; number i has the i-th difficulty, round and round."""
        if isinstance(self.difficulty, int):
            return tasks.problems(self.task, "held_out", self.difficulty, n, seed)
        levels = self.difficulty
        queues = {level: iter(tasks.problems(self.task, "held_out", level, n, seed)) for level in sorted(set(levels))}
        return [next(queues[levels[i % len(levels)]]) for i in range(n)]


SETTINGS = {
    # a trace is too short for the whole calculation: it must be handed on
    "tight": Setting("chain100", 20, RSAConfig(N=16, C=4, T=2, beta=56, tau=24)),
    # a trace is long enough, and is right now and then: checking an attempt is easier than finding it
    "open": Setting("falsify", 2, RSAConfig(N=16, C=4, T=2, beta=80, tau=60)),
    # the same, but an answer is long, and a tail that holds one is soon pushed out
    "countdown": Setting("countdown", 2, RSAConfig(N=16, C=4, T=2, beta=64, tau=40)),
    # answers with parts, half of them with many; a tail has room for the longest list, not for the search before it
    "exam": Setting("sheet", (1, 24, 2, 24, 3, 24), RSAConfig(N=16, C=4, T=2, beta=280, tau=74)),
}

# (beta, tau) pairs of a sweep: over beta at one tau, over tau at one beta
SWEEP = ((40, 24), (48, 24), (56, 24), (120, 24), (56, 12), (56, 40), (56, 56))
EXAM_SWEEP = ((1, 74), (2, 74), (4, 74), (8, 74), (4, 48), (4, 24))  # (C, tau), for the exam


def compare(model: Zaya, tokenizer: Tokenizer, setting: Setting, problems: int, seed: int) -> dict:
    """{method: {"accuracy", "stderr", "tokens", "context", "cache_bytes"}}, with "vote" and "best" after rounds.

    tokens: generated ones a problem. context: the longest prompt with its trace. cache_bytes: keys and values, float32,
    of all traces of a round at once, in the round where that is most; the mean over problems. "by_level": accuracy at
    each difficulty, where there are several; "parts": the share of right parts, where answers have them.
    """
    asked = setting.problems(problems, seed)
    questions = [tokenizer.encode(problem.prompt) for problem in asked]
    rsa, found, known = setting.rsa, {}, {}
    aggregate = delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))
    methods = {"majority": replace(rsa, N=(rsa.T + 1) * rsa.N, T=0),   # it has the others' round 0 in it
               "markovian_rsa": rsa, "delethink": replace(rsa, C=1), "full_rsa": replace(rsa, tau=rsa.beta)}
    for name, config in tqdm(methods.items(), desc="compare", unit="method"):
        results = markovian_rsa_many(sampler(model, tokenizer, seed, known), questions, config, aggregate, seed)
        last = [[tokenizer.decode(trace) for trace in result.rounds[-1]] for result in results]
        if name == "majority":
            found[name] = scored(asked, [[voted(own)] for own in last]) | costs(model, results)
            if setting.task == "sheet":
                found["by_parts"] = scored(asked, [[voted_by_parts(own)] for own in last]) | costs(model, results)
            continue
        found[name] = scored(asked, last) | costs(model, results) | beside_the_mean(asked, last)
        if name == "markovian_rsa":
            first = [[tokenizer.decode(trace) for trace in result.rounds[0]] for result in results]
            alone = [replace(result, rounds=result.rounds[:1], prompts=result.prompts[:1]) for result in results]
            found["single"] = scored(asked, first) | costs(model, alone, share=rsa.N)
    surest = markovian_rsa_many(sampler(model, tokenizer, seed, {}, temperature=0.0), questions,
                                replace(rsa, N=1, C=1, T=0), aggregate, seed)
    alone = [[tokenizer.decode(result.rounds[0][0])] for result in surest]
    found["greedy"] = scored(asked, alone) | costs(model, surest)
    return {name: found[name] for name in METHODS if name in found}


def costs(model: Zaya, results: list[RSAResult], share: int = 1) -> dict:
    """What a problem costs; `share`: the traces that share it, for the cost of one of them."""
    contexts = [[[len(prompt) + len(trace) for prompt, trace in zip(*own)] for own in zip(r.prompts, r.rounds)]
                for r in results]
    tokens = [sum(len(trace) for own in result.rounds for trace in own) / share for result in results]
    peak = mean([max(map(sum, rounds)) / share for rounds in contexts]) * kv_bytes_per_token(model.config, "float32")
    return {"tokens": round(mean(tokens), 1), "context": max(max(own) for rounds in contexts for own in rounds),
            "cache_bytes": round(peak)}


def beside_the_mean(asked: list[Problem], last: list[list[str]]) -> dict:
    """What else the last populations hold: "vote", how often their most frequent answer is right, and "best", how often
    any trace is. A vote needs answers that can be compared, "best" a judge that knows: neither is the method's score.
    """
    vote = scored(asked, [[voted(own)] for own in last])["accuracy"]
    best = [max(tasks.get(problem.task).verify(problem, text) for text in own) for problem, own in zip(asked, last)]
    return {"vote": vote, "best": round(mean(best), 4)}


def after_each_round(model: Zaya, tokenizer: Tokenizer, setting: Setting, problems: int, seed: int) -> list[dict]:
    """For each round of Markovian RSA the mean accuracy of its population, as in `compare`, and the share of traces
    that got to an answer ("ended"); tokens are those of the round alone."""
    asked = setting.problems(problems, seed)
    layout = delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))
    questions = [tokenizer.encode(problem.prompt) for problem in asked]
    results = markovian_rsa_many(sampler(model, tokenizer, seed, {}), questions, setting.rsa, layout, seed)
    found = []
    for t in range(setting.rsa.T + 1):
        texts = [[tokenizer.decode(trace) for trace in result.rounds[t]] for result in results]
        ended = mean([mean([answer_of(text) is not None for text in own]) for own in texts])
        tokens = [sum(map(len, result.rounds[t])) for result in results]
        found.append(scored(asked, texts) | {"tokens": round(mean(tokens), 1), "ended": round(ended, 4)})
    return found


def sweep(model: Zaya, tokenizer: Tokenizer, setting: Setting, problems: int, seed: int) -> list[dict]:
    """One row a point: {"beta" (on the exam "C"), "tau", "rounds": `after_each_round`}, as the report's Table XII."""
    first, points = ("C", EXAM_SWEEP) if setting.task == "sheet" else ("beta", SWEEP)
    found = []
    for value, tau in tqdm(points, desc="sweep", unit="point"):
        own = replace(setting, rsa=replace(setting.rsa, **{first: value, "tau": tau}))
        found.append({first: value, "tau": tau, "rounds": after_each_round(model, tokenizer, own, problems, seed)})
    return found


def sampler(model: Zaya, tokenizer: Tokenizer, seed: int, known: dict, temperature: float = 1.0) -> Generator:
    """A generator for `markovian_rsa_many`; each of its calls has its own chances.

    known: what first calls answered, by prompt and copy: four of the methods begin alike, and it is decoded once.
    """
    stop, calls = tokenizer.encode(tasks.END), iter(range(10**6))

    def sample(prompts: Sequence[Sequence[int]], max_new_tokens: int):
        call, copies = next(calls), Counter()
        asked = [(max_new_tokens, text, copies.update([text]) or copies[text]) for text in map(tuple, prompts)]
        if call == 0 and known.keys() >= set(asked):
            return [known[each] for each in asked]
        traces = generate(model, prompts, max_new_tokens, stop=stop, seed=seed * 1000 + call, rows=ROWS,
                          temperature=temperature)
        known.update({} if call else zip(asked, traces))
        return traces

    return sample


def table(setting: Setting, found: dict) -> str:
    """The comparison as lines of text."""
    lines = [f"{setting.task}, difficulty {setting.difficulty}; {asdict(setting.rsa)}",
             f"{'':15}{'right, %':>14}{'tokens':>9}{'context':>9}{'cache, KB':>11}"]
    for name, cell in found.items():
        beside = f"   vote {100 * cell['vote']:.1f}, best {100 * cell['best']:.1f}" if "vote" in cell else ""
        if "by_level" in cell:
            beside += "   by difficulty " + ", ".join(f"{k}: {100 * v:.0f}" for k, v in cell["by_level"].items())
        lines.append(f"{name:15}{100 * cell['accuracy']:7.1f} +- {100 * cell['stderr']:4.1f}{cell['tokens']:8.0f}"
                     f"{cell['context']:9}{cell['cache_bytes'] / 1000:11.0f}{beside}")
    return "\n".join(lines)


def sweep_table(setting: Setting, found: list[dict]) -> str:
    """A sweep as lines of text: accuracy in percent after each round."""
    lines = [f"{setting.task}, difficulty {setting.difficulty}: {next(iter(found[0]))}, tau, right after each round"]
    for row in found:
        cells = "   ".join(f"{100 * cell['accuracy']:5.1f} +- {100 * cell['stderr']:3.1f}" for cell in row["rounds"])
        lines.append(f"{next(iter(row.values())):5} {row['tau']:5}   {cells}")
    return "\n".join(lines)
