"""The ablation of CCA's parts (CCA paper, Table V), at nano size on real text: lesson 02.

Five models learn the same text: no convolution, one, two, then the value shift, then the q-k mean. Within a seed all of
them start from the same weights (as far as they share them) and read the same windows in the same order, so their
losses can be compared pair by pair: what is left of the difference is the part itself.

Unlike the paper's, these models are not brought to the same number of parameters: two convolutions add 5%. And a
loss after a few hundred steps says how fast a model learns, not where it would end. How fast depends on the size of the
first weights, so two sizes are tried.
"""

import hashlib
import math

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import text
from ..data.tokenizer import CharTokenizer
from ..train.evaluate import held_out_loss
from ..train.loop import Recipe, Trainer
from ..train.sources import mixture, text_source

VARIANTS = {
    "no convolution": dict(num_convs=0, value_shift=False, qk_mean=False),
    "1 convolution": dict(num_convs=1, value_shift=False, qk_mean=False),
    "2 convolutions": dict(num_convs=2, value_shift=False, qk_mean=False),
    "+ value shift": dict(num_convs=2, value_shift=True, qk_mean=False),
    "+ q-k mean": dict(num_convs=2, value_shift=True, qk_mean=True),
}
PAPER = dict(zip(VARIANTS, (2.280, 2.264, 2.252, 2.248, 2.241)))  # Table V: validation loss, 1.5B MoE, 50B tokens

SETTING = dict(preset="nano", steps=200, rows=8, seq=64, lr=5e-3, warmup=20, held_out=8192, window=128)
SEEDS = {0.02: range(5), 0.08: range(3)}  # initializer_range -> seeds: that of the released model, and nano's own


def runs() -> list[dict]:
    """Seed by seed, so that a study that is stopped early still holds whole comparisons."""
    return [dict(initial=initial, variant=variant, seed=seed)
            for initial, seeds in SEEDS.items() for seed in seeds for variant in VARIANTS]


def one(initial: float, variant: str, seed: int) -> dict:
    """Trains one model whose first weights have standard deviation `initial`.

    Returns the training loss of every step, the held-out loss in nats a character, parameters, and the text's mark.
    """
    trainer, held_out = prepare(initial, variant, seed)
    trainer.train(bar=False)
    return {"held_out": round(held_out_loss(trainer.model, held_out, SETTING["window"]), 5),
            "losses": [round(record["loss"], 4) for record in trainer.records],
            "parameters": sum(p.numel() for p in trainer.model.parameters()), "text": fingerprint()}


def first_steps(initial: float, variant: str, seed: int, steps: int) -> list[float]:
    """The first training losses of a run, live: what a lesson compares with the record."""
    trainer, _ = prepare(initial, variant, seed)
    trainer.train(until=steps)
    return [record["loss"] for record in trainer.records]


def prepare(initial: float, variant: str, seed: int) -> tuple[Trainer, torch.Tensor]:
    """The trainer of one run at step 0, and the tokens of the held-out text."""
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    train, held_out = (torch.tensor(tokenizer.encode(part)) for part in text.split(text.english()))
    same = dict(initializer_range=initial)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        whole = Zaya(ZayaConfig.preset(SETTING["preset"], **same))
    model = Zaya(ZayaConfig.preset(SETTING["preset"], **same, **VARIANTS[variant]))
    mine = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in whole.state_dict().items() if name in mine})
    recipe = Recipe(steps=SETTING["steps"], lr=SETTING["lr"], warmup=SETTING["warmup"], seed=seed)
    batches = mixture(text_source(train, SETTING["rows"], SETTING["seq"], seed))
    return Trainer(model, recipe, batches), held_out[: SETTING["held_out"]]


def fingerprint() -> str:
    """Of the text: it differs a little between versions of Python, and then so do the losses."""
    return hashlib.sha256(text.english().encode()).hexdigest()[:16]


def differences(results: list[dict], first: str, second: str) -> list[float]:
    """Held-out loss(second) - loss(first), one for each seed that has both; `results` are runs of one `initial`."""
    loss = {(run["variant"], run["seed"]): run["held_out"] for run in results}
    return [loss[second, seed] - loss[first, seed] for variant, seed in loss
            if variant == first and (second, seed) in loss]


def paired(results: list[dict], first: str, second: str) -> tuple[float, float]:
    """Mean of the `differences` and its standard error.

    Raises ValueError for fewer than two seeds: one difference has no error.
    """
    found = torch.tensor(differences(results, first, second), dtype=torch.float64)
    if len(found) < 2:
        raise ValueError(f"results must hold both variants for at least two seeds, got {len(found)}")
    return float(found.mean()), float(found.std()) / math.sqrt(len(found))
