"""Load balancing as control: the load of an expert is the process variable, its routing bias the actuator.

    error_e = load_e - mean load          load: the fraction of a whole batch's tokens that expert e received
    bias_e  moves against the error       an expert with too many tokens becomes less attractive
    biases  -= their mean                 what all experts share moves no choice between them

The bias only moves choices (`router.choose`), so balancing adds no gradient and no auxiliary loss.

The skip route is not a controlled variable: its bias stays at -1, and two things keep balancing from steering it in
secret. The goal is the mean load, 1 / E when nothing is skipped (the report's): a goal of 1 / E that skipped tokens
also count in would starve all experts at once, and push every bias up until nothing is skipped. And the biases sum to
zero: steps of one size, the sign rule's and AdamW's, do not cancel, so all biases would drift together, away from the
skip route's (`balance.sums_to_zero`, `balance.skipped`). So at -1 the skip route stays shut however long a model
trains: one expert's bias is at least 0, and p_skip - 1 is at most 0.

Source: ZAYA1-8B report, equation 5 (AdamW on load - 1 / E; its step size and betas are not published, nor is a mean
subtracted); DeepSeek, arXiv 2408.15664 (sign, measured against the mean load). The rest is textbook control.
"""

import math

import torch
from torch import Tensor, nn


class Balancer:
    """Keeps the biases, float32 (E,) or, with `num_layers`, (layers, E), on the CPU at first; subclasses say how an
    error moves them.

    Raises ValueError when a load has another shape, holds a negative or non-finite number, or sums to more than one
    (it may sum to less: skipped tokens visit no expert).
    """

    def __init__(self, num_experts: int, num_layers: int | None = None):
        if num_experts < 1:
            raise ValueError(f"num_experts must be at least 1, got {num_experts}")
        shape = (num_experts,) if num_layers is None else (num_layers, num_experts)
        self.bias = torch.zeros(shape, dtype=torch.float32, device="cpu")

    def update(self, load: Tensor) -> Tensor:
        """load: (E,) or (layers, E), fraction of tokens per expert over the whole batch. Returns the new biases."""
        if load.shape != self.bias.shape:
            raise ValueError(f"load must have shape {tuple(self.bias.shape)}, got {tuple(load.shape)}")
        load = load.to(self.bias.device, torch.float64)  # so that equal loads have an error of zero, not of a rounding
        if not bool(((load >= 0) & load.isfinite()).all()) or bool((load.sum(-1) > 1 + 1e-4).any()):
            raise ValueError(f"load must hold fractions of tokens (>= 0, summing to at most 1), got {load.tolist()}")
        self.move((load - load.mean(-1, keepdim=True)).to(self.bias))
        self.bias = self.bias - self.bias.mean(-1, keepdim=True)
        return self.bias.clone()

    def move(self, error: Tensor) -> None:
        """Changes `self.bias` given error = load - mean load, which sums to zero."""
        raise NotImplementedError("use SignBalancer, PIDBalancer or AdamWBalancer")

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of every tensor the balancer remembers: what a checkpoint must hold to go on exactly."""
        return {name: value.clone() for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError when names or shapes differ from this balancer's own."""
        own = self.state_dict()
        if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in state.items()}:
            raise ValueError(f"balancer state must hold {sorted(own)} of this size, got {sorted(state)}")
        for name, value in state.items():
            setattr(self, name, value.clone().to(own[name]))


class SignBalancer(Balancer):
    """bias -= lr * sign(error): the loss-free rule of DeepSeek-V3. Simple, and it chatters by lr around the goal."""

    def __init__(self, num_experts: int, lr: float = 1e-3, num_layers: int | None = None):
        super().__init__(num_experts, num_layers)
        self.lr = lr

    def move(self, error: Tensor) -> None:
        self.bias -= self.lr * error.sign()


class PIDBalancer(Balancer):
    """bias = -(kp * error + ki * sum of errors + kd * change of error), the textbook positional form.

    P alone (ki = kd = 0) must keep an error to keep a bias; the integral removes it; the derivative damps.
    """

    def __init__(self, num_experts: int, kp: float = 0.5, ki: float = 0.1, kd: float = 0.0,
                 num_layers: int | None = None):
        super().__init__(num_experts, num_layers)
        self.kp, self.ki, self.kd = kp, ki, kd
        self.integral = torch.zeros_like(self.bias)
        self.last_error = torch.zeros_like(self.bias)

    def move(self, error: Tensor) -> None:
        self.integral = self.integral + error
        change = error - self.last_error
        self.bias = -(self.kp * error + self.ki * self.integral + self.kd * change)
        self.last_error = error


