"""What Markovian RSA buys the shipped reasoners: `solve --compare` in every setting tried, and sweeps over its numbers.

"compare" runs are those of `python -m minizaya solve --model nano-reasoner --compare --setting NAME`, on the exam with
`--model nano-sheets --exam`, 200 problems each. "sweep" runs are those of `--sweep`, which varies beta and tau in the
tight setting, C and tau on the exam, with fewer problems.
"""

from dataclasses import replace

from ...hub import zoo
from ..compare import EXAM_SWEEP, SETTINGS, SWEEP, after_each_round, compare

SETTING = {"model": "nano-reasoner", "exam_model": "nano-sheets", "problems": 200,
           "seeds": {"exam": 3, "tight": 3, "open": 3, "countdown": 3},
           "sweep_problems": {"tight": 40, "exam": 60}, "sweep": [list(point) for point in SWEEP],
           "exam_sweep": [list(point) for point in EXAM_SWEEP]}


def runs() -> list[dict]:
    return ([{"study": "compare", "setting": name, "seed": seed} for name, seeds in SETTING["seeds"].items()
             for seed in range(1, seeds + 1)]
            + [{"study": "sweep", "setting": "tight", "beta": beta, "tau": tau} for beta, tau in SETTING["sweep"]]
            + [{"study": "sweep", "setting": "exam", "C": c, "tau": tau} for c, tau in SETTING["exam_sweep"]])


def one(study: str, setting: str, seed: int = 1, **changed: int) -> dict:
    """A comparison's table, or the accuracy after each round of one sweep point, where `changed` says what is not as in
    the setting."""
    model, tokenizer = zoo.load(SETTING["exam_model" if setting == "exam" else "model"])
    if study == "compare":
        return compare(model, tokenizer, SETTINGS[setting], SETTING["problems"], seed)
    chosen = replace(SETTINGS[setting], rsa=replace(SETTINGS[setting].rsa, **changed))
    return {"rounds": after_each_round(model, tokenizer, chosen, SETTING["sweep_problems"][setting], seed)}
