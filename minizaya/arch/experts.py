"""SwiGLU experts: a plain loop that reads like the definition, and a grouped path that is fast.

Each token visits one expert. Its output is scaled by the gate, the router's own probability for that expert. The skip
route (number E) has no expert: it contributes zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One expert: down @ (silu(gate @ x) * (up @ x)).

    Args:
        x: (n, D). gate_up: (2F, D), the gate rows above the up rows. down: (D, F).
    Returns:
        (n, D).
    """
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def experts_loop(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The reference: for each expert, pick its tokens, run them, put them back.

    Args:
        x: (n, D) tokens. routes: int64 (n,), the expert of each token, E = skip. gates: (n,).
        gate_up: (E, 2F, D). down: (E, D, F).
    Returns:
        (n, D); the rows of skipped tokens are zero.
    """
    out = torch.zeros_like(x)
    for expert in range(len(gate_up)):
        mine = torch.where(routes == expert)[0]
        if len(mine):
            out[mine] = swiglu(x[mine], gate_up[expert], down[expert]) * gates[mine, None]
    return out


class Reorder(torch.autograd.Function):
    """x[order], for an `order` that is a permutation. Its gradient is a reordering too, with the inverse `back`.

    torch's own rule for the gradient of an index must expect repeats and adds up row by row, which is slow.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x[order]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.saved_tensors
        return Reorder.apply(gradient, back, order), None, None


def experts_grouped(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The fast path, equal to `experts_loop`: sort the tokens by expert once, then every expert works on a slice.

    Sorting turns E scattered reads and writes into one gather and one scatter, and skipped tokens, which sort last,
    cost nothing.
    """
    order = torch.argsort(routes, stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(routes, minlength=len(gate_up) + 1).tolist()
    *grouped, skipped = Reorder.apply(x, order, back).split(counts)
    # an empty expert runs on no token all the same while gradients are on: else, were all empty, nothing would tie the
    # weights to the output, and they would have no gradient at all; a single one gets its zeros from unbind in any case
    learning = torch.is_grad_enabled()
    # unbind, not gate_up[e]: the backward of an index fills a whole zero stack for each expert
    done = [swiglu(tokens, expert_in, expert_out) if len(tokens) or learning else tokens
            for tokens, expert_in, expert_out in zip(grouped, gate_up.unbind(), down.unbind())]
    done.append(torch.zeros_like(skipped))
    return Reorder.apply(torch.cat(done), back, order) * gates[:, None]


class Experts(nn.Module):
    """E SwiGLU experts, stacked: gate_up_proj (E, 2F, D) and down_proj (E, D, F)."""

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int, fast: bool = True):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.fast = fast

    def forward(self, x: Tensor, routes: Tensor, gates: Tensor) -> Tensor:
        """x: (b, t, D); routes: int64 (b, t); gates: (b, t). Returns (b, t, D)."""
        run = experts_grouped if self.fast else experts_loop
        out = run(x.flatten(0, 1), routes.flatten(), gates.flatten(), self.gate_up_proj, self.down_proj)
        return out.view_as(x)
