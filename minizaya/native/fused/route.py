"""The router: with gradients its norm is a loop of ours and the products are torch's, without them all is one loop.

Plain: `arch/router.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...arch.router import Router, choose
from .library import call
from .merge import rms_norm, scaled_norm

Routed = tuple[Tensor, Tensor, Tensor, Tensor | None]


def routed(router: Router, x: Tensor, below: Tensor | None, pinned: Tensor | None) -> Routed:
    """As `Router.forward`: routes (b, t), gates (b, t), probs (b, t, E + 1), and the state (b, t, R) or None."""
    if router.linear:
        return router(x, below, pinned)
    if not torch.is_grad_enabled():
        return at_once(router, x, below, pinned)
    state, mlp = router.down_proj(x), router.mlp
    if hasattr(router, "eda_scale"):
        state, hidden = scaled_norm(router.eda_scale, mlp.norm, below, state)   # depth averaging is a merge, too
    else:
        hidden = rms_norm(mlp.norm, state)
    hidden = F.gelu(mlp.fc2(F.gelu(mlp.fc1(hidden))))
    probs = mlp.out_proj(hidden).softmax(-1)
    routes, gates = choose(probs, router.balancing_bias, pinned)
    return routes, gates, probs, state


def at_once(router: Router, x: Tensor, below: Tensor | None, pinned: Tensor | None) -> Routed:
    """`routed` where nothing must be kept for a gradient."""
    x, mlp, lead, wide = x.contiguous(), router.mlp, x.shape[:-1], len(router.balancing_bias)
    state, probs = x.new_empty(*lead, len(mlp.norm.weight)), x.new_empty(*lead, wide)
    routes, gates = x.new_empty(lead, dtype=torch.int64), x.new_empty(lead)
    scale = getattr(router, "eda_scale", None)
    call("route", x, router.down_proj.weight, router.down_proj.bias, None if scale is None else below.contiguous(),
         scale, mlp.norm.weight, mlp.norm.eps, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias,
         mlp.out_proj.weight, router.balancing_bias, None if pinned is None else pinned.long().contiguous(),
         routes.numel(), x.shape[-1], state.shape[-1], wide - 1, state, probs, routes, gates)
    return routes, gates, probs, state
