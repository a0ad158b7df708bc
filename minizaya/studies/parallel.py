"""Several processes: how far each layout is from one process, who sends what to whom, and a halo left out.

The jobs, which `parallel.launch.run_job` starts by name on every rank, stand below `one`.
"""

import os
import signal

import torch
import torch.distributed as dist
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..parallel import context_parallel
from ..parallel.expert_parallel import slice_of
from ..parallel.grid import Grid, forward, parallelize, split_batch
from ..parallel.launch import run_job
from ..parallel.layout import Layout
from ..parallel.traffic import Traffic
from ..parallel.trainer import ParallelTrainer
from ..train.loop import Recipe
from ..train.sources import Batch
from . import equality

SETTING = {"preset": "nano", "rows": 8, "tokens": 64, "skew": 0.7, "steps": 5, "load": "skewed", "positions": 23}
LAYOUTS = ("dp2", "ep2", "ep4", "dp2xep2", "cp2", "cp4")


def runs() -> list[dict]:
    return [*({"what": "differences", "layout": layout} for layout in LAYOUTS),
            *({"what": "sent", "layout": layout, "load": load}
              for layout, load in (("ep4", "balanced"), ("ep4", "skewed"), ("cp4", "balanced"))),
            *({"what": "halo", "layout": "cp4", "halo": halo} for halo in (True, False))]


def one(what: str, layout: str, load: str = "", halo: bool = True) -> dict:
    """Starts one job. See `compare`, `sent` and `without_halo` for what it measures."""
    ranks = Layout.parse(layout).ranks
    if what == "differences":
        return run_job("minizaya.studies.parallel:compare", ranks, layouts=[layout])[0][0]
    if what == "sent":
        rows = run_job("minizaya.studies.parallel:sent", ranks, layout=layout, load=load)
        return {"sent": {kind: [row[kind] for row in rows] for kind in rows[0]}}   # kind -> [source][target]
    parts = run_job("minizaya.studies.parallel:without_halo", ranks, layout=layout, halo=halo)
    return {name: sum((part[name] for part in parts), []) for name in parts[0]}


# ---- jobs: called by every rank --------------------------------------------------------------------------------------


def compare(layouts: list[str]) -> list[dict]:
    """`equality.differences` of several layouts of the same number of ranks."""
    found = [equality.differences(layout, SETTING["steps"], SETTING["load"]) for layout in layouts]
    return [{key: value for key, value in one.items() if key != "tokens"} for one in found]


def pinned_routes(load: str) -> torch.Tensor:
    """int64 (rows, tokens, layers): even over the experts; or the share `skew` to expert 0, the others even."""
    cfg = ZayaConfig.preset(SETTING["preset"])
    shape = SETTING["rows"], SETTING["tokens"], cfg.num_hidden_layers
    count = torch.Size(shape).numel()
    even = (torch.arange(count) % cfg.num_experts).view(shape)
    if load == "balanced":
        return even
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(shape, generator=generator) < SETTING["skew"]
    return torch.where(first, 0, torch.randint(1, cfg.num_experts, shape, generator=generator))


def sent(layout: str, load: str) -> dict[str, list[int]]:
    """Bytes that this rank sends to each rank in one forward and backward pass of the preset, by kind.

    Routes are replayed, so the load is what its name says. Weights that are gathered are left out: they do not depend
    on the load.
    """
    grid = Grid(Layout.parse(layout))
    torch.manual_seed(0)
    model = parallelize(Zaya(ZayaConfig.preset(SETTING["preset"])), grid)
    tokens = torch.randint(0, 100, (SETTING["rows"], SETTING["tokens"]))
    part = split_batch(Batch("text", tokens, tokens), grid)
    with Traffic() as traffic:
        if grid.layout.cp > 1:
            out, _ = forward(model, part, grid)
        else:
            mine = slice_of(len(tokens), grid.rows, grid.layout.dp * grid.layout.ep)
            out = model(part.inputs, routes=pinned_routes(load)[mine])
        out.logits.sum().backward()
    kinds = [kind for kind in traffic.sent if not kind.startswith(("weights", "sums"))]
    return {kind: traffic.sent[kind] for kind in sorted(kinds)}


class NoHalo(context_parallel.ContextCache):
    """The bug: every rank believes that its chunk is the start of the sequence, as far as the convolutions go."""

    def exchange(self, layer: int, z: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
        past, before = super().exchange(layer, z, then)
        return torch.zeros_like(past), torch.zeros_like(before)


def without_halo(layout: str, halo: bool) -> dict[str, list[float]]:
    """Errors of this rank's chunk against one process, by token: "keys" (and values) of the first layer, "logits".

    halo: False leaves the halo and the shifted value out.
    """
    grid = Grid(Layout.parse(layout))
    model = equality.tiny_model(SETTING["load"], sliding_window=SETTING["positions"])
    tokens = torch.randint(1, 23, (2, SETTING["positions"]), generator=torch.Generator().manual_seed(0))
    lengths = context_parallel.chunk_lengths(tokens.shape[1], grid.layout.cp)
    kind = context_parallel.ContextCache if halo else NoHalo
    cache = kind(model.config, len(tokens), lengths, grid.cp, torch.float64)
    mine, seen = slice(cache.start, cache.stop), []
    projected = model.layers[0].attention.project
    model.layers[0].attention.project = lambda *args: seen.append(projected(*args)) or seen[-1]
    with torch.no_grad():
        whole = model(tokens).logits
        part = model(tokens[:, mine], cache=cache).logits
    everything, own = (torch.cat([k, v], dim=-1) for _, k, v in seen)
    return {"keys": (everything[:, mine] - own).abs().amax((0, 2, 3)).tolist(),
            "logits": (whole[:, mine] - part).abs().amax((0, 2)).tolist()}


def train(folder: str, layout: str, steps: int, lost: list[int] | None = None) -> dict:
    """Trains the tiny model to step `steps`, a checkpoint every second step, going on from what is there.

    lost: [rank, step], a rank that is gone after that step, as if somebody had pulled its plug. Returns "done", the
    steps that the checkpoint held already, and "losses", of all steps.
    """
    def watch(record: dict) -> None:
        if lost == [dist.get_rank(), record["step"]]:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = ParallelTrainer(equality.tiny_model(), Recipe(steps=steps, lr=0.02, warmup=2, balance_lr=0.05),
                              equality.tiny_batches, Grid(Layout.parse(layout)), folder, resume=True)
    done = trainer.step
    trainer.train(save_every=2, bar=False, watch=watch)
    return {"done": done, "losses": [record["loss"] for record in trainer.records]}
