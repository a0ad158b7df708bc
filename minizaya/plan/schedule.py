"""How long a recipe takes, and what it costs: FLOPs over what the devices get done.

    python -m minizaya plan zaya1-8b --dp 1024 --efficiency 0.04 --price 2

The stages and their tokens are the report's (`train.stages.REAL`, `rl.cascade.REAL`). Efficiency and price are yours to
state. The efficiency is model FLOPs over peak FLOPs, counting what the model needs: visible keys only, nothing done
twice.

The default is what the report's own storage estimate implies: 4,096 sequences of 4,096 tokens in 2.5 s on 1,024 MI300X.
That is a planning figure of theirs, rounded, and not a measured throughput; a price of $2 a GPU-hour is nobody's offer.
"""

import math

from ..config import ZayaConfig
from ..rl import cascade
from ..train import stages
from . import account
from .devices import device

STEP = {"tokens": 4096 * 4096, "seconds": 2.5, "devices": 1024}   # report, appendix B
ANSWERS = 128 * 16                                                # an update of RL: prompts times answers


def implied_efficiency() -> float:
    """Model FLOPs of the report's step (ZAYA1-8B, MI300X) over the peak of its devices."""
    work = STEP["tokens"] * training_flops(ZayaConfig.preset("zaya1-8b"), 4096)
    return work / (STEP["seconds"] * STEP["devices"] * device("mi300x").flops)


def training_flops(config: ZayaConfig, context: int) -> float:
    """FLOPs of one token, forward and backward, in sequences of `context`."""
    return 3 * sum(account.flops(config, context, causal=True).values()) / context


def schedule(config: ZayaConfig, devices: int, on: str = "mi300x", efficiency: float | None = None, price: float = 2.0,
             answer_tokens: int | None = None) -> list[dict]:
    """One row a stage: name, tokens, context, FLOPs, hours, cost in the unit of `price` (of a device-hour).

    efficiency: None takes `implied_efficiency`. answer_tokens: the mean length of an answer in RL, which nobody has
    published; None leaves RL out. Its row counts writing the answers (one forward) and learning from them (three);
    writing is bound by memory, so its time is a lower bound.
    Raises ValueError for an efficiency outside 0..1, a price below 0, fewer than one device or token.
    """
    peak = device(on)
    efficiency = implied_efficiency() if efficiency is None else efficiency
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency must lie in 0 < efficiency <= 1, got {efficiency!r}")
    if not 0 <= price < math.inf:
        raise ValueError(f"price must not be negative, and finite, got {price!r}")
    if devices < 1 or (answer_tokens is not None and answer_tokens < 1):
        raise ValueError(f"devices and answer_tokens must be at least 1, got {devices} and {answer_tokens}")
    work = [(stage["name"], stage["tokens"], stage["context"], 1.0) for stage in stages.REAL]
    if answer_tokens is not None:
        for stage in cascade.REAL:
            updates = sum(int(part) for part in stage["updates"].split("+"))
            work.append((f"rl: {stage['name']}", updates * ANSWERS * answer_tokens, answer_tokens, 4 / 3))
    rows = []
    for name, tokens, context, passes in work:   # passes: forward and backward are one, a forward is a third
        total = tokens * training_flops(config, context) * passes
        hours = total / (devices * peak.flops * efficiency) / 3600
        rows.append({"stage": name, "tokens": tokens, "context": context, "flops": total, "hours": hours,
                     "device_hours": hours * devices, "cost": hours * devices * price})
    return rows
