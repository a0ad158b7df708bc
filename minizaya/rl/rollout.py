"""An answer with everything that training on it needs, and batches of answers as files.

A batch is one safetensors file: token ids, log-probabilities, weight versions and rewards as flat arrays, routes as
bytes, the rest as JSON in the header. It is written aside and renamed, so whoever finds it finds all of it.
"""

import json
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.ids import token_ids
from ..train import checkpoint
from .replay import check_routes, pack_routes, unpack_routes


@dataclass
class Rollout:
    """One answer.

    prompt, tokens: ids; tokens are the new ones. logprobs: one a new token, as it was sampled. versions: one a new
    token, how many updates the weights had seen that sampled it. routes: int16 (prompt + tokens, layers). kept: bool
    (tokens, vocab), what top-p and min-p left, or None: everything; each answer of a batch has its own. problem: plain
    JSON values that say what was asked. reward: in 0..1. flags: what canaries said.
    """

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]
    versions: list[int]
    routes: Tensor
    problem: dict
    reward: float = 0.0
    kept: Tensor | None = None
    flags: tuple[str, ...] = ()

    def cut(self, length: int) -> "Rollout":
        """The first `length` new tokens, with all that belongs to them.

        trap: whatever is forgotten here is off by the rest of the batch from then on.
        """
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"length must lie in 0..{len(self.tokens)}, got {length}")
        return Rollout(self.prompt, self.tokens[:length], self.logprobs[:length], self.versions[:length],
                       self.routes[: len(self.prompt) + length], self.problem, self.reward,
                       None if self.kept is None else self.kept[:length], self.flags)


def check_rollout(rollout: Rollout, layers: int, num_experts: int, vocab_size: int | None = None) -> Rollout:
    """`rollout`, or ValueError if its prompt is empty, its parts disagree, or a number can be none: a NaN would be in
    every weight after one update. vocab_size: columns of kept; None: any."""
    n = len(rollout.tokens)
    if not rollout.prompt:
        raise ValueError("prompt must hold at least one token, got none")
    for name in ("prompt", "tokens", "versions"):    # trap: a file would keep 1.5 as it is
        token_ids(name, getattr(rollout, name))
    for name in ("logprobs", "versions"):
        if len(getattr(rollout, name)) != n:
            raise ValueError(f"{name} must have one entry a new token, {n}, got {len(getattr(rollout, name))}")
    if not all(-math.inf < logprob <= 1e-6 for logprob in rollout.logprobs):     # 1e-6: a sum's rounding
        raise ValueError(f"logprobs must be finite and at most 0, got {reprlib.repr(rollout.logprobs)}")
    if not math.isfinite(rollout.reward):
        raise ValueError(f"reward must be a finite number, got {rollout.reward!r}")
    if isinstance(rollout.flags, str) or not all(isinstance(flag, str) for flag in rollout.flags):
        raise ValueError(f"flags must be a tuple of texts, got {rollout.flags!r:.80}")
    if rollout.kept is not None:
        kind, shape = rollout.kept.dtype, tuple(rollout.kept.shape)
        if kind != torch.bool or shape != (n, vocab_size or shape[-1]):
            raise ValueError(f"kept must be a row a new token, bool ({n}, {vocab_size or 'any'}), not {kind} {shape}")
    check_routes(rollout.routes, len(rollout.prompt) + n, layers, num_experts)
    return rollout


def save_batch(path: Path, rollouts: list[Rollout], num_experts: int, info: dict) -> None:
    """Writes a batch; `info` is kept beside it as JSON. Raises OSError, or ValueError for none or broken ones."""
    if not rollouts:
        raise ValueError("rollouts must hold at least one answer, got none")
    layers = rollouts[0].routes.shape[1]
    for rollout in rollouts:
        check_rollout(rollout, layers, num_experts)
    routes = b"".join(pack_routes(r.routes, num_experts) for r in rollouts)
    with torch.device("cpu"):
        tensors = {
            "prompt_lengths": torch.tensor([len(r.prompt) for r in rollouts]),
            "lengths": torch.tensor([len(r.tokens) for r in rollouts]),
            "tokens": torch.tensor([token for r in rollouts for token in (*r.prompt, *r.tokens)]),
            "logprobs": torch.tensor([x for r in rollouts for x in r.logprobs], dtype=torch.float32),
            "versions": torch.tensor([x for r in rollouts for x in r.versions]),
            "rewards": torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
            "routes": torch.frombuffer(bytearray(routes), dtype=torch.uint8),
        }
    filtered = [r.kept for r in rollouts if r.kept is not None]   # some answers have one, others none
    if len({kept.shape[1] for kept in filtered}) > 1:
        raise ValueError(f"kept must have as many columns in all answers, got {[k.shape[1] for k in filtered]}")
    if filtered:
        tensors["kept"] = torch.cat(filtered)
    head = {"num_experts": num_experts, "layers": layers, "problems": [r.problem for r in rollouts],
            "flags": [list(r.flags) for r in rollouts], "kept": [r.kept is not None for r in rollouts], "info": info}
    checkpoint.replace_file(path, checkpoint.safetensors().save(tensors, {"minizaya": json.dumps(head)}))


def load_batch(path: Path) -> tuple[list[Rollout], dict]:
    """(rollouts, info). Raises FileNotFoundError, or ValueError for a damaged file."""
    content = Path(path).read_bytes()
    try:
        tensors = checkpoint.safetensors().load(content)
        size = int.from_bytes(content[:8], "little")
        head = json.loads(json.loads(content[8: 8 + size])["__metadata__"]["minizaya"])
    except Exception as error:  # safetensors raises its own type, and others for a bad header
        raise ValueError(f"{path} is damaged: {error}") from error
    layers, experts = head["layers"], head["num_experts"]
    prompts, lengths = tensors["prompt_lengths"].tolist(), tensors["lengths"].tolist()
    tokens, logprobs = tensors["tokens"].tolist(), tensors["logprobs"].tolist()
    versions, routes = tensors["versions"].tolist(), bytes(tensors["routes"].tolist())
    filtered = head.get("kept", ["kept" in tensors] * len(lengths))   # older files: all answers, or none
    rollouts, text, new, row = [], 0, 0, 0
    for i, (before, n) in enumerate(zip(prompts, lengths)):
        whole = before + n
        visited = unpack_routes(routes[text * layers: (text + whole) * layers], whole, layers, experts)
        kept = tensors["kept"][row: row + n].clone() if filtered[i] else None   # a view would keep the whole batch's
        rollouts.append(Rollout(
            tokens[text: text + before], tokens[text + before: text + whole], logprobs[new: new + n],
            versions[new: new + n], visited, head["problems"][i], float(tensors["rewards"][i]), kept,
            tuple(head["flags"][i])))
        text, new, row = text + whole, new + n, row + (n if filtered[i] else 0)
    return rollouts, head["info"]
