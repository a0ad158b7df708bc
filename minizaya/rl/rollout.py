"""An answer with everything that training on it needs, and batches of answers as files.

A batch is one safetensors file: token ids, log-probabilities, weight versions and rewards as flat arrays, routes as
bytes, the rest as JSON in the header. It is written aside and renamed, so whoever finds it finds all of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..train import checkpoint
from .replay import check_routes, pack_routes, unpack_routes


@dataclass
class Rollout:
    """One answer.

    prompt, tokens: ids; tokens are the new ones. logprobs: one a new token, as it was sampled. versions: one a new
    token, how many updates the weights had seen that sampled it. routes: int16 (prompt + tokens, layers). kept: bool
    (tokens, vocab) or None, what top-p and min-p left. problem: plain JSON values that say what was asked. reward: in
    0..1. flags: what canaries said.
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
        kept = None if self.kept is None else self.kept[:length]
        return Rollout(self.prompt, self.tokens[:length], self.logprobs[:length], self.versions[:length],
                       self.routes[: len(self.prompt) + length], self.problem, self.reward, kept, self.flags)


def check_rollout(rollout: Rollout, layers: int, num_experts: int) -> Rollout:
    """`rollout`, or ValueError when its parts have lengths that disagree."""
    n = len(rollout.tokens)
    for name in ("logprobs", "versions"):
        if len(getattr(rollout, name)) != n:
            raise ValueError(f"{name} must have one entry a new token, {n}, got {len(getattr(rollout, name))}")
    if rollout.kept is not None and len(rollout.kept) != n:
        raise ValueError(f"kept must have one row a new token, {n}, got {len(rollout.kept)}")
    check_routes(rollout.routes, len(rollout.prompt) + n, layers, num_experts)
    return rollout


def save_batch(path: Path, rollouts: list[Rollout], num_experts: int, info: dict) -> None:
    """Writes a batch; `info` is kept beside it as JSON. Raises OSError when it cannot be written."""
    layers = rollouts[0].routes.shape[1]
    for rollout in rollouts:
        check_rollout(rollout, layers, num_experts)
    routes = b"".join(pack_routes(r.routes, num_experts) for r in rollouts)
    tensors = {
        "prompt_lengths": torch.tensor([len(r.prompt) for r in rollouts]),
        "lengths": torch.tensor([len(r.tokens) for r in rollouts]),
        "tokens": torch.tensor([token for r in rollouts for token in (*r.prompt, *r.tokens)]),
        "logprobs": torch.tensor([x for r in rollouts for x in r.logprobs], dtype=torch.float32),
        "versions": torch.tensor([x for r in rollouts for x in r.versions]),
        "rewards": torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
        "routes": torch.frombuffer(bytearray(routes), dtype=torch.uint8),
    }
    if rollouts[0].kept is not None:
        tensors["kept"] = torch.cat([r.kept for r in rollouts])
    head = {"num_experts": num_experts, "layers": layers, "problems": [r.problem for r in rollouts],
            "flags": [list(r.flags) for r in rollouts], "info": info}
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
    rollouts, text, new = [], 0, 0
    for i, (before, n) in enumerate(zip(prompts, lengths)):
        whole = before + n
        visited = unpack_routes(routes[text * layers: (text + whole) * layers], whole, layers, experts)
        kept = tensors["kept"][new: new + n] if "kept" in tensors else None
        rollouts.append(Rollout(
            tokens[text: text + before], tokens[text + before: text + whole], logprobs[new: new + n],
            versions[new: new + n], visited, head["problems"][i], float(tensors["rewards"][i]), kept,
            tuple(head["flags"][i])))
        text, new = text + whole, new + n
    return rollouts, head["info"]
