"""What a device can do, and what that asks of a model: sizes it likes, the batch at which decoding is no longer slow.

Decoding reads every weight that some sequence needs and the sequence's own cache, and does two FLOPs a weight with
each. A device that does R FLOPs in the time of one byte (its ridge) waits for memory as long as a step does less than R
a byte.

Sources: MI300X and H100: vendors' peaks. trap: nobody reaches them; the bandwidths that the AMD paper measured stand
beside PEAK. The rules for MI300X (multiples of 64; GEMMs of about 200 GFLOP; all eight GPUs of a node in a collective):
the same paper, section on sizing, as reported by its readers: leads, not laws.
"""

import math
import shutil
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from ..config import ZayaConfig
from ..parallel.layout import ONE_RANK, Layout
from . import account

NODE = 8           # GPUs that are wired to each other
GOOD_GEMM = 200e9  # FLOPs from which a product reaches the best rate
MOST = 2**24       # batches and contexts beyond it are as good as endless


@dataclass(frozen=True)
class Device:
    """memory: bytes. bandwidth: bytes a second, peak. flops: dense peak, FLOPs a second, whatever the type asked for:
    of bfloat16; of the laptop, which has none, float32."""

    memory: float
    bandwidth: float
    flops: float

    @property
    def ridge(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bandwidth


PEAK = {
    "mi300x": Device(192e9, 5.3e12, 1307e12),   # measured: 4.33e12 bytes a second (second-hand)
    "h100": Device(80e9, 3.35e12, 989e12),      # measured: 3.036e12 (second-hand)
    # two cores of the machine that the lessons were timed on: float32 GEMM and reading, from `bench`
    "laptop": Device(24e9, 35e9, 0.18e12),
}


def device(name: str) -> Device:
    if name not in PEAK:
        raise ValueError(f"device must be one of {', '.join(PEAK)}, got {name!r}")
    return PEAK[name]


def disk_room(folder: str | Path) -> int:
    """Bytes that are free on the disk where `folder` lies, or would if it were made."""
    there = Path(folder).resolve()
    return shutil.disk_usage(next(place for place in (there, *there.parents) if place.exists())).free


# ---- decoding --------------------------------------------------------------------------------------------------------


def decode_bytes(config: ZayaConfig, batch: int, context: int, dtype: str = "bfloat16") -> float:
    """Bytes that one step of `batch` sequences reads: dense weights, the experts that somebody visits, all caches.

    Experts are visited at random here: of E, batch tokens visit E (1 - (1 - 1/E)^batch) in the mean.
    """
    visited = (1 - (1 - 1 / config.num_experts) ** batch) * account.parameters(config)["experts"]
    cache = context * account.kv_bytes_per_token(config, dtype) + account.state_bytes_per_sequence(config, dtype)
    return account.bytes_of(dtype) * (account.dense_parameters(config) + visited) + batch * cache


def decode_seconds(config: ZayaConfig, batch: int, context: int, on: Device,
                   dtype: str = "bfloat16") -> tuple[float, float]:
    """Seconds a step that memory asks for, and that arithmetic asks for, each at its peak; the longer one holds."""
    work = batch * sum(account.flops(config, 1, context - 1).values())
    return decode_bytes(config, batch, context, dtype) / on.bandwidth, work / on.flops


def ridge_batch(config: ZayaConfig, context: int, on: Device, dtype: str = "bfloat16") -> int | None:
    """The smallest batch at which arithmetic takes as long as memory, or None: caches keep memory busier for ever.

    A sequence's cache is read once and used by its own queries only, H / K FLOPs a byte: below any ridge. So a longer
    context moves the ridge away, and from some length on there is none.
    """
    def bound(batch: int) -> bool:
        memory, arithmetic = decode_seconds(config, batch, context, on, dtype)
        return arithmetic >= memory

    batches = range(1, MOST + 1)          # bytes grow ever slower than FLOPs, so there is one crossing
    found = bisect_left(batches, True, key=bound)
    return batches[found] if found < MOST else None


def room_for_context(config: ZayaConfig, on: Device, dtype: str = "bfloat16") -> int:
    """The longest context for which there is a ridge at all (0: none)."""
    return bisect_left(range(1, MOST), True, key=lambda context: ridge_batch(config, context, on, dtype) is None)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def products(config: ZayaConfig, tokens: int) -> dict[str, tuple[int, int, int]]:
    """The matrix products of a layer and the head, as (rows, columns, inner), of `tokens` that experts share evenly."""
    packed = config.query_size + config.kv_size
    each = max(1, tokens // config.num_experts)
    return {
        "attention down": (tokens, packed + config.kv_size, config.hidden_size),
        "attention up": (tokens, config.hidden_size, config.query_size),
        "router down": (tokens, config.router_hidden_size, config.hidden_size),
        "expert gate and up": (each, 2 * config.moe_intermediate_size, config.hidden_size),
        "expert down": (each, config.hidden_size, config.moe_intermediate_size),
        "head": (tokens, config.vocab_size, config.hidden_size),
    }


def shortfall(work: float) -> str:
    """How many times GOOD_GEMM is too much for a product of `work` FLOPs, rounded up: what falls short is no 1.0."""
    times = GOOD_GEMM / work
    return f"{math.ceil(times * 10) / 10:.1f}" if times < 10 else f"{math.ceil(times):,}"


def findings(config: ZayaConfig, layout: Layout = ONE_RANK, tokens: int = 4096) -> list[dict]:
    """The rules for MI300X, applied: {"rule", "what", "ok", "said"} each.

    tokens: of one device in a step. With ep, an expert sees the tokens of ep devices, and there are fewer of them here.
    The last rule but one is FSDP's: ranks that share experts hold whole ones (`memory.held_by_a_rank`).
    """
    found = []

    def note(rule: str, what: str, ok: bool, said: str, but: str = "") -> None:
        found.append({"rule": rule, "what": what, "ok": ok, "said": said + ("" if ok else but)})

    for name in ("vocab_size", "hidden_size", "moe_intermediate_size", "router_hidden_size", "head_dim", "query_size",
                 "kv_size"):
        size = getattr(config, name)
        note("multiples of 64", name, size % 64 == 0, f"{size:,}", f": pad to {-(-size // 64) * 64:,}")
    for name, (m, n, k) in products(config, tokens).items():
        m *= layout.ep if name.startswith("expert") else 1
        work = 2 * m * n * k
        note("GEMMs near 200 GFLOP", name, work >= GOOD_GEMM,
             f"{m:,} x {n:,} x {k:,} = {work / 1e9:,.1f} GFLOP", f", {shortfall(work)}x short")
    for name in ("dp", "ep", "cp"):
        size = getattr(layout, name)
        if size > 1:
            note("whole nodes of 8", name, size % NODE == 0, f"{size} ranks",
                 f": at best {min(size, NODE) - 1} of a GPU's {NODE - 1} links at work")
    experts, sharers = config.num_experts // layout.ep, layout.ranks // layout.ep
    if sharers > 1:
        note("experts divide", "dp x cp", experts % sharers == 0, f"{experts} experts over {sharers} ranks",
             f": each has room for {-(-experts // sharers)}, not {experts / sharers:.3g}")
    if layout.ranks % NODE and layout.ranks > 1:
        note("whole nodes of 8", "devices", False, f"{layout.ranks} is no multiple of {NODE}",
             ": a node stays partly idle")
    return found
