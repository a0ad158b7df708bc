"""Context parallelism for CCA: each rank holds one stretch of every sequence.

What a rank needs from the others is what a decoder keeps in its cache: the keys and values of the tokens before its
own, the `conv_lag` columns before its first (the convolutions' halo), and the last token's delayed half of the value.
So a rank's past is a `Cache` that is fetched from its neighbours instead of memory, and the model runs unchanged.

    rank 0: t0 t1 t2 t3    rank 1: t4 t5 t6    rank 2: t7 t8 t9
                 └──┴─── halo ───┘  ...              point to point, to the next rank
    K and V of all          all-gather              2 KV heads of d: an eighth of E each at 8B

Everything carries its gradient back: the halo's to the neighbour it came from, the keys' and values' to the rank that
made them, summed over the ranks that looked (reduce-scatter).

Source: ZAYA1-8B report: gathered K and V, 2 ranks at 32K tokens and 8 at 131K, boundaries sent point to point; the CCA
paper (arXiv 2510.04476), section V: latents are what is sent. Llama 3 (arXiv 2407.21783) gathers K and V, too.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..arch.attention import Place, causal_mask, document_starts, rope_angles, rope_frequencies
from ..arch.cache import Cache
from ..config import ZayaConfig
from .expert_parallel import slice_of


def chunk_lengths(steps: int, ranks: int) -> list[int]:
    """Tokens of each rank's chunk. Raises ValueError where a rank would get none."""
    if steps < ranks:
        raise ValueError(f"cp must not exceed the tokens of a row, got cp {ranks} and {steps} tokens")
    return [s.stop - s.start for s in (slice_of(steps, rank, ranks) for rank in range(ranks))]


def halo_plan(lengths: list[int], lag: int) -> list[tuple[int, int, int, int]]:
    """Who sends which tokens to whom, so that each rank has the `lag` tokens before its chunk.

    Returns (source, target, first, last + 1), positions in the whole sequence, in one order for all ranks. A halo
    longer than the neighbour's chunk comes from several ranks.
    """
    starts = [sum(lengths[:rank]) for rank in range(len(lengths))]
    plan = []
    for target, start in enumerate(starts):
        for source in range(target):
            first, stop = max(starts[source], start - lag), starts[source] + lengths[source]
            if first < stop:
                plan.append((source, target, first, stop))
    return plan


def carry(x: Tensor, x_start: int, out: Tensor, out_start: int, plan: list[tuple[int, int, int, int]],
          group: dist.ProcessGroup) -> Tensor:
    """Sends this rank's share of the plan out of x, and adds what arrives to `out`, which it returns.

    plan: (source, target, first, last + 1), as `halo_plan`. x and out: (b, t, c), whose first tokens stand at
    `x_start` and `out_start` of the whole sequence.
    """
    me, calls, arrived = dist.get_rank(group), [], []
    for source, target, first, stop in plan:
        if source == me:
            piece = x[:, first - x_start: stop - x_start].contiguous()
            calls.append(dist.P2POp(dist.isend, piece, group=group, group_peer=target))
        elif target == me:
            piece = out.new_empty(len(out), stop - first, out.shape[2])
            calls.append(dist.P2POp(dist.irecv, piece, group=group, group_peer=source))
            arrived.append((slice(first - out_start, stop - out_start), piece))
    for request in dist.batch_isend_irecv(calls) if calls else ():
        request.wait()
    for place, piece in arrived:
        out[:, place] += piece   # a token may be in several halos, whose gradients add up
    return out


