"""What moves the weights: AdamW or Muon, and which parameters get what; the schedule; the optimizer's state by name."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..config import ZayaConfig
from .muon import Muon


def learning_rate(step: int, steps: int, peak: float, warmup: int, final_share: float = 0.0) -> float:
    """The learning rate of step `step` (0-based) of `steps`: a straight climb, then half a cosine down.

    It reaches `peak` at step `warmup` - 1 and tends to `peak` * `final_share` at the end. Why a warm-up: Adam's second
    moment is a guess in the first steps, and a full step along a guess can wreck a fresh model.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return peak * (final_share + (1 - final_share) * cosine)


def decays(name: str, parameter: Tensor) -> bool:
    """Does weight decay apply to this parameter? To matrices and to grouped convolutions only.

    Decay pulls towards zero. Zero is a sensible place for a matrix ("no influence"), but not for scales, norms and
    temperatures, which start at one, nor for biases, which have nothing to be regularised. Embedding rows are spared
    because decay would shrink the rows of rare tokens most: they get little gradient to push back with. The depthwise
    filters are two numbers a channel: scales in all but name.
    """
    return parameter.dim() >= 2 and not name.startswith("embed") and "depthwise" not in name


def adamw(model: nn.Module, lr: float, weight_decay: float = 0.1,
          betas: tuple[float, float] = (0.9, 0.95)) -> torch.optim.AdamW:
    """AdamW over the parameters of `model`: one group that decays, one that does not.

    betas: the usual 0.999 remembers a thousand steps, longer than a small run's warm-up; 0.95 remembers twenty.
    `fused=True` updates all parameters in one native loop, also on the CPU.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Does Muon move this parameter? The linear maps inside the model: projections, router, experts.

    AdamW keeps the rest. The embedding is a table that is read row by row, not a map of vectors, and the head is often
    the same tensor. Scales, norms, temperatures and biases act channel by channel: there are no singular directions to
    even out. The convolutions are AdamW's in the ZAYA1 report too.
    """
    stacked = name.split(".")[-2:-1] == ["experts"]
    return (parameter.dim() == 2 or stacked) and not name.startswith(("embed", "head"))


def stacked_rows(config: ZayaConfig, name: str) -> tuple[int, ...] | None:
    """The heights of the linear maps stacked in the parameter `name` of a `Zaya`; None: it holds one map."""
    if name.endswith("attention.down_proj.weight"):
        half = config.kv_size // 2
        return config.query_size, config.kv_size, half, half          # queries, keys, v_now, v_then
    if name.endswith("experts.gate_up_proj"):
        return config.moe_intermediate_size, config.moe_intermediate_size
    return None


def muon(model: nn.Module, lr: float, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95),
         momentum: float = 0.95, dtype: torch.dtype | None = None) -> Muon:
    """Muon over the matrices of a `Zaya`, AdamW over its other parameters, with the learning rate of `adamw`.

    For RL: momentum=0, weight_decay=0. dtype: of the Newton-Schulz arithmetic, None is float32.
    Raises ValueError as `Muon` does.
    """
    groups: dict[tuple, dict] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            matrix = is_matrix(name, p)
            kind = matrix, decays(name, p), stacked_rows(model.config, name) if matrix else None
            group = dict(params=[], muon=kind[0], weight_decay=weight_decay if kind[1] else 0.0, rows=kind[2])
            groups.setdefault(kind, group)["params"].append(p)
    return Muon(list(groups.values()), lr, momentum, betas, dtype=dtype)


# ---- the state, by name ----------------------------------------------------------------------------------------------
# An optimizer numbers its parameters; a checkpoint should name them, so that it can be read and checked.


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The name of each parameter in the order in which the optimizer numbers them."""
    name_of = {id(p): name for name, p in model.named_parameters()}
    return [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory as flat tensors: "embed.weight/exp_avg", ...

    A parameter that has had no gradient yet (before the first step, or frozen so far) has none; see `without_memory`.
    """
    names = parameter_names(model, optimizer)
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def without_memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The parameters of which the optimizer remembers nothing: they have had no gradient yet. In its own order."""
    state = optimizer.state_dict()["state"]
    return [name for i, name in enumerate(parameter_names(model, optimizer)) if not state.get(i)]


def load_named_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor],
                     without: Iterable[str] | None = None) -> None:
    """The way back. without: the parameters that had no memory when the state was taken, and have none again.

    None: all have some, or none has any. Raises ValueError when a name is unknown, a moment has another shape than its
    parameter, or other parameters than those miss.
    """
    names = parameter_names(model, optimizer)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in names:
            raise ValueError(f"the optimizer state holds {full_name!r}, but the model has no parameter {name!r}")
        if tensor.dim() and tensor.shape != shapes[name]:
            raise ValueError(f"the optimizer state {full_name!r} has shape {tuple(tensor.shape)}, "
                             f"its parameter has {tuple(shapes[name])}")
        state.setdefault(names.index(name), {})[key] = tensor
    missing = [name for i, name in enumerate(names) if i not in state]
    if set(missing) != set(missing if without is None and not tensors else without or ()):
        odd = sorted(set(missing) ^ set(without or ()))
        raise ValueError(f"the optimizer state misses {len(missing)} parameters, or holds some that had no gradient; "
                         f"the first is {odd[0]!r}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
