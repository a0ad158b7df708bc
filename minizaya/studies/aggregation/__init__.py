"""What Markovian RSA buys the shipped reasoner: `solve --compare` in every setting tried, and sweeps over beta and tau.

"compare" runs are those of `python -m minizaya solve --model nano-reasoner --compare --setting NAME`, 200 problems
each. "sweep" runs are those of `--sweep`, which varies beta and tau in the tight setting, with fewer problems.
"""

from dataclasses import replace

from ...hub import zoo
from ..compare import SETTINGS, SWEEP, after_each_round, compare

SETTING = {"model": "nano-reasoner", "problems": 200, "seeds": {"tight": 3, "open": 3, "countdown": 3},
           "sweep_problems": 40, "sweep_setting": "tight",
           "sweep": [list(point) for point in SWEEP]}


def runs() -> list[dict]:
    return ([{"study": "compare", "setting": name, "seed": seed} for name, seeds in SETTING["seeds"].items()
             for seed in range(1, seeds + 1)]
            + [{"study": "sweep", "setting": SETTING["sweep_setting"], "beta": beta, "tau": tau}
               for beta, tau in SETTING["sweep"]])


def one(study: str, setting: str, seed: int = 1, beta: int = 0, tau: int = 0) -> dict:
    """A comparison's table, or the accuracy after each round of one sweep point."""
    model, tokenizer = zoo.load(SETTING["model"])
    if study == "compare":
        return compare(model, tokenizer, SETTINGS[setting], SETTING["problems"], seed)
    chosen = SETTINGS[setting]
    chosen = replace(chosen, rsa=replace(chosen.rsa, beta=beta, tau=tau))
    return {"rounds": after_each_round(model, tokenizer, chosen, SETTING["sweep_problems"], seed)}
