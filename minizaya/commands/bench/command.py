"""`python -m minizaya bench`: this package against `transformers` on the same weights, and against the machine.

The figure is the median over pairs of runs. `limit_share` says how near a row comes to what the machine can do at all:
for training and prefill, the floating-point operations that torch's own counter sees, over the rate of a large matrix
product measured in the same run; for decoding, the bytes of weights and of KV cache that a step must read, over the
measured read bandwidth. MiB: how much more memory than before one call holds at its peak.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ... import hub
from ...arch.model import Zaya
from ...config import ZayaConfig
from ...infer.engine import Engine, engine_generate
from ...infer.generate import generate
from ...native.fused.model import summed_loss
from ...native.step import reader
from ..shared import device, flags
from . import answers, data, full, growth, losses
from .timing import compare, seconds


def machine(device: torch.device | str = "cpu") -> dict:
    """Float32 GEMM rate (GFLOP/s, best of 5 products of 1536^3) and read bandwidth (GB/s, best of 5 sums of 1 GiB)."""
    place = dict(dtype=torch.float32, device=device)
    a, b, big = torch.randn(1536, 1536, **place), torch.randn(1536, 1536, **place), torch.ones(2**28, **place)
    gemm = min(seconds(torch.mm, a, b, device=device) for _ in range(6))
    read = min(seconds(torch.sum, big, device=device) for _ in range(6))
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "device": str(device),
            "gemm_gflops": 2 * 1536**3 / gemm / 1e9, "read_gb_s": big.nbytes / read / 1e9}


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and attention in one call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def our_train_step(model: Zaya, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    total, _ = summed_loss(model, tokens[:, :-1], tokens[:, 1:])
    (total / tokens[:, 1:].numel()).backward()
    optimizer.step()
    optimizer.zero_grad()


def their_train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    logits = model(tokens[:, :-1]).logits
    F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.inference_mode()
def our_prefill(model: Zaya, tokens: Tensor, compiled: bool | None = None) -> None:
    reader(model, compiled)(tokens, cache=model.new_cache(len(tokens)), last_only=True)


@torch.inference_mode()
def their_prefill(model: torch.nn.Module, tokens: Tensor) -> None:
    model(tokens, use_cache=True, logits_to_keep=1)


def our_decode(model: Zaya, prompts: list[list[int]], new: int) -> None:
    generate(model, prompts, new, temperature=0.0)


@torch.inference_mode()
def their_decode(model: torch.nn.Module, prompts: list[list[int]], new: int) -> None:
    tokens = torch.tensor(prompts, device=model.device)
    model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, min_new_tokens=new,
                   max_new_tokens=new, eos_token_id=None, pad_token_id=0)


@torch.inference_mode()
def decode_bytes(model: Zaya, prompts: list[list[int]], new: int) -> float:
    """Bytes that one decoding step must read: dense weights once, each expert that some token visits, the KV cache."""
    config = model.config
    # the last prompt token stands for a typical step
    routes = model(torch.tensor(prompts, device=model.embed.weight.device)).routes
    visited = sum(len(layer.unique()) for layer in routes[:, -1].unbind(-1))
    stacked = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    dense = sum(p.numel() for p in model.parameters()) - stacked
    expert = stacked // (config.num_hidden_layers * config.num_experts)
    context = len(prompts[0]) + new / 2
    kv = len(prompts) * context * model.new_cache(1).bytes_per_token
    return (dense + visited * expert) * model.embed.weight.element_size() + kv


def peers(work: Callable, theirs: dict, *args) -> dict[str, Callable[[], None]]:
    """`work` with each of the models `theirs`, to be called without arguments."""
    return {key: partial(work, model, *args) for key, model in theirs.items()}


def train_row(model: Zaya, theirs: dict, tokens: Tensor, pairs: int, gemm: float) -> dict:
    """8 rows of 256 tokens: forward, loss, backward, AdamW. The optimizers' memory is gone when it returns."""
    def stepper(step: Callable, net: torch.nn.Module) -> Callable[[], None]:
        return partial(step, net, torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True), tokens)

    row = compare("train_step_8x256", 8 * 256, stepper(our_train_step, model),
                  {key: stepper(their_train_step, net) for key, net in theirs.items()}, pairs,
                  model.embed.weight.device)
    return row | {"limit_share": row["ours"] / (8 * 256) * flops(stepper(their_train_step, model)) / gemm}


def prefill_row(model: Zaya, theirs: dict, prompt: Tensor, pairs: int, gemm: float) -> dict:
    """One prompt of 1,024 tokens, or eight of 256. The limit is that of the plain way's products, though
    the fused one leaves out those of the last layer's experts that nobody reads."""
    (batch, steps), count = prompt.shape, prompt.numel()
    row = compare(f"prefill_{batch}x{steps}", count, partial(our_prefill, model, prompt),
                  peers(their_prefill, theirs, prompt), pairs, model.embed.weight.device)
    return row | {"limit_share": row["ours"] / count * flops(partial(our_prefill, model, prompt, False)) / gemm}


def decode_row(model: Zaya, theirs: dict, prompts: list[list[int]], pairs: int, read: float, new: int = 64) -> dict:
    """Prompts of 32 tokens, `new` more each."""
    many = len(prompts)
    row = compare(f"decode_batch_{many}", many * new, partial(our_decode, model, prompts, new),
                  peers(their_decode, theirs, prompts, new), pairs, model.embed.weight.device)
    return row | {"limit_share": row["ours"] / many * decode_bytes(model, prompts, new) / read}


