"""`python -m minizaya bench --full DIR`: a checkpoint folder paged from disk, against this machine and `transformers`.

What is measured, all in one run, in turns, so that a machine that slows down slows both:

    load       seconds from the folder to a model that answers
    decode     one token after another, warm: bytes of the weights that a token needs / seconds, over the bandwidth with
               which the machine reads a quarter of a gigabyte of floats at that moment
    prefill    128 tokens: ours, whole, against `transformers` in bfloat16, and against the fastest products that are
               known here: float32 by torch and by `matmul.cpp`, and bfloat16 where the CPU multiplies it
    memory     the most that the process held: its own, and pages of the files

trap: `transformers` is not run whole. Two small models of full width, with one layer and with three, are timed in
turns, and a layer's share is multiplied by the number of layers. Its head and the reading from disk are left out, in
its favour. Its tokens visit the experts that ours do: random routers of its own would visit fewer, and fewer are read
in less time.

On a CPU with AVX-512 BF16, `transformers` multiplies bfloat16 natively. To see a CPU without it on the same machine:

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m minizaya bench --full DIR

There torch hands no bfloat16 to oneDNN. It looks at the CPU for that and not at the switch, so oneDNN is turned off for
`transformers`, all of whose products are bfloat16.
"""

import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear
from tqdm import tqdm

from ... import hub
from ...arch.cache import Cache
from ...arch.model import ZayaOutput
from ...config import ZayaConfig
from ...hub.paging import PagedZaya
from ...native import matmul
from ...plan import account
from ...plan.memory import paged_memory
from .timing import seconds

PROMPT = 128


def held() -> dict[str, int]:
    """Bytes that this process holds now, its own ("own") and of files ("mapped"), and the most it ever held ("peak").

    Empty where the system does not say (it is Linux' /proc).
    """
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    except OSError:
        return {}
    return {name: int(lines[field].split()[0]) * 1024 for name, field in
            (("own", "RssAnon"), ("mapped", "RssFile"), ("peak", "VmHWM")) if field in lines}


def fastest_products() -> dict[str, float]:
    """FLOP/s of 128 tokens times a matrix of 2,048 x 2,048, by type: torch's or our own, the best of three turns."""
    x, weight, out = torch.ones(PROMPT, 2048), torch.ones(2048, 2048), torch.empty(PROMPT, 2048)
    narrow, small = x.bfloat16(), weight.bfloat16()
    ways = {"float32": [partial(torch.matmul, x, weight)]}
    if matmul.library() is not None:
        ways["float32"].append(partial(matmul.compiled, x, small, None, out))
    if matmul.has_bfloat16() and not older_cpu():
        ways["bfloat16"] = [partial(linear, narrow, small)]
        if matmul.multiplies_pairs():
            ways["bfloat16"].append(partial(matmul.compiled, narrow, small, None, out))
    return {kind: 2 * PROMPT * 2048**2 / min(seconds(way) for way in some for _ in range(3))
            for kind, some in ways.items()}


