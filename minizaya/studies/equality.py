"""Is a layout the same model? Trains a tiny model both ways, in float64, and says how far they are apart.

Every rank also runs the whole job alone, with `train.loop.Trainer`, and compares its own rows of weights, gradients and
routes with it. The batches are made to be awkward: rows that do not divide by the ranks, fewer rows than ranks, odd
lengths, padding, packed documents, experts that get nearly everything and experts that get nothing.
"""

from functools import cache

import torch
import torch.distributed as dist

from ..arch import balance
from ..arch.model import Zaya
from ..config import ZayaConfig
from ..parallel.expert_parallel import slice_of
from ..parallel.grid import Grid
from ..parallel.layout import Layout, rows_of
from ..parallel.trainer import ParallelTrainer
from ..train.loop import Recipe, Trainer
from ..train.sources import IGNORE, Batch

TINY = dict(vocab_size=23, hidden_size=12, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=4, num_experts=4, moe_intermediate_size=5, router_hidden_size=6, rope_theta=100.0, pad_token_id=0,
            layer_types=("hybrid", "hybrid_sliding"), sliding_window=6, rope_theta_sliding=10.0)
LOADS = {  # the routing biases of four experts and the skip route at the start
    "skewed": (0.12, 0.0, -0.05, -2.0, -0.15),   # expert 0 gets most, expert 3 nothing
    "half empty": (0.03, 0.0, -3.0, -3.0, -0.1),  # two experts in a row get nothing: with ep2, all of rank 1's
    "balanced": (0.0, 0.0, 0.0, 0.0, -0.1),
}


def tiny_model(load: str | None = "skewed", seed: int = 0, dtype: str = "float64", **changes) -> Zaya:
    """A model of two layers whose every parameter is drawn, with uneven routes."""
    generator = torch.Generator().manual_seed(seed)
    model = Zaya(ZayaConfig(**TINY | changes)).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise if parameter.dim() > 1 else parameter + 0.3 * noise)
        for block in model.layers:
            if load is not None:
                block.router.balancing_bias.copy_(torch.tensor(LOADS[load]))
    return model


def tiny_batches(step: int, seed: int = 0) -> list[Batch]:
    """Three micro-batches: five odd rows, three padded ones of which most is not scored, two of packed documents."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    def tokens(*shape):
        return torch.randint(1, 23, shape, generator=generator)
    text, padded, packed = tokens(5, 14), tokens(3, 6), tokens(2, 16)
    valid = torch.arange(5) < torch.tensor([[5], [4], [2]])    # with cp4 a chunk is shorter than the halo
    scored = torch.arange(5) >= torch.tensor([[4], [1], [1]])
    lengths = [(3, 1, 9, 2), (7, 2, 1, 5)]   # two ranks: the second one begins at the second token of a document
    documents = torch.stack([torch.repeat_interleave(torch.arange(4), torch.tensor(row)) for row in lengths])
    return [Batch("text", text[:, :-1], text[:, 1:]),
            Batch("task", padded[:, :-1], torch.where(valid & scored, padded[:, 1:], IGNORE), valid),
            Batch("packed", packed[:, :-1], packed[:, 1:], None, documents)]


def record(trainer) -> dict:
    """Keeps what the trainer's steps compute: loss, clipped gradients and routes, a list entry a step."""
    kept = {"loss": [], "gradients": [], "routes": [[]]}
    trainer.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: kept["gradients"].append(
        {name: (p.grad.to_local() if hasattr(p.grad, "to_local") else p.grad).clone()
         for name, p in trainer.model.named_parameters()}))
    trainer.model.register_forward_hook(lambda module, args, out: kept["routes"][-1].append(out.routes))

    def step() -> None:
        kept["loss"].append(trainer.train_step()["loss"])
        kept["routes"].append([])

    kept["step"] = step
    return kept


@cache
def in_one_process(steps: int, load: str, seed: int, dtype: str) -> tuple[Trainer, dict]:
    """The trainer after `steps` steps alone, and what `record` kept."""
    recipe = Recipe(steps=steps, lr=0.02, warmup=2, balance_lr=0.05)
    trainer = Trainer(tiny_model(load, seed, dtype), recipe, lambda step: tiny_batches(step, seed),
                      compiled=False)   # as the ranks compute
    kept = record(trainer)
    for _ in range(steps):
        kept["step"]()
    return trainer, kept


def differences(layout: str, steps: int = 5, load: str = "skewed", seed: int = 0, dtype: str = "float64") -> dict:
    """Called by all ranks: the largest difference to one process over `steps` optimizer steps with balancer updates.

    Returns "loss", "gradients", "weights", "biases" (absolute), "routes" (how many tokens went elsewhere), and
    "tokens", how many each expert got in the first step, by layer.
    """
    grid = Grid(Layout.parse(layout))
    alone, wanted = in_one_process(steps, load, seed, dtype)
    shared = ParallelTrainer(tiny_model(load, seed, dtype), alone.recipe, alone.batches, grid)
    got = record(shared)
    worst = dict.fromkeys(("loss", "gradients", "weights", "biases", "routes"), 0.0)
    for step in range(steps):
        got["step"]()
        worst["loss"] = max(worst["loss"], abs(wanted["loss"][step] - got["loss"][step]))
        for name, gradient in wanted["gradients"][step].items():
            start, stop = rows_of(name, len(gradient), grid.layout, grid.rank)
            worst["gradients"] = max(worst["gradients"], apart(got["gradients"][step][name], gradient[start:stop]))
        for all_routes, own in zip(wanted["routes"][step], got["routes"][step]):
            mine = all_routes[slice_of(len(all_routes), grid.rows, grid.layout.dp * grid.layout.ep)]
            chunk = slice_of(mine.shape[1], grid.cp_rank, grid.layout.cp)
            worst["routes"] += int((mine[:, chunk] != own).any(-1).sum()) if len(mine) else 0
    with torch.no_grad():
        for name, p in alone.model.named_parameters():
            start, stop = rows_of(name, len(p), grid.layout, grid.rank)
            worst["weights"] = max(worst["weights"], apart(shared.model.get_parameter(name).to_local(), p[start:stop]))
    worst["biases"] = apart(balance.get_biases(shared.model), balance.get_biases(alone.model))
    values = torch.tensor(list(worst.values()), dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    visits = sum(balance.counts(routes, alone.model.config.num_experts) for routes in wanted["routes"][0])
    return dict(zip(worst, values.tolist())) | {"tokens": visits.tolist()}


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference; infinity where shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max()) if one.numel() else 0.0
