"""What Markovian RSA buys the shipped reasoner: `solve --compare` in every setting tried, and sweeps over beta and tau.

"compare" runs are those of `python -m minizaya solve --model nano-reasoner --compare --setting NAME`, 200 problems each.
"sweep" runs vary beta and tau in the tight setting, with fewer problems.
"""

from dataclasses import replace

from .. import zoo
from ..compare import SETTINGS, answer_of, compare, mean, sampler, summary
from ..data import tasks
from ..data.aggregation import GO, SEPARATOR
from ..infer.rsa import delimited, markovian_rsa_many

SETTING = {"model": "nano-reasoner", "problems": 200, "seeds": {"tight": 3, "open": 3},
           "sweep_problems": 40, "sweep_setting": "tight",
           "sweep": [[40, 24], [48, 24], [56, 24], [120, 24], [56, 12], [56, 40], [56, 56]]}


def runs() -> list[dict]:
    return ([{"study": "compare", "setting": name, "seed": seed} for name, seeds in SETTING["seeds"].items()
             for seed in range(1, seeds + 1)]
            + [{"study": "sweep", "setting": SETTING["sweep_setting"], "beta": beta, "tau": tau} for beta, tau in SETTING["sweep"]])


def one(study: str, setting: str, seed: int = 1, beta: int = 0, tau: int = 0) -> dict:
    """A comparison's table, or the accuracy after each round of one sweep point."""
    model, tokenizer = zoo.load(SETTING["model"])
    if study == "compare":
        return compare(model, tokenizer, SETTINGS[setting], SETTING["problems"], seed)
    return {"rounds": after_each_round(model, tokenizer, setting, beta, tau, seed)}


def after_each_round(model, tokenizer, setting: str, beta: int, tau: int, seed: int) -> list[dict]:
    """Mean accuracy of the population of each round, and the share of traces that got to an answer."""
    chosen = SETTINGS[setting]
    task, rsa = tasks.get(chosen.task), replace(chosen.rsa, beta=beta, tau=tau)
    asked = tasks.problems(chosen.task, "held_out", chosen.difficulty, SETTING["sweep_problems"], seed)
    layout = delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO))
    questions = [tokenizer.encode(problem.prompt) for problem in asked]
    results = markovian_rsa_many(sampler(model, tokenizer, seed, {}), questions, rsa, layout, seed)
    found = []
    for t in range(rsa.T + 1):
        texts = [[tokenizer.decode(trace) for trace in result.rounds[t]] for result in results]
        right = [mean([task.verify(problem, text) for text in own]) for problem, own in zip(asked, texts)]
        ended = mean([mean([answer_of(text) is not None for text in own]) for own in texts])
        tokens = [sum(map(len, result.rounds[t])) for result in results]
        found.append(summary(right, tokens) | {"ended": round(ended, 4)})
    return found
