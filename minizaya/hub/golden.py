"""Is this folder the released model, read rightly? `python -m minizaya doctor --weights DIR` asks it eleven tokens.

A wrong byte, a transposed matrix, a forgotten bias: each changes the eleven likeliest next tokens, or the logits. The
values to compare with were published with the port in `transformers`, computed in bfloat16, and so is ours. They belong
to the released weights and to no others.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..config import ZayaConfig
from .paging import PagedZaya

TOLERANCE = 1e-3  # of a logit: this much, and this much of itself
SILENT = ("pad_token_id", "bos_token_id", "eos_token_id", "initializer_range")  # fields that no logit depends on
SLIDING = ("sliding_window", "rope_theta_sliding")  # nor on these, where no layer slides


@dataclass(frozen=True)
class Golden:
    """What a model must say. tokens: the text. argmax: its likeliest next token at each. logits: rows of the last
    tokens, of the last entries of the vocabulary. config: the model's."""

    config: ZayaConfig
    tokens: list[int]
    argmax: list[int]
    logits: list[list[float]]


# "Hello! How can I assist you today?" and the end of the turn
RELEASED = Golden(
    ZayaConfig.preset("zaya1-8b"),
    tokens=[2, 9259, 236888, 2088, 740, 564, 6361, 611, 3124, 236881, 106],
    argmax=[105, 9731, 107, 740, 564, 1601, 611, 236881, 236881, 107, 107],
    logits=[[0.0223, 0.0228, 0.0234], [-1.4297] * 3, [-3.0469] * 3],
)


@torch.inference_mode()
def record(model: nn.Module, tokens: list[int], corner: int = 3) -> Golden:
    """The golden values of a model, to judge a copy of it by."""
    logits = model(torch.tensor([tokens], device=model.embed.weight.device)).logits[0].float()
    return Golden(model.config, tokens, logits.argmax(-1).tolist(), logits[-corner:, -corner:].tolist())


def examine(folder: str | Path, golden: Golden = RELEASED, dtype: torch.dtype = torch.bfloat16,
            sums: bool = True) -> dict:
    """What the folder says, beside what it must say, as plain JSON values; "ok" when both agree.

    sums: first check each shard's SHA-256, where the index has them (reads everything). Raises FileNotFoundError, or
    ValueError for a folder that cannot be read, is damaged, or holds a model that must give other logits.
    """
    model = PagedZaya(folder, dtype)
    ours, theirs = model.config.to_dict(), golden.config.to_dict()
    silent = SILENT + (() if "hybrid_sliding" in theirs["layer_types"] else SLIDING)
    for name, value in theirs.items():
        if name not in silent and ours[name] != value:
            raise ValueError(f"{folder}: {name} is {ours[name]}, the golden values are of a model with {value}")
    checked = model.mapped.verify() if sums else []
    said = record(model, golden.tokens, len(golden.logits))
    wanted, got = (torch.tensor(logits, device="cpu") for logits in (golden.logits, said.logits))
    off = (got - wanted).abs()
    same = said.argmax == golden.argmax
    near = bool((off <= TOLERANCE * (1 + wanted.abs())).all())  # False for NaN
    return {"ok": same and near, "folder": str(folder), "layout": model.mapped.layout, "sums_checked": len(checked),
            "tokens": golden.tokens, "argmax": said.argmax, "argmax_wanted": golden.argmax, "argmax_ok": same,
            "logits": said.logits, "logits_wanted": golden.logits, "logits_ok": near,
            "largest_difference": float(off.max())}


def report(facts: dict) -> str:
    """The same for people."""
    def mark(right: bool) -> str:
        return "✔" if right else "✘"

    checked = facts["sums_checked"]
    sums = f"{checked} files have their SHA-256" if checked else "no sums beside the weights"
    lines = [f"{facts['folder']}, layout {facts['layout']}; {sums}",
             f"  {mark(facts['argmax_ok'])} likeliest next tokens {facts['argmax']}"]
    if not facts["argmax_ok"]:
        lines.append(f"    wanted                {facts['argmax_wanted']}")
    lines.append(f"  {mark(facts['logits_ok'])} logits, largest difference {facts['largest_difference']:.2g}")
    if facts["argmax_ok"] and not facts["logits_ok"]:
        lines.append("    the tokens are right: rounding in another order can do this; "
                     "wrong weights would move the tokens too")
    end = "the released weights, read rightly" if facts["ok"] else "not the released weights, or not all of them"
    return "\n".join([*lines, f"these are {end}"])
