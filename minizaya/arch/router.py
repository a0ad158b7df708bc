"""The router: which expert a token visits, and how much that expert counts.

    state  = down(x) + scale * state of the layer below        (exponential depth averaging, "EDA")
    probs  = softmax(mlp(rms_norm(state)))                     over E experts and the skip route
    choice = argmax(probs + balancing bias)                    the bias picks
    gate   = probs[choice]                                     the bias never weighs

Source: ZAYA1-8B report, equations 1-4; `transformers.models.zaya` for the skip route and for EDA with a whole vector.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ZayaConfig
from .residual import RMSNorm


def depth_average(state: Tensor, below: Tensor | None, scale: Tensor) -> Tensor:
    """state + scale * below, equation 2: this layer's router remembers what the routers below it saw.

    state, below: (b, t, R); scale: (R,). The first layer has no router below: `below` None returns `state`.
    The paper writes one coefficient, the released weights hold a vector of R (`test_eda_scale_is_a_vector`).
    """
    return state if below is None else state + scale * below


def choose(probs: Tensor, bias: Tensor, pinned: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The biased top-1 choice and its unbiased gate.

    Args:
        probs: (..., E + 1), softmax over E experts and the skip route (last).
        bias: (E + 1,), the balancing bias. It moves choices; it never touches gates or gradients.
        pinned: int (...,), routes to replay; -1 where nothing was recorded and the router chooses itself.
    Returns:
        routes int64 (...,) and gates (...,), where gate = probs[route]. Ties go to the lower number.

    The choice is made in float32 as in the released code, whatever the model's type.
    trap: gather from the full softmax. A softmax over the single chosen logit is the constant 1 and teaches the router
    nothing.
    """
    routes = torch.argmax(probs.detach().float() + bias, dim=-1)
    if pinned is not None:
        routes = torch.where(pinned < 0, routes, pinned.long())
    gates = probs.gather(-1, routes[..., None]).squeeze(-1)
    return routes, gates


class RouterMLP(nn.Module):
    """RMSNorm, then three layers with GELU between: state (..., R) -> logits (..., E + 1)."""

    def __init__(self, size: int, num_routes: int, eps: float):
        super().__init__()
        self.norm = RMSNorm(size, eps)
        self.fc1 = nn.Linear(size, size)
        self.fc2 = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, num_routes, bias=False)

    def forward(self, state: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(self.norm(state)))
        hidden = F.gelu(self.fc2(hidden))
        return self.out_proj(hidden)


class Router(nn.Module):
    """One layer's router. `balancing_bias` is a buffer: a balancer moves it, the optimizer never sees it.

    The skip route's bias starts at -1. Its score is then p - 1 <= 0, and biases that sum to zero (`balance`) leave one
    expert at 0 or more: nothing is ever skipped unless somebody moves that -1.
    With `router="linear"` in the config one matrix maps x to the logits (the report's baseline).
    """

    def __init__(self, config: ZayaConfig, layer: int):
        super().__init__()
        num_routes = config.num_experts + 1
        self.linear = config.router == "linear"
        if self.linear:
            self.out_proj = nn.Linear(config.hidden_size, num_routes, bias=False)
        else:
            self.down_proj = nn.Linear(config.hidden_size, config.router_hidden_size)
            if config.eda and layer > 0:
                self.eda_scale = nn.Parameter(torch.ones(config.router_hidden_size))
            self.mlp = RouterMLP(config.router_hidden_size, num_routes, config.rms_norm_eps)
        self.register_buffer("balancing_bias", torch.zeros(num_routes))
        self.balancing_bias[config.skip_route] = -1.0

    def scores(self, x: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x: (b, t, D); below: (b, t, R) or None. Returns probs (b, t, E + 1) and the state for the layer above."""
        if self.linear:
            return self.out_proj(x).softmax(-1), None
        state = self.down_proj(x)
        if hasattr(self, "eda_scale"):
            state = depth_average(state, below, self.eda_scale)
        return self.mlp(state).softmax(-1), state

    def forward(self, x: Tensor, below: Tensor | None,
                pinned: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Returns routes (b, t), gates (b, t), probs (b, t, E + 1) and the state (b, t, R) handed to the next layer."""
        probs, state = self.scores(x, below)
        routes, gates = choose(probs, self.balancing_bias, pinned)
        return routes, gates, probs, state

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        """trap: `model.bfloat16()` would round the bias to 8 bits, and balance steps of 1e-3 would vanish in it."""
        kept = self.balancing_bias
        super()._apply(fn, recurse)
        if self.balancing_bias.dtype.itemsize < 4:
            self.balancing_bias = kept.to(self.balancing_bias.device)
        return self
