"""Load balance while a nano model learns real text, after the report's Fig. 4: lesson 04.

Five models in every seed read the same windows. A linear router and the MLP router with EDA, both balanced by AdamW;
the MLP router left alone; and the MLP router with a larger start: its three matrices are drawn so that each keeps the
size of what it is given (standard deviation 1 / sqrt(width) instead of 0.02). The two kinds of router cannot share
router weights; everything else starts alike. And the MLP router balanced by PI, with the gains that win in the lesson's
laboratory.

The report's curves come from 1.8B parameters and its balancer's constants are not published. So this is the same
question at another size, not a repetition: 8 experts, 1,024 tokens a step, a step size chosen here, and the released
configuration's initial 0.02 instead of the preset's.
"""

import math

import torch

from ..arch import balance
from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import text
from ..data.tokenizer import CharTokenizer
from ..train.loop import Recipe, Trainer
from ..train.sources import mixture, text_source

# kind of router, the rule that moves the biases, does the MLP start large
VARIANTS = {
    "linear, AdamW": ("linear", "AdamW", False),
    "MLP + EDA, AdamW": ("mlp", "AdamW", False),
    "MLP + EDA, AdamW, larger start": ("mlp", "AdamW", True),
    "MLP + EDA, none": ("mlp", "none", False),
    "MLP + EDA, PI": ("mlp", "PI", False),
}
PI = dict(kp=0.1, ki=0.2)   # the laboratory's
SETTING = dict(preset="nano", hidden_size=64, head_dim=16, moe_intermediate_size=64, num_experts=8,
               initializer_range=0.02, steps=400, rows=16, seq=64, lr=5e-3, warmup=30, balance_lr=4e-3,
               betas=[0.9, 0.95])
SIZES = ("hidden_size", "head_dim", "moe_intermediate_size", "num_experts", "initializer_range")
SEEDS = (0, 1, 2)


def runs() -> list[dict]:
    """Seed by seed, so that a study that is stopped early still holds whole comparisons."""
    return [dict(variant=variant, seed=seed) for seed in SEEDS for variant in VARIANTS]


def one(variant: str, seed: int) -> dict:
    """Trains one model. Returns, for every step, the normalised load entropy (mean over layers), and for every fifth
    the worst layer's MaxVio and the training loss."""
    trainer = prepare(variant, seed)
    trainer.train(bar=False)
    records = trainer.records
    return {"entropy": [round(record["load_entropy"], 4) for record in records],
            "max_violation": [round(record["max_violation"], 3) for record in records[::5]],
            "loss": [round(record["loss"], 4) for record in records[::5]]}


def first_steps(variant: str, seed: int, steps: int) -> list[dict]:
    """The first log records of a run, live: what a lesson compares with the record."""
    trainer = prepare(variant, seed)
    trainer.train(until=steps)
    return trainer.records


def prepare(variant: str, seed: int) -> Trainer:
    """The trainer of one run at step 0."""
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    train, _ = text.split(text.english())
    router, rule, large = VARIANTS[variant]
    sizes = {name: SETTING[name] for name in SIZES}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        whole = Zaya(ZayaConfig.preset(SETTING["preset"], **sizes))
        model = Zaya(ZayaConfig.preset(SETTING["preset"], router=router, **sizes))
    mine = {name: value.shape for name, value in model.state_dict().items()}
    shared = {name: value for name, value in whole.state_dict().items() if mine.get(name) == value.shape}
    model.load_state_dict(shared, strict=False)
    if large:
        enlarge(model)
    recipe = Recipe(steps=SETTING["steps"], lr=SETTING["lr"], warmup=SETTING["warmup"], seed=seed)
    batches = mixture(text_source(torch.tensor(tokenizer.encode(train)), SETTING["rows"], SETTING["seq"], seed))
    trainer = Trainer(model, recipe, batches)
    experts, layers, lr = model.config.num_experts, model.config.num_hidden_layers, SETTING["balance_lr"]
    if rule == "AdamW":
        trainer.balancer = balance.AdamWBalancer(experts, lr, tuple(SETTING["betas"]), num_layers=layers)
    elif rule == "PI":
        trainer.balancer = balance.PIDBalancer(experts, **PI, num_layers=layers)
    else:
        trainer.balancer = balance.SignBalancer(experts, 0.0, layers)
    return trainer


@torch.no_grad()
def enlarge(model: Zaya) -> None:
    """Scales the three matrices of every MLP router from std `initializer_range` to std 1 / sqrt(width)."""
    config = model.config
    for block in model.layers:
        for layer in (block.router.mlp.fc1, block.router.mlp.fc2, block.router.mlp.out_proj):
            layer.weight /= config.initializer_range * math.sqrt(config.router_hidden_size)


def last_part(results: list[dict], variant: str, name: str, share: float = 0.25) -> torch.Tensor:
    """The mean of a measure over the last `share` of each run of a variant, float64 (seeds,), in the order of SEEDS."""
    series = {run["seed"]: torch.tensor(run[name], dtype=torch.float64) for run in results if run["variant"] == variant}
    return torch.stack([series[seed][-math.ceil(len(series[seed]) * share):].mean() for seed in SEEDS])
