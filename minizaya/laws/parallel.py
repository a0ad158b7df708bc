"""Laws of several processes, told in one: who sends what, what a chunk needs, the global load. "parallel."."""

import torch

from ..arch import cca
from ..parallel import context_parallel, expert_parallel
from . import strategies as draw_a
from .core import expect, expect_trainable, law, require

# ---- experts ---------------------------------------------------------------------------------------------------------


def dealt_out(draw):
    ranks, each = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 3)
    tokens = [draw_a.size(draw, 0, 5) for _ in range(ranks)]
    return dict(routes=[draw_a.integers(draw, n, low=0, high=ranks * each) for n in tokens], num_experts=ranks * each)


@law("parallel.all_to_all_splits", "a token goes to the rank that keeps its expert; a skipped token goes nowhere",
     cases=draw_a.cases(dealt_out), subjects={"send_matrix": expert_parallel.send_matrix},
     guards=[expert_parallel.send_matrix, expert_parallel.send_counts])
def all_to_all_splits(fn, routes, num_experts):
    """fn(routes, num_experts): a list of int64 (n,), the routes 0..E of each rank's tokens, E = skip; n may be zero.
    Rank r keeps the E / ranks experts from r E / ranks on. Returns int64 (ranks, ranks), [source, target], tokens sent,
    those that stay at home included."""
    ranks = len(routes)
    wanted = torch.zeros(ranks, ranks, dtype=torch.int64)
    for source, own in enumerate(routes):
        for route in own.tolist():
            if route < num_experts:
                wanted[source, route // (num_experts // ranks)] += 1
    expect(fn(routes, num_experts), wanted, "w w")


@law("parallel.by_expert", "what arrives rank by rank is put expert by expert, and keeps its order within each",
     cases=draw_a.cases(lambda draw: dict(counts=draw_a.integers(draw, draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 3),
                                                                 low=0, high=3))),
     axes=dict(counts="w e"), subjects={"by_expert": expert_parallel.by_expert}, guards=[expert_parallel.by_expert])
def by_expert(fn, counts):
    """fn(counts): int64 (ranks, experts), tokens that arrived from each rank for each expert here -> int64 (sum,), the
    order in which to take them, by expert, then by rank, then as they came."""
    places, at = {}, 0
    for rank, row in enumerate(counts.tolist()):
        for expert, count in enumerate(row):
            places[expert, rank] = list(range(at, at + count))
            at += count
    expect(fn(counts), torch.tensor([place for key in sorted(places) for place in places[key]], dtype=torch.int64), "n")


def idle():
    """An expert that no token visits, and a rank that has no tokens."""
    return [dict(visits=torch.tensor(counts)) for counts in ([[[3, 0, 1]], [[2, 0, 2]]], [[[3, 4, 1]], [[0, 0, 0]]])]


@law("parallel.global_load", "the balancer sees the tokens of all ranks as one batch",
     cases=draw_a.cases(lambda draw: dict(visits=draw_a.integers(draw, draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 2),
                                                                 draw_a.size(draw, 2, 4), low=1, high=9))),
     always=idle, axes=dict(visits="w l r"), subjects={"global_load": expert_parallel.global_load},
     guards=[expert_parallel.global_load])
def global_load(fn, visits):
    """fn(visits): int64 (ranks, layers, E + 1), each rank's tokens by route, the skip route last -> float (layers, E),
    the share of the global batch's tokens that each expert got."""
    tokens = visits.sum(0)
    wanted = torch.tensor([[count / sum(row) for count in row[:-1]] for row in tokens.tolist()])
    expect(fn(visits), wanted, "l e")


# ---- chunks of a sequence --------------------------------------------------------------------------------------------


def shares(count: int, ranks: int) -> list[tuple[int, int]]:
    """The library's subject."""
    found = [expert_parallel.slice_of(count, rank, ranks) for rank in range(ranks)]
    return [(share.start, share.stop) for share in found]


