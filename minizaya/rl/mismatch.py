"""How far generator and trainer disagree, and a generator that really does: lower precision.

    L         = log p_trainer - log p_generator, of the sampled tokens
    k3        = mean(exp(L) - 1 - L), an estimate of KL(generator || trainer) that is never negative
    beyond 2  = the share of tokens whose ratio, or its inverse, exceeds 2
    routed    = the share of (token, layer) slots that visit another expert

trap: k3 is often printed as KL(trainer || generator). Samples come from the generator, so it is the other way round.

The machine at hand multiplies float32. `low_precision` makes the numbers of a smaller format all the same: it rounds
weights, and what modules hand on, to bfloat16; sums are kept in float32, as the matrix units of a GPU do. Or it holds
the large matrices in int8.
"""

import copy
import math

import torch
from torch import Tensor, nn

from ..arch.experts import Experts
from ..arch.model import Zaya
from ..arch.residual import RMSNorm
from ..arch.router import RouterMLP

KINDS = ("bfloat16", "int8")


def k3(logp: Tensor, logp_rollout: Tensor) -> Tensor:
    """mean(exp(L) - 1 - L) for L = logp - logp_rollout, both (n,): a scalar in float64.

    Each term is at least zero, and the mean of exp(L) - 1 over samples of the rollout policy is zero, so it estimates
    KL(rollout || trainer) as -mean(L) does, with far less noise.
    """
    gap = logp.double() - logp_rollout.double()
    return (gap.expm1() - gap).mean()


def agreement(logp: Tensor, logp_rollout: Tensor, routes: Tensor | None = None, recorded: Tensor | None = None) -> dict:
    """Figures of one batch: {"k3", "pearson", "beyond_2", "tokens"}, with routes also "routed" and "tokens_routed".

    Args:
        logp, logp_rollout: (n,) log-probabilities of the sampled tokens.
        routes, recorded: (m, layers), of the trainer and of the generator; rows of -1 (not recorded) do not count.
    "pearson": of the probabilities; 1.0 where they do not vary. "tokens_routed": tokens with any layer different.
    """
    gap = logp.double() - logp_rollout.double()
    p, q = logp.double().exp(), logp_rollout.double().exp()
    p, q = p - p.mean(), q - q.mean()
    spread = float(p.norm() * q.norm())
    found = {"k3": float(k3(logp, logp_rollout)), "pearson": float(p @ q) / spread if spread else 1.0,
             "beyond_2": float((gap.abs() > math.log(2)).double().mean()), "tokens": len(gap)}
    if routes is not None and recorded is not None:
        known = (recorded >= 0).all(-1)
        other = routes[known] != recorded[known]
        found |= {"routed": float(other.double().mean()), "tokens_routed": float(other.any(-1).double().mean())}
    return found


def low_precision(model: Zaya, kind: str = "bfloat16", float32_ops: bool = False) -> Zaya:
    """A copy of `model` that computes like an inference engine; the model itself is not touched.

    Args:
        kind: "bfloat16" rounds weights and module outputs; "int8" holds each row of the projections and experts as
            8-bit numbers times a scale, activations stay as they are.
        float32_ops: keep in float32 what the report keeps there: router, norms, convolutions, scales and temperatures,
            head. Only the large matrices stay low. (The residual stream is float32 in any case. The report does not
            print its list; this one follows the released code's high-precision switches.)
    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    low = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, parameter in low.named_parameters():
            if not (float32_ops and not is_large(name)):
                if kind == "bfloat16":
                    parameter.copy_(bfloat(parameter))
                elif is_large(name):
                    parameter.copy_(int8(parameter))
    if kind == "bfloat16":
        for name, module in low.named_modules():
            keeps = float32_ops and not is_large(name + ".weight")
            if isinstance(module, (nn.Linear, nn.Embedding, Experts, RMSNorm, RouterMLP)) and not keeps:
                module.register_forward_hook(lambda module, args, out: bfloat(out))
    return low


def is_large(name: str) -> bool:
    """Is this one of the matrices that hold nearly all weights: CCA's projections, experts, embedding?"""
    return any(part in name for part in ("attention.down_proj", "attention.up_proj", "experts", "embed.weight"))


def bfloat(x: Tensor) -> Tensor:
    """x rounded to the nearest bfloat16, in its own type."""
    return x.to(torch.bfloat16).to(x.dtype)


def int8(weight: Tensor) -> Tensor:
    """Each row as whole numbers in -127..127 times its largest absolute value / 127, in its own type."""
    scale = weight.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round() * scale
