"""Norms and gradients through 40 narrow layers, before and after training, with and without residual scaling.

For lesson 05. Both models of a seed start from the same weights (scales are one, biases zero, and that is a plain
addition) and read the same windows, so their losses can be compared pair by pair.

The ZAYA1-8B report prints no ablation of residual scaling. This one is far too small and too short to stand in for it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import text
from ..data.tokenizer import CharTokenizer
from ..train.evaluate import held_out_loss
from ..train.loop import Recipe, Trainer
from ..train.sources import mixture, text_source

VARIANTS = {"plain": False, "scaled": True}
SETTING = dict(preset="nano", num_hidden_layers=40, hidden_size=64, head_dim=16, moe_intermediate_size=64,
               router_hidden_size=16, initializer_range=0.08, steps=80, rows=4, seq=64, lr=3e-3, warmup=10,
               held_out=4096, window=128)
SIZES = ("num_hidden_layers", "hidden_size", "head_dim", "moe_intermediate_size", "router_hidden_size",
         "initializer_range")
SEEDS = (0, 1, 2)
VECTORS = ("output_scale", "output_bias", "residual_scale", "residual_bias")


def runs() -> list[dict]:
    """Seed by seed, so that a study that is stopped early still holds whole comparisons."""
    return [dict(variant=variant, seed=seed) for seed in SEEDS for variant in VARIANTS]


def one(variant: str, seed: int) -> dict:
    """Trains one model. Returns its profile before and after, the losses, the held-out loss, the learned vectors."""
    trainer, held_out = prepare(variant, seed)
    batch = trainer.batches(SETTING["steps"])[0]            # windows that no step trains on
    before = profile(trainer.model, batch.inputs, batch.targets)
    trainer.train(bar=False)
    return {"held_out": round(held_out_loss(trainer.model, held_out, SETTING["window"]), 5),
            "losses": [round(record["loss"], 4) for record in trainer.records],
            "before": before, "after": profile(trainer.model, batch.inputs, batch.targets),
            "vectors": learned(trainer.model) if VARIANTS[variant] else None}


def model_for(variant: str, seed: int, **changes) -> Zaya:
    """The model of one run at step 0; `changes` to its config, e.g. more layers."""
    sizes = {name: SETTING[name] for name in SIZES} | changes
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Zaya(ZayaConfig.preset(SETTING["preset"], residual_scaling=VARIANTS[variant], **sizes))


def prepare(variant: str, seed: int, **changes) -> tuple[Trainer, Tensor]:
    """The trainer of one run at step 0, and the tokens of the held-out text."""
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    train, held_out = (torch.tensor(tokenizer.encode(part)) for part in text.split(text.english()))
    recipe = Recipe(steps=SETTING["steps"], lr=SETTING["lr"], warmup=SETTING["warmup"], seed=seed)
    batches = mixture(text_source(train, SETTING["rows"], SETTING["seq"], seed))
    return Trainer(model_for(variant, seed, **changes), recipe, batches), held_out[: SETTING["held_out"]]


# ---- what is measured ------------------------------------------------------------------------------------------------


def merges(model: Zaya) -> list:
    """The merges of a model in the order of the stream: attention, experts, attention, ..."""
    return [merge for block in model.layers for merge in (block.attention_merge, block.moe_merge)]


def profile(model: Zaya, inputs: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """The stream of a model, merge by merge. inputs, targets: int64 (b, t). Leaves no gradients behind.

    stream: its RMS, mean over tokens; the embedding first, so one entry more than merges.
    write:  RMS of what the merge adds: the layer's output with its bias and scale.
    grad:   norm of d loss / d stream, at the same places as `stream`.
    share:  of the final stream, what came from this write: its projection on the final stream, after all later scales.
    """
    seen = []

    def hook(merge: nn.Module, args: tuple, result: Tensor):
        output, residual = args
        if not seen:
            residual.retain_grad()
            seen.append((None, residual))
        result.retain_grad()
        write = (output + merge.output_bias) * merge.output_scale if hasattr(merge, "output_scale") else output
        seen.append((write.detach(), result))

    hooks = [merge.register_forward_hook(hook) for merge in merges(model)]
    try:
        logits = model(inputs).logits
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    finally:
        for handle in hooks:
            handle.remove()
    final, kept, share = seen[-1][1].detach(), 1.0, []
    for merge, (write, _) in zip(reversed(merges(model)), reversed(seen)):
        share.append(float(((write * kept * final).sum(-1) / final.square().sum(-1)).mean()))
        kept = kept * (merge.residual_scale.detach() if hasattr(merge, "residual_scale") else 1.0)
    found = {"stream": [rms(stream) for _, stream in seen], "write": [rms(write) for write, _ in seen[1:]],
             "grad": [float(stream.grad.norm()) for _, stream in seen], "share": share[::-1]}
    model.zero_grad(set_to_none=True)
    return {name: [float(f"{value:.5g}") for value in values] for name, values in found.items()}


def rms(x: Tensor) -> float:
    """Root of the mean square over channels, then the mean over tokens."""
    return float(x.detach().square().mean(-1).sqrt().mean())


def learned(model: Zaya) -> dict[str, dict[str, list[float]]]:
    """For each of the four vectors: its mean and standard deviation over channels, merge by merge."""
    found = {}
    for name in VECTORS:
        stack = torch.stack([getattr(merge, name).detach() for merge in merges(model)])
        found[name] = {"mean": [round(v, 5) for v in stack.mean(-1).tolist()],
                       "std": [round(v, 5) for v in stack.std(-1).tolist()]}
    return found


def paired(results: list[dict]) -> tuple[float, float]:
    """Mean over seeds of held-out loss(scaled) - loss(plain) within a seed, and its standard error."""
    loss = {(run["variant"], run["seed"]): run["held_out"] for run in results}
    seeds = sorted({seed for _, seed in loss})
    gaps = torch.tensor([loss["scaled", seed] - loss["plain", seed] for seed in seeds], dtype=torch.float64)
    return float(gaps.mean()), float(gaps.std()) / math.sqrt(len(seeds))