def engine_row(preset: str, pairs: int, seed: int, device: torch.device | str) -> dict:
    """The engine with 64 sequences at once, against the same engine with one: tokens per second, 48 new tokens each."""
    torch.manual_seed(seed)
    model = Zaya(ZayaConfig.preset(preset)).to(device)
    prompts = torch.randint(3, 100, (64, 16)).tolist()
    one, all_ = (partial(engine_generate, Engine(model, slots=many, size=64, joining=many), prompts[:many], 48)
                 for many in (1, 64))
    row = compare(f"engine_64_{preset}", 64 * 48, all_, {"one at a time": one}, pairs, model.embed.weight.device)
    # the peer wrote one sequence, not 64
    return row | {"peer": row["peer"] / 64, "ratio": 64 * row["ratio"], "limit_share": None}


def bench(pairs: int = 7, preset: str = "micro", seed: int = 0, device: torch.device | str = "cpu") -> dict:
    """All rows, on `device`. Raises ModuleNotFoundError with what to install when `transformers` is missing."""
    try:
        import transformers
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("bench compares with transformers: pip install 'minizaya[test]'") from missing
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    config = ZayaConfig.preset(preset)
    model, theirs = Zaya(config).to(device), {}
    for path in ("eager", "grouped_mm"):
        theirs[path] = hub.to_transformers(model).to(device)
        theirs[path].set_experts_implementation(path)
    limits = machine(device)
    gemm, read = limits["gemm_gflops"] * 1e9, limits["read_gb_s"] * 1e9

    def tokens(batch: int, steps: int) -> Tensor:
        return torch.randint(3, config.vocab_size, (batch, steps)).to(device)

    same = losses.curves(model, theirs["eager"], seed)   # before the first row trains them, each its own way
    rows = [train_row(model, theirs, tokens(8, 257), pairs, gemm),
            *(prefill_row(model, theirs, tokens(*shape), pairs, gemm) for shape in ((1, 1024), (8, 256))),
            *(decode_row(model, theirs, tokens(many, 32).tolist(), pairs, read) for many in (1, 16, 64)),
            *(engine_row(name, pairs, seed, device) for name in ("nano", preset))]
    return {"rows": rows + data.rows(pairs, seed, device) + answers.rows(pairs, seed), "machine": limits,
            "losses": same}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "compare speed with transformers' ZAYA on the same weights, and with the machine's limits"
    parser.add_argument("--pairs", type=int, default=7, help="alternating pairs per row, at least 7 (default 7)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", metavar="DIR", help="time a checkpoint folder paged from disk, instead")
    parser.add_argument("--int8", action="store_true", help="with --full: experts in int8")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="with --full: of activations")
    parser.add_argument("--no-peer", action="store_true", help="with --full: without transformers")
    parser.add_argument("--growth", type=Path, metavar="FILE.png", help="draw what a decoded token costs as context, "
                        "batch, experts and threads grow, beside the plan, instead (on the CPU)")
    device.add_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Prints a table, or one JSON document. Returns 0."""
    if args.pairs < (3 if args.full else 7):
        raise ValueError(f"pairs must be at least {3 if args.full else 7} for a median worth quoting, got {args.pairs}")
    if args.full:
        flags.refuse(args, "with --full", growth=None)
    if args.growth and args.device not in ("auto", "cpu"):
        raise ValueError(f"device: --growth decodes on the CPU, got {args.device!r}")
    flags.writable("growth", args.growth)
    if not args.full:
        flags.refuse(args, "without --full", int8=False, no_peer=False, dtype="float32")
    if args.full and args.device not in ("auto", "cpu"):
        raise ValueError(f"device: --full times a model paged from disk, which runs on the CPU, got {args.device!r}")
    if args.full:
        found = full.bench_full(args.full, args.pairs, args.int8, not args.no_peer, args.dtype, args.seed)
        print(json.dumps(found) if args.json else full.table(found))
        return 0
    if args.growth:
        return growth.run(machine, args)
    result = bench(args.pairs, seed=args.seed, device=device.choose(args.device))
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{'row':18} {'ours':>10} {'peer':>10} {'unit':15} {'ratio':>7} {'of limit':>8} {'MiB':>6} {'peer':>6}  "
          "peer's path")
    for row in result["rows"]:
        limit = "-" if row["limit_share"] is None else f"{row['limit_share']:.1%}"
        peaks = " ".join(f"{'-' if row[key] is None else format(row[key], '.0f'):>6}" for key in ("mib", "peer_mib"))
        fill = f", rows {row['fill']:.1%} full" if "fill" in row else ""
        print(f"{row['name']:18} {row['ours']:10.0f} {row['peer']:10.0f} {row['unit']:15} {row['ratio']:6.2f}x "
              f"{limit:>8} {peaks}  {row['peer_path']}{fill}")
    both = result["losses"]
    print(f"losses: {both['steps']} steps from the same weights, {both['ours'][0]:.2f} to {both['ours'][-1]:.2f} nats; "
          f"the peer's differ by at most {both['gap']:.1e} of them")
    box = result["machine"]
    print(f"machine: {box['gemm_gflops']:.0f} GFLOP/s float32 GEMM, {box['read_gb_s']:.1f} GB/s read, "
          f"{box['threads']} threads, torch {box['torch']}")
    return 0