class Halo(torch.autograd.Function):
    """x (b, t, c), this rank's chunk -> (b, lag, c), the tokens before it; zeros before the start of the sequence."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, lengths: list[int], lag: int, group: dist.ProcessGroup) -> Tensor:
        ctx.plan, ctx.group = halo_plan(lengths, lag), group
        ctx.start, ctx.length, ctx.lag = sum(lengths[:dist.get_rank(group)]), x.shape[1], lag
        halo = x.new_zeros(len(x), lag, x.shape[2])
        return carry(x, ctx.start, halo, ctx.start - lag, ctx.plan, group)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor):
        turned = [(target, source, first, stop) for source, target, first, stop in ctx.plan]   # every arrow
        own = gradient.new_zeros(len(gradient), ctx.length, gradient.shape[2])
        return carry(gradient, ctx.start - ctx.lag, own, ctx.start, turned, ctx.group), None, None, None


class GatherSequence(torch.autograd.Function):
    """x (b, t, ...), this rank's chunk -> (b, sum of lengths, ...), the chunks of all ranks in order."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, lengths: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.lengths, ctx.group = lengths, group
        mine = padded(x, max(lengths))
        chunks = [torch.empty_like(mine) for _ in lengths]
        dist.all_gather(chunks, mine, group=group)
        return torch.cat([chunk[:, :length] for chunk, length in zip(chunks, lengths)], dim=1)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor):
        parts = [padded(part, max(ctx.lengths)) for part in gradient.split(ctx.lengths, dim=1)]
        mine = torch.empty_like(parts[0])
        dist.reduce_scatter(mine, parts, group=ctx.group)    # the sum over all ranks that looked at my keys
        return mine[:, : ctx.lengths[dist.get_rank(ctx.group)]], None, None


def padded(x: Tensor, steps: int) -> Tensor:
    """x (b, t, ...) with zeros up to (b, steps, ...). trap: collectives want equal sizes on all ranks."""
    return torch.cat([x, x.new_zeros(len(x), steps - x.shape[1], *x.shape[2:])], dim=1)


class ContextCache(Cache):
    """The past of one chunk, fetched from the ranks that hold it. For one forward pass (with its backward pass).

    Args:
        config: the model's. batch: rows. lengths: `chunk_lengths`. group: the process group of the chunks, in order.
        doc_ids: int (b, sum of lengths), the documents of the *whole* rows, or None. Handed over here and not to the
            model, since a document may begin on another rank.
    Raises:
        ValueError: `attention_bias`, which no released model has: nobody would then be the bias, not zero.
    """

    def __init__(self, config: ZayaConfig, batch: int, lengths: list[int], group: dist.ProcessGroup,
                 dtype: torch.dtype, device: torch.device | None = None, doc_ids: Tensor | None = None):
        if config.attention_bias:
            raise ValueError("cp does not work with attention_bias, which no released model has; use dp or ep")
        super().__init__(config, batch, dtype, device)
        self.lengths, self.group, self.doc_ids = lengths, group, doc_ids
        me = dist.get_rank(group)
        self.length = self.start = sum(lengths[:me])         # tokens before mine: what `locate` calls the past
        self.stop = self.start + lengths[me]
        self.own = None                                      # int (b, t), places in their documents, if there are any

    def exchange(self, layer: int, z: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
        """The `conv_lag` columns before z and the value before `then`, from the ranks before this one."""
        lag = self.config.conv_lag
        past, before = Halo.apply(z, self.lengths, lag, self.group), Halo.apply(then, self.lengths, 1, self.group)
        if self.own is not None:  # what lies before the first token's document is not its past
            reach = torch.arange(lag, 0, -1, device=z.device)
            past = past * (self.own[:, :1] >= reach)[..., None]
        return past, before[:, 0]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens up to this rank's last, (b, s, j, d)."""
        both = GatherSequence.apply(torch.cat([k, v], dim=-1), self.lengths, self.group)
        return both[:, : self.stop].split(k.shape[-1], dim=-1)

    def placed(self, place: Place) -> Place:
        """With documents: positions count from each document's start, wherever that is, and no key crosses a border."""
        if self.doc_ids is None:
            return place
        document, position = document_starts(self.doc_ids)
        mine, keys = slice(self.start, self.stop), torch.arange(self.stop, device=position.device)
        self.own = position[:, mine]
        same = document[:, None, mine, None] == document[:, None, None, : self.stop]
        cfg, masks, angles = self.config, {}, {}
        for sliding in place.masks:
            masks[sliding] = same & causal_mask(keys[mine], keys, cfg.sliding_window if sliding else None)
            theta = cfg.rope_theta_sliding if sliding else cfg.rope_theta
            frequencies = rope_frequencies(cfg.rotary_dim, theta, position.device)
            angles[sliding] = rope_angles(self.own, frequencies, place.angles[sliding][0].dtype)
        return Place(angles, masks, self.own, place.valid)