@law("parallel.shares", "things in a row are dealt out in order, all of them, in shares that differ by one at most",
     cases=draw_a.cases(lambda draw: dict(count=draw_a.size(draw, 0, 9), ranks=draw_a.size(draw, 1, 4))),
     subjects={"slice_of": shares}, guards=[expert_parallel.slice_of])
def shares_law(fn, count, ranks):
    """fn(count, ranks): two ints -> a list of (first, last + 1), a pair for each rank."""
    got = [tuple(pair) for pair in fn(count, ranks)]
    dealt = [thing for first, stop in got for thing in range(first, stop)]
    sizes = [stop - first for first, stop in got]
    require(len(got) == ranks and dealt == list(range(count)), f"you gave {got}")
    require(max(sizes) - min(sizes) <= 1, f"you gave shares of {sizes}")


def chunked(draw):
    lengths = [draw_a.size(draw, 1, 4) for _ in range(draw_a.size(draw, 1, 4))]
    return dict(lengths=lengths, lag=draw_a.size(draw, 0, 4))


@law("parallel.halo_plan", "every rank gets the tokens before its chunk once, from the ranks that hold them",
     cases=draw_a.cases(chunked), subjects={"halo_plan": context_parallel.halo_plan},
     guards=[context_parallel.halo_plan])
def halo_plan(fn, lengths, lag):
    """fn(lengths, lag): tokens of each rank's chunk, and how many tokens before it a rank needs -> a list of (source,
    target, first, last + 1), places in the whole sequence."""
    owner = [rank for rank, length in enumerate(lengths) for _ in range(length)]
    wanted, start = [], 0
    for target, length in enumerate(lengths):
        wanted += [(owner[place], target, place) for place in range(max(0, start - lag), start)]
        start += length
    got = [(source, target, place) for source, target, first, stop in fn(list(lengths), lag)
           for place in range(first, stop)]
    got, wanted = sorted(got), sorted(wanted)
    require(got == wanted, f"you send (source, target, place) {got}, the law wants {wanted}")


def cut(draw):
    heads, width = draw_a.size(draw, 1, 2), 2
    b, t, before = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 3), draw_a.size(draw, 0, 4)
    return dict(previous=draw_a.tensor(draw, b, before, heads * width), chunk=draw_a.tensor(draw, b, t, heads * width),
                depthwise=draw_a.convolution(draw, heads * width, 2, heads * width),
                grouped=draw_a.convolution(draw, heads * width, 2, heads))


def with_halo(previous, chunk, depthwise, grouped):
    """The library's subject: the halo is what a cache would hold."""
    lag = depthwise.kernel_size[0] + grouped.kernel_size[0] - 2
    halo = torch.cat([chunk.new_zeros(len(chunk), lag, chunk.shape[2]), previous], dim=1)[:, previous.shape[1]:]
    return cca.convolve(torch.cat([halo, chunk], dim=1), depthwise, grouped)


@law("parallel.halo", "a chunk with two tokens of the one before is convolved as in the whole sequence",
     cases=draw_a.cases(cut), axes=dict(previous="b s c", chunk="b t c"), subjects={"convolve": with_halo},
     guards=[cca.convolve, cca.convolve_taps])
def halo(fn, previous, chunk, depthwise, grouped):
    """fn(previous, chunk, depthwise, grouped): float (b, s, c), all tokens before the chunk, s from 0 on; float (b, t,
    c); two Conv1d over time of two taps each, without padding -> (b, t, c), the chunk's share of what depthwise, then
    grouped make of the whole sequence with two columns of zeros in front of it. Gradients reach both stretches."""
    def whole(previous, chunk, depthwise, grouped):
        z = torch.cat([chunk.new_zeros(len(chunk), 2, chunk.shape[2]), previous, chunk], dim=1).transpose(1, 2)
        return grouped(depthwise(z)).transpose(1, 2)[:, previous.shape[1]:]

    stretches = dict(previous=previous, chunk=chunk)
    expect(fn(previous, chunk, depthwise, grouped), whole(previous, chunk, depthwise, grouped), "b t c")
    expect_trainable(fn, whole, dict(previous="b s c", chunk="b t c"), stretches, depthwise, grouped)
