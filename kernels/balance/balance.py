"""balance: the AdamW step on the routing biases of all layers, from the histogram that the router kernel counted.

Shapes: L layers, E experts. Always float32: steps of 1e-3 would vanish in bfloat16.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minizaya.arch.balance import AdamWBalancer

BLOCK = 64


def reference(visits: Tensor, bias: Tensor, mean: Tensor, square: Tensor, steps: int, lr: float = 1e-3,
              betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
    """One update of `minizaya.arch.balance.AdamWBalancer`, in place.

    Args:
        visits: int32 (L, E + 1), tokens of each route over the whole batch, the skip route last.
        bias: float32 (L, E + 1), as the routers hold them; the skip route's stays as it is.
        mean, square: float32 (L, E), the moments, zeros before the first step.
        steps: which step this is, 1 for the first.
    """
    layers, experts = mean.shape
    balancer = AdamWBalancer(experts, lr, betas, eps, weight_decay, num_layers=layers)
    balancer.bias, balancer.mean, balancer.square = bias[:, :-1].clone(), mean, square
    balancer.steps = torch.tensor(steps - 1)
    balancer.update(visits[:, :-1].double() / visits.sum(-1, keepdim=True).clamp_min(1))
    bias[:, :-1], mean[:], square[:] = balancer.bias, balancer.mean, balancer.square


def supports(visits: Tensor, bias: Tensor, mean: Tensor, square: Tensor, *rest) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    if visits.dtype != torch.int32:
        return f"visits of type {visits.dtype}"
    return next((f"type {t.dtype}" for t in (bias, mean, square) if t.dtype != torch.float32), None)


def launch(run: Callable, visits: Tensor, bias: Tensor, mean: Tensor, square: Tensor, steps: int, lr: float = 1e-3,
           betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
    """As `reference`, by the kernel, in place. Raises ValueError when shapes do not fit or `steps` is below 1."""
    layers, experts = mean.shape
    for name, value, wanted in (("visits", visits, (layers, experts + 1)), ("bias", bias, (layers, experts + 1)),
                                ("square", square, (layers, experts))):
        if tuple(value.shape) != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)} (mean: {tuple(mean.shape)})")
    if steps < 1:
        raise ValueError(f"steps must be 1 for the first step and rise by one, got {steps}")
    beta1, beta2 = betas
    run("balance", "balance_f32", (layers,), BLOCK,
        [visits, bias, mean, square, experts, float(lr), float(beta1), 1 - float(beta1), float(beta2), 1 - float(beta2),
         float(eps), 1 - float(lr * weight_decay), 1 - float(beta1) ** steps, 1 - float(beta2) ** steps])


def example(dtype: torch.dtype = torch.float32, device: str = "cpu", layers: int = 4, experts: int = 16) -> tuple:
    """Arguments of `launch`; always float32, whatever `dtype` says."""
    draw = torch.Generator().manual_seed(0)
    visits = torch.randint(0, 1000, (layers, experts + 1), generator=draw).int()
    bias = torch.randn(layers, experts + 1, generator=draw) * 1e-2
    mean = torch.randn(layers, experts, generator=draw) * 1e-2
    return visits.to(device), bias.to(device), mean.to(device), mean.square().to(device), 5


def full(run: Callable, kernel: str) -> None:
    """The launch of `kernel` at ZAYA1-8B's size: 40 layers."""
    launch(run, *example(layers=40))


def work(kernel: str, tokens: int = 16384, layers: int = 40, experts: int = 16) -> tuple[int, int]:
    """(fewest bytes, floating-point operations) of one launch at ZAYA1-8B's size, whatever the tokens."""
    return layers * (4 * (experts + 1) + 6 * 4 * experts), layers * experts * 16
