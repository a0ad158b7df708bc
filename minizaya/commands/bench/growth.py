"""`bench --growth FILE.png`: what a decoded token costs as one thing grows, on the CPU, drawn beside the plan.

Preset `micro`, in float32: context, batch, experts of the same active size, and threads. The plan of a step is the
longer of two times: reading its bytes (dense weights, the experts that its tokens visit, keys and values) at the
machine's bandwidth, and multiplying at the rate of a large product; both are measured here, by threads.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from ...arch.cache import Cache
from ...arch.model import Zaya
from ...config import ZayaConfig
from ...native.step import reader
from ...plan import account
from .timing import seconds

BASE = {"context": 1024, "batch": 16, "experts": 16}
GROWS = {"context": (1024, 4096, 16384, 32768), "batch": (1, 4, 16, 64, 128), "experts": (8, 16, 32, 64)}
ALONE = {"context": 1}   # the batch while context grows: 32,768 tokens of 16 sequences would fill gigabytes


def filled(model: Zaya, batch: int, context: int, steps: int) -> Cache:
    """A cache that holds `context` tokens of each sequence, drawn numbers, with room for `steps` more."""
    config, cache = model.config, model.new_cache(batch)
    cache.length = context
    cache.kv = [torch.randn(2, batch, context + steps, *kv.shape[3:]) for kv in cache.kv]
    cache.delayed = [torch.zeros(batch, config.kv_size // 2) for _ in cache.kv]
    return cache


@torch.inference_mode()
def point(at: dict[str, int], steps: int, limits: dict, seed: int) -> dict:
    """Milliseconds a token, measured and planned, of one step of `batch` sequences: medians over `steps`."""
    torch.manual_seed(seed)
    config = ZayaConfig.preset("micro", num_experts=at["experts"])
    model, batch = Zaya(config).eval(), at["batch"]
    read, cache = reader(model), filled(model, batch, at["context"], steps + 1)
    tokens, took, visited = torch.randint(3, config.vocab_size, (steps + 1, batch, 1)), [], []

    def step(token: Tensor) -> None:
        routes = read(token, cache=cache, last_only=True).routes[:, -1]
        visited.append(sum(len(layer.unique()) for layer in routes.unbind(-1)))

    for token in tokens:
        took.append(seconds(step, token))
    bytes_ = 4 * (account.dense_parameters(config) + statistics.median(visited) * account.one_expert(config))
    bytes_ += batch * at["context"] * account.kv_bytes_per_token(config, "float32")
    work = batch * sum(account.flops(config, 1, at["context"]).values())
    planned = max(bytes_ / limits["read_gb_s"], work / limits["gemm_gflops"]) / 1e9
    return at | {"ms": 1e3 * statistics.median(took[1:]) / batch, "planned_ms": 1e3 * planned / batch}


def growth(machine: Callable[[], dict], steps: int = 7, seed: int = 0) -> dict:
    """Every point: {"rows": by what grows, each with `threads`, "machine": by threads}. The first step warms up."""
    before, most = torch.get_num_threads(), torch.get_num_threads()
    threads = sorted({1, min(2, most)})
    plan = [(what, BASE | {"batch": ALONE.get(what, BASE["batch"])} | {what: size})
            for what, sizes in GROWS.items() for size in sizes]
    rows, limits = {what: [] for what in GROWS}, {}
    try:
        for many in threads:
            torch.set_num_threads(many)
            limits[many] = machine()
            for what, at in tqdm(plan, desc=f"growth, threads {many}", file=sys.stderr, leave=False):
                rows[what].append({"threads": many} | point(at, steps, limits[many], seed))
    finally:
        torch.set_num_threads(before)
    return {"rows": rows, "machine": limits}


def run(machine: Callable[[], dict], args: argparse.Namespace) -> int:
    """Measures, draws, and prints a table or one JSON document. Returns 0."""
    from ...plots.growth import beside_the_plan  # matplotlib is for those who want pictures

    found = growth(machine, args.pairs, args.seed)
    beside_the_plan(found).savefig(args.growth)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"{'grows':8} {'to':>6} {'batch':>6} {'threads':>7} {'ms a token':>11} {'planned':>8}")
    for what, points in found["rows"].items():
        for row in points:
            print(f"{what:8} {row[what]:6} {row['batch']:6} {row['threads']:7} {row['ms']:11.3f} "
                  f"{row['planned_ms']:8.3f}")
    print(f"drawn in {args.growth}")
    return 0