def older_cpu() -> bool:
    """Is the switch of an older CPU on?"""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def their_layers(config: ZayaConfig, pairs: int, routes: Tensor) -> dict[str, float]:
    """Seconds that a layer of `transformers` takes for 128 tokens in bfloat16, by the way its experts are run; medians.

    routes: int64 (1, 128, layers), the experts that our tokens visited, which theirs visit, too.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    found = {}
    for path in ("eager", "grouped_mm"):
        models = {}
        for layers in (1, 3):
            small = hub.config_to_transformers(ZayaConfig(**config.to_dict() | {
                "num_hidden_layers": layers, "layer_types": None, "vocab_size": 512}))
            theirs = transformers.ZayaForCausalLM._from_config(small, dtype=torch.bfloat16).eval()
            for layer, block in enumerate(theirs.model.layers):
                same = routes[0, :, layer % routes.shape[2], None]   # a small folder may have fewer layers
                block.mlp.gate.register_forward_hook(lambda module, args, out, same=same: (*out[:2], same, *out[3:]))
            theirs.set_experts_implementation(path)
            models[layers] = theirs
        tokens, times = torch.randint(3, 512, (1, PROMPT)), {1: [], 3: []}
        with torch.inference_mode():
            for round_ in range(pairs + 1):
                with torch.backends.mkldnn.flags(enabled=not older_cpu()):
                    took = {layers: seconds(theirs, tokens, use_cache=True, logits_to_keep=1)
                            for layers, theirs in models.items()}
                slow = sum(took.values()) > 4      # then a warm-up makes no difference, and once is enough
                for layers in took if round_ or slow else ():
                    times[layers].append(took[layers])
                if slow:
                    break
        found[path] = statistics.median((b - a) / 2 for a, b in zip(times[1], times[3]))
        del models
    return found


@torch.inference_mode()
def bench_full(folder: str, pairs: int = 7, int8: bool = False, peer: bool = True, dtype: str = "float32",
               seed: int = 0) -> dict:
    """All figures as plain JSON values. Raises what `PagedZaya` raises."""
    torch.manual_seed(seed)
    before, start = held(), time.perf_counter()
    model = PagedZaya(folder, getattr(torch, dtype), int8)
    load = time.perf_counter() - start
    config = model.config
    prompt = torch.randint(3, config.vocab_size, (1, PROMPT))
    cache = None

    def prefill() -> ZayaOutput:
        nonlocal cache
        cache = model.new_cache(1)
        return model(prompt, cache=cache, last_only=True)

    cold = seconds(prefill)
    for _ in range(2):
        out = prefill()
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    # before the bandwidth is measured, which needs a gigabyte of its own
    after, touched = held(), 2 * account.dense_parameters(config) + (0 if int8 else model.touched_bytes())
    own = model.resident_bytes() + account.kv_bytes_per_token(config, dtype) * 2 * PROMPT
    own += paged_memory(config, PROMPT, dtype)["scratch"]

    theirs = their_layers(config, max(2, pairs // 3), out.routes) if peer else {}
    floats = torch.ones(2**26)  # far more than any cache, and little beside the weights
    rows = {"prefill": [], "decode": [], "read": [], "needed": [], "multiply": []}
    for _ in tqdm(range(pairs), desc="bench --full", file=sys.stderr):
        rows["multiply"].append(fastest_products())
        rows["prefill"].append(seconds(prefill))
        for _ in range(2):                       # bring the experts of this text back, after whatever took their place
            model(token, cache=cache, last_only=True)
        for _ in range(4):
            rows["read"].append(floats.nbytes / min(seconds(floats.sum) for _ in range(2)))
            rows["decode"].append(seconds(model, token, cache=cache, last_only=True))
            rows["needed"].append(needed(model, cache))
    speeds = [n / t for n, t in zip(rows["needed"], rows["decode"])]
    decode, bytes_ = statistics.median(rows["decode"]), statistics.median(rows["needed"])
    products = {kind: statistics.median(turn[kind] for turn in rows["multiply"]) for kind in rows["multiply"][0]}
    ours, arithmetic = statistics.median(rows["prefill"]), max(products.values())
    work = account.flops(config, PROMPT, causal=True)
    work = sum(work.values()) - work["head"] * (PROMPT - 1) // PROMPT   # the last token alone goes through the head
    whole = min(theirs.values()) * config.num_hidden_layers if theirs else None
    return {
        "folder": str(folder), "layers": config.num_hidden_layers, "dtype": dtype, "int8": int8,
        "file_bytes": model.mapped.bytes,
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__, "cores": os.cpu_count(),
                    "capability": torch.backends.cpu.get_cpu_capability(),
                    "read_gb_s": statistics.median(rows["read"]) / 1e9,
                    **{f"{kind}_gflop_s": speed / 1e9 for kind, speed in products.items()}},
        "load_seconds": load, "prefill_first_seconds": cold,
        "decode": {"seconds": decode, "bytes": bytes_, "gb_s": bytes_ / decode / 1e9,
                   "of_bandwidth": statistics.median(speed / read for speed, read in zip(speeds, rows["read"]))},
        "prefill": {"tokens": PROMPT, "seconds": ours, "flops": work, "of_arithmetic": work / ours / arithmetic,
                    "least_seconds": work / arithmetic, "transformers_layer_seconds": theirs,
                    "transformers_seconds": whole, "ratio": whole / ours if theirs else None},
        "memory": {"before": before, "after": after, "planned_own": own, "planned_mapped": touched,
                   "planned_peak": before.get("peak", 0) + own + touched},
    }


def needed(model: PagedZaya, cache: Cache) -> int:
    """Bytes that one more token must read: dense weights once, an expert a layer, the cache."""
    config = model.config
    expert = config.num_hidden_layers * account.one_expert(config) * (1 if model.layers[0].experts.int8 else 2)
    return 2 * account.dense_parameters(config) + expert + cache.length * cache.bytes_per_token


def table(found: dict) -> str:
    """The same for people."""
    box, decode, prefill, memory = (found[name] for name in ("machine", "decode", "prefill", "memory"))
    speeds = "".join(f"{box[f'{kind}_gflop_s']:.0f} GFLOP/s in {kind}, " for kind in ("float32", "bfloat16")
                     if f"{kind}_gflop_s" in box)
    lines = [f"{found['folder']}: {found['file_bytes'] / 1e9:.2f} GB, {found['layers']} layers, "
             f"activations {found['dtype']}" + (", experts int8" if found["int8"] else ""),
             f"machine   {box['threads']} threads, {box['capability']}, {box['read_gb_s']:.1f} GB/s read, {speeds}"
             f"torch {box['torch']}",
             f"load      {found['load_seconds']:.2f} s, "
             f"then {found['prefill_first_seconds']:.1f} s for the first {PROMPT} tokens",
             f"decode    {decode['seconds'] * 1e3:.0f} ms a token, {decode['bytes'] / 1e9:.2f} GB each: "
             f"{decode['gb_s']:.1f} GB/s, {decode['of_bandwidth']:.0%} of the bandwidth",
             f"prefill   {prefill['seconds']:.2f} s for {PROMPT} tokens, "
             f"{prefill['of_arithmetic']:.0%} of the arithmetic"]
    if prefill["ratio"] is not None:
        theirs, least = prefill["transformers_seconds"], prefill["least_seconds"]
        by = ", ".join(f"{path} {took * 1e3:.0f} ms" for path, took in prefill["transformers_layer_seconds"].items())
        lines.append(f"          transformers in bfloat16 {theirs:.1f} s ({by} a layer): {prefill['ratio']:.2f}x; "
                     f"its arithmetic alone allows {theirs / least:.1f}x")
    if memory["after"]:
        before, after = memory["before"], memory["after"]
        lines.append(f"memory    own {(after['own'] - before['own']) / 1e9:.2f} GB more than before loading, "
                     f"planned {memory['planned_own'] / 1e9:.2f}; peak {after['peak'] / 1e9:.2f} GB with pages of "
                     f"files, planned {memory['planned_peak'] / 1e9:.2f}")
    return "\n".join(lines)
