"""Muon: a matrix moves along its gradient with all singular values made equal.

    momentum   M <- mu M + (1 - mu) G               mu = 0: the gradient itself, and nothing to remember (RL)
    direction  O = NS(G + mu (M - G))               Newton-Schulz: G = U S V^T becomes about U V^T
    weights    W <- W (1 - lr wd) - lr 0.2 sqrt(max(m, n)) O

Why: a gradient is dominated by a few directions, and a step along it leaves the rest of the matrix where it was. U V^T
moves all directions alike: it is the steepest step among those whose spectral norm is bounded.

RMS matching: the numbers of U V^T, (m, n), have a mean square of 1 / max(m, n). Times 0.2 sqrt(max(m, n)), their root
mean square is 0.2, about that of AdamW's steps once it is under way. So both share one learning rate in one model.

One linear map, one orthogonalisation, however the maps are stored. `down_proj` of CCA holds four maps, stacked by rows
(queries, keys, v_now, v_then), an expert's `gate_up_proj` two: each is orthogonalised alone. Done at once, the step of
the keys would be made orthogonal to that of the queries, though nothing in the model asks for it. The ZAYA1 papers do
not say what they do. That is why torch.optim.Muon does not serve: it takes one matrix as it is stored, no stack of
experts, rounds to bfloat16 in any case, and leaves the other parameters to a second optimizer.

Sources: Jordan et al., "Muon" (2024), the iteration and its coefficients; Liu et al., "Muon is Scalable for LLM
Training" (arXiv 2502.16982), RMS matching; ZAYA1-8B report, momentum 0 in RL.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..arch.residual import at_least_float32

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7  # a gradient whose norm is below this is rounding noise: it fades out instead of becoming a full step


def newton_schulz(matrix: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """U diag(p(s)) V^T for matrix = U diag(s) V^T: the singular vectors stay, the singular values become about one.

    Args:
        matrix: float (..., m, n); a stack is done matrix by matrix. steps: of the iteration x <- a x + b x^3 + c x^5.
        dtype: of the arithmetic; None: float32, or float64 for a float64 matrix. bfloat16 is enough on a GPU, and slow
            on many CPUs.
    Returns:
        (..., m, n) in the matrix's own type. After 5 steps every singular value that was at least 0.002 of the
        Frobenius norm lies in 0.68..1.21; smaller ones grow up to 485-fold, and zero stays zero, so a zero matrix
        stays zero.

    The coefficients climb steeply at zero (3.4445 each step) and do not settle at one: equal within 20% is enough, and
    saves iterations.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype or at_least_float32(matrix.dtype))
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x                                   # x x^T is then the smaller of the two products
    # the Frobenius norm bounds the largest singular value: all lie in 0..1, where the polynomial is tame
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


def matched(matrix: Tensor, rows: tuple[int, ...] | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """The step for a learning rate of one: `newton_schulz` times 0.2 sqrt(max(m, n)).

    matrix: (..., m, n). rows: the heights of the maps stacked in it, m in all; None: one map. dtype: as above.
    Returns (..., m, n). The root mean square of each map's numbers is 0.175 or so for random matrices, and lies in
    0.136..0.242 (0.2 times the band of `newton_schulz`) as long as no singular value is too small for the band.
    """
    pieces = matrix.split(rows or [matrix.shape[-2]], dim=-2)
    return torch.cat([0.2 * max(piece.shape[-2:]) ** 0.5 * newton_schulz(piece, dtype=dtype) for piece in pieces], -2)


class Muon(torch.optim.Optimizer):
    """Muon for some groups, AdamW for the others; one object, one learning rate. `optim.muon` makes the groups.

    Args:
        groups: dicts with "params", "weight_decay" and "muon". muon=True: matrices (m, n) or stacks of them (e, m, n);
            such a group may hold "rows", as in `matched`. muon=False: AdamW.
        lr: learning rate. momentum: of Muon, 0 <= momentum < 1; with 0 a step depends on no earlier gradient.
        betas, eps: of AdamW. dtype: of the Newton-Schulz arithmetic, as in `newton_schulz`.
    Raises:
        ValueError: lr or momentum out of range; a Muon parameter that is no matrix; rows that do not add up to its
            height.

    Weight decay is decoupled: it pulls by lr * weight_decay, whatever the gradient and the shape.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.95),
                 eps: float = 1e-8, dtype: torch.dtype | None = None):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in 0 <= momentum < 1, got {momentum!r}")
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr!r}")
        super().__init__(groups, dict(lr=lr, momentum=momentum, betas=betas, eps=eps, rows=None))
        self.dtype = dtype
        for group in self.param_groups:
            for p in group["params"] if group["muon"] else ():
                if p.dim() < 2:
                    raise ValueError(f"groups: Muon moves matrices (..., m, n), got the shape {tuple(p.shape)}")
                if group["rows"] and sum(group["rows"]) != p.shape[-2]:
                    raise ValueError(f"groups: rows must add up to {p.shape[-2]}, the parameter's height, "
                                     f"got {group['rows']}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves every parameter that has a gradient. Returns what `closure` returns, as any torch optimizer does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            direction = self.muon_direction if group["muon"] else self.adam_direction
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(direction(p.grad, self.state[p], group), alpha=-group["lr"])
        return loss

    def muon_direction(self, grad: Tensor, state: dict, group: dict) -> Tensor:
        """`matched` of the gradient looked at through the momentum, one step ahead (Nesterov)."""
        mu = group["momentum"]
        # counted even without momentum, so that a checkpoint has an entry for each parameter
        state["step"] = state.get("step", torch.zeros((), dtype=torch.float32, device="cpu")) + 1
        if mu:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(grad)
            grad = grad.lerp(state["momentum_buffer"].lerp_(grad, 1 - mu), mu)
        return matched(grad, group["rows"], self.dtype)

    def adam_direction(self, grad: Tensor, state: dict, group: dict) -> Tensor:
        """AdamW's: the mean gradient over the root of the mean square, both corrected for their start at zero."""
        if not state:
            state.update(step=torch.zeros((), dtype=torch.float32, device="cpu"),
                         exp_avg=torch.zeros_like(grad), exp_avg_sq=torch.zeros_like(grad))
        state["step"] = state["step"] + 1
        steps, (beta1, beta2) = int(state["step"]), group["betas"]
        mean = state["exp_avg"].lerp_(grad, 1 - beta1) / (1 - beta1 ** steps)
        square = state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2) / (1 - beta2 ** steps)
        return mean / (square.sqrt() + group["eps"])
