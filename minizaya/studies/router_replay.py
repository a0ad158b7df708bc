"""Engine in bfloat16, trainer in float32: how far they disagree, and what it does to training, with and without replay.

"panels" runs look at one batch of answers of the shipped reasoner. "training" runs make 24 updates with a bfloat16
engine whose router, norms and head are rounded, too, at a learning rate at which training is no longer calm,
replay off and on.
"""

import random
import tempfile
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..data import tasks
from ..data.tokenizer import Tokenizer
from ..hub import zoo
from ..rl import cascade
from ..rl.generator import Generator, draw_problem
from ..rl.learner import Learner, LearnerConfig
from ..rl.mismatch import agreement, low_precision
from ..rl.pipeline import Job, run

LEVELS = {"countdown": 2, "falsify": 3, "program": 10, "sorting": 13}
SETTING = {"model": "nano-reasoner", "levels": LEVELS, "group": 16, "panel_problems": 8, "points": 600, "updates": 24,
           "groups": 8, "lr": 5e-3, "seeds": 3, "problems": 50}
# float32_ops, replay
VARIANTS = {"bare": (False, False), "float32 operations": (True, False), "replay": (False, True), "both": (True, True)}


def runs() -> list[dict]:
    return ([{"study": "panels", "variant": name} for name in VARIANTS]
            + [{"study": "training", "variant": name, "seed": seed} for seed in range(SETTING["seeds"])
               for name in ("off", "on")])


def one(study: str, variant: str, seed: int = 0) -> dict:
    """Figures of one panel, or the curves of one training."""
    torch.set_num_threads(1)
    model, tokenizer = zoo.load(SETTING["model"])
    if study == "panels":
        return panel(model, tokenizer, *VARIANTS[variant], SETTING["panel_problems"], SETTING["points"])
    job = Job(SETTING["updates"], cascade.Fixed(LEVELS, {name: tasks.get(name).max_difficulty for name in LEVELS}),
              LearnerConfig(lr=SETTING["lr"], replay=variant == "on"), groups=SETTING["groups"], group=SETTING["group"],
              precision=("bfloat16", False), seed=seed)
    before = cascade.examine(model, tokenizer, LEVELS, SETTING["problems"], seed=7)
    with tempfile.TemporaryDirectory() as folder:
        records: list[dict] = []
        run(job, model, tokenizer, Path(folder), watch=records.append, bar=False)
    curves = {key: [round(r.get(key, 0.0), 7) for r in records]
              for key in ("reward", "k3", "pearson", "beyond_2", "routed", "grad_norm")}
    after = cascade.examine(model.eval(), tokenizer, LEVELS, SETTING["problems"], seed=7)
    return curves | {"before": before, "after": after}


def panel(model: Zaya, tokenizer: Tokenizer, float32_ops: bool, replay: bool, problems: int, points: int) -> dict:
    """`agreement` of one batch of answers by a bfloat16 engine, and what the tokens do that visit other experts.

    "misrouted_k3": their share of the whole k3. "points": for some tokens, all misrouted ones among them, the engine's
    probability, |log of the ratio| and 1 if another expert was visited in any layer while the token was predicted.
    """
    rng = random.Random(0)
    asked = [draw_problem(name, level, rng) for name, level in LEVELS.items() for _ in range(problems)]
    generator = Generator(low_precision(model, "bfloat16", float32_ops), tokenizer, group=2, slots=64, size=640,
                          threshold=0.0)
    rollouts = generator.answer(asked, seed=0)
    learner = Learner(model, LearnerConfig(replay=replay))
    with torch.no_grad():
        logp, rollout_logp, valid, routes, recorded = learner.forward(rollouts)
    known = (recorded >= 0).all(-1)
    found = agreement(logp[valid], rollout_logp[valid], routes[known], recorded[known])
    other = ((routes != recorded) & (recorded >= 0)).any(-1)[:, :-1]
    gap = (logp.double() - rollout_logp.double())
    terms = gap.expm1() - gap
    found["misrouted_k3"] = float(terms[valid & other].sum() / terms[valid].sum())
    # the sure tokens all lie in one corner: show those that are not
    unsure = valid & (rollout_logp < -0.02)
    triples = torch.stack([rollout_logp[unsure].double().exp(), gap[unsure].abs(), other[unsure].double()], -1)
    order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(0))[:points]
    chosen = triples[order].tolist() + triples[triples[:, 2] == 1].tolist() if points else []
    return found | {"points": [[float(f"{x:.3g}") for x in triple] for triple in chosen]}