class AdamWBalancer(Balancer):
    """The report's balancer: AdamW, with the error as the gradient of the bias.

    In control terms the first moment is a smoothed error (integral with a short memory) and the second normalises the
    step to about lr whatever the size of the error. With betas (0, 0) this *is* `SignBalancer`. Weight decay is zero:
    it would pull biases to zero for no reason of load.
    """

    def __init__(self, num_experts: int, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, num_layers: int | None = None):
        super().__init__(num_experts, num_layers)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.mean = torch.zeros_like(self.bias)
        self.square = torch.zeros_like(self.bias)
        self.steps = torch.zeros((), dtype=torch.int64, device="cpu")

    def move(self, error: Tensor) -> None:
        beta1, beta2 = self.betas
        self.steps = self.steps + 1
        self.mean = beta1 * self.mean + (1 - beta1) * error
        self.square = beta2 * self.square + (1 - beta2) * error.square()
        # both averages start at zero; dividing by (1 - beta^steps) removes that pull
        mean = self.mean / (1 - beta1 ** int(self.steps))
        square = self.square / (1 - beta2 ** int(self.steps))
        self.bias = self.bias * (1 - self.lr * self.weight_decay) - self.lr * mean / (square.sqrt() + self.eps)


# ---- measuring -------------------------------------------------------------------------------------------------------


def counts(routes: Tensor, num_experts: int, mask: Tensor | None = None) -> Tensor:
    """Tokens per route: routes int (b, t, layers) -> int64 (layers, E + 1), the last column being the skip route.

    mask: bool (b, t), False where a token is padding and must not count.
    """
    flat = routes.flatten(0, 1) if mask is None else routes[mask]          # (tokens, layers)
    return torch.stack([torch.bincount(layer, minlength=num_experts + 1) for layer in flat.long().unbind(-1)])


def load(routes: Tensor, num_experts: int, mask: Tensor | None = None) -> Tensor:
    """Fraction of tokens per expert, float32 (layers, E): what `update` wants. Skipped tokens count in the whole."""
    return fractions(counts(routes, num_experts, mask))


def fractions(visits: Tensor) -> Tensor:
    """Tokens per route, int64 (..., E + 1) as `counts` has them, to the load of the experts, float32 (..., E).

    Skipped tokens count in the whole; no token at all is a load of zero. The float type is float32 whatever torch's
    default is. Visits of several batches or ranks are added up before, not their loads: those are of different sizes.
    """
    return visits[..., :-1].float() / visits.sum(-1, keepdim=True).clamp_min(1).float()


def entropy(load: Tensor) -> Tensor:
    """H(load) / ln E over the last axis: 1 when every expert gets the same, 0 when one gets all (0 ln 0 = 0).

    Also 1 where no expert gets any (all tokens skipped), or there is one expert: nothing is uneven.
    """
    total = load.sum(-1, keepdim=True)
    share = load / total.masked_fill(total == 0, 1.0)
    share = share.masked_fill(total == 0, 1 / load.shape[-1])
    if load.shape[-1] == 1:
        return share.sum(-1)
    return -torch.xlogy(share, share).sum(-1) / math.log(load.shape[-1])


def max_violation(load: Tensor) -> Tensor:
    """MaxVio = (largest load - mean load) / mean load over the last axis: 0 is perfect, E - 1 is collapse.

    0 where no expert gets any token.
    """
    mean = load.mean(-1)
    return torch.where(mean > 0, load.amax(-1) / mean.masked_fill(mean == 0, 1.0) - 1, 0.0)


# ---- the balancer and the model --------------------------------------------------------------------------------------


def get_biases(model: nn.Module) -> Tensor:
    """The routing biases of every layer's experts, (layers, E), without the skip route's."""
    return torch.stack([block.router.balancing_bias[:-1] for block in model.layers])


@torch.no_grad()
def set_biases(model: nn.Module, biases: Tensor) -> None:
    """Writes biases (layers, E) into the routers; the skip route keeps its own."""
    for block, bias in zip(model.layers, biases, strict=True):
        block.router.balancing_bias[:-1] = bias
