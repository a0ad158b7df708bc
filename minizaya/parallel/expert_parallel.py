"""Expert parallelism: the experts are dealt out to the ranks, and tokens travel to them and back.

    rank r keeps experts r E/n .. (r + 1) E/n - 1
    sort this rank's tokens by route    a token for a far expert and one for a near one now lie in runs
    all-to-all: counts                  how many tokens each rank is about to get, by expert
    all-to-all: tokens                  there
    every rank runs its own experts
    all-to-all: results                 and back, into the places that the tokens left
    times the gate, at home             gates never travel, so the router's gradient never leaves its rank

A token of the skip route has no expert: it stays where it is. A rank may get no token at all, or all of them; the
collectives are called just the same, since every rank waits for every other.

Source: GShard (arXiv 2006.16668), dispatch by all-to-all; here without capacities, so no token is ever dropped.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ..arch import balance
from ..arch.experts import Experts, Reorder, swiglu
from ..native.fused.experts import Visits


def send_counts(routes: Tensor, num_experts: int, ranks: int) -> Tensor:
    """How many of this rank's tokens go to each expert, by the rank that keeps it: int64 (ranks, E / ranks).

    routes: int64 (n,), 0..E, E = skip, which goes nowhere. The sum of row r is what is sent to rank r.
    """
    return torch.bincount(routes, minlength=num_experts + 1)[:num_experts].view(ranks, -1)


def send_matrix(routes: list[Tensor], num_experts: int) -> Tensor:
    """Who sends how many tokens to whom: int64 (ranks, ranks), [source, target], its own included.

    routes: of each rank's tokens, int64 (n,) each, 0..E; the ranks may hold any number of them.
    """
    return torch.stack([send_counts(own, num_experts, len(routes)).sum(1) for own in routes])


def global_load(visits: Tensor) -> Tensor:
    """The load of the global batch, which the balancer must see: float32 (layers, E).

    visits: int64 (ranks, layers, E + 1), each rank's tokens by route, the skip route last (`balance.counts`).
    trap: the mean of the ranks' loads is another number where they hold different numbers of tokens.
    """
    return balance.fractions(visits.sum(0))


class AllToAll(torch.autograd.Function):
    """Rows to their ranks: x (sum of `sent`, D) -> (sum of `got`, D). The gradient goes the same way back."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, sent: list[int], got: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.got, ctx.group = sent, got, group
        out = x.new_empty(sum(got), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), got, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor):
        return AllToAll.apply(gradient, ctx.got, ctx.sent, ctx.group), None, None, None


def by_expert(counts: Tensor) -> Tensor:
    """The order that puts received tokens expert by expert. They arrive rank by rank, each rank's by expert.

    counts: int64 (ranks, experts here), received. Returns int64 (sum,), for `x[order]`.
    """
    expert = torch.arange(counts.shape[1], device=counts.device).expand_as(counts)
    return torch.argsort(expert.flatten().repeat_interleave(counts.flatten()), stable=True)


class ExpertParallel(nn.Module):
    """Stands in the place of `Experts`, with E / n of its experts under the same names, and equals it.

    Args:
        experts: the whole `Experts`, the same on every rank. group: the process group of the n ranks that share them.
        compiled: run them by the fused loops (`native/fused`).
    Raises:
        ValueError: n does not divide the number of experts.
    """

    def __init__(self, experts: Experts, group: dist.ProcessGroup, compiled: bool = False):
        super().__init__()
        self.compiled = compiled
        self.group, self.ranks = group, dist.get_world_size(group)
        self.num_experts = len(experts.gate_up_proj)
        if self.num_experts % self.ranks:
            raise ValueError(f"ep must divide num_experts, got ep {self.ranks} and {self.num_experts} experts")
        mine = slice_of(self.num_experts, dist.get_rank(group), self.ranks)
        self.gate_up_proj = nn.Parameter(experts.gate_up_proj.detach()[mine].clone())
        self.down_proj = nn.Parameter(experts.down_proj.detach()[mine].clone())

    def forward(self, x: Tensor, routes: Tensor, gates: Tensor) -> Tensor:
        """x: (b, t, D); routes: int64 (b, t); gates: (b, t). Returns (b, t, D)."""
        tokens, routes = x.flatten(0, 1), routes.flatten()
        order = torch.argsort(routes, stable=True)            # skipped tokens come last
        back = torch.argsort(order)                           # undoes it
        to = send_counts(routes, self.num_experts, self.ranks)
        here = torch.empty_like(to)
        dist.all_to_all_single(here, to, group=self.group)
        sent, got = to.sum(1).tolist(), here.sum(1).tolist()
        leaving, staying = Reorder.apply(tokens, order, back).split((sum(sent), len(tokens) - sum(sent)))

        arrived = AllToAll.apply(leaving, sent, got, self.group)
        done = self.run(arrived, here)
        returned = AllToAll.apply(done, got, sent, self.group)

        out = torch.cat([returned, torch.zeros_like(staying)])
        return (Reorder.apply(out, back, order) * gates.flatten()[:, None]).unflatten(0, x.shape[:2])

    def run(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """This rank's experts over (n, D) received tokens, counts int64 (ranks, experts here); in the order received.

        An expert without tokens runs on none of them: its gradient is then zero, as in one process, and not None.
        """
        order = by_expert(counts)
        back = torch.argsort(order)
        if self.compiled:
            owner = torch.arange(counts.shape[1]).repeat_interleave(counts.sum(0))[back]
            return Visits.apply(tokens, owner, torch.ones(len(tokens)), self.gate_up_proj, self.down_proj)
        slices = Reorder.apply(tokens, order, back).split(counts.sum(0).tolist())
        weights = zip(slices, self.gate_up_proj.unbind(), self.down_proj.unbind())
        return Reorder.apply(torch.cat([swiglu(some, up, down) for some, up, down in weights]), back, order)


def slice_of(count: int, rank: int, ranks: int) -> slice:
    """The rank's share of `count` things in a row: contiguous, sizes that differ by one at most, longer ones first."""
    size, longer = divmod(count, ranks)
    start = rank * size + min(rank, longer)
    return slice(start, start + size + (rank < longer))
