"""Laws of packing: which documents share a row, and what a row then holds."""

import math

import torch

from ..data import pack as lib
from . import strategies as draw_a
from .core import expect, law, parts, require


def shelves(draw):
    capacity = draw_a.size(draw, 1, 12)
    count = draw_a.size(draw, 0, 9)
    return dict(lengths=[draw_a.size(draw, 1, capacity) for _ in range(count)], capacity=capacity)


BINS = dict(subjects={"pack": lib.pack, "pack_naive": lib.pack_naive}, guards=[lib.pack, lib.pack_naive], examples=150)


def packed(fn, lengths, capacity) -> list[list[int]]:
    """The judged function's bins, after checking that every index is in exactly one of them."""
    bins = fn(lengths, capacity)
    require(isinstance(bins, list) and all(isinstance(b, list) for b in bins),
            f"a list of lists is wanted, you gave {bins!r}")
    require(sorted(i for b in bins for i in b) == list(range(len(lengths))),
            f"every index must be in one bin, once; you gave {bins}")
    return bins


def loads(bins, lengths) -> list[int]:
    return [sum(lengths[i] for i in b) for b in bins]


@law("pack.each_once", "every document is in exactly one bin, and no bin is empty", cases=draw_a.cases(shelves), **BINS)
def each_once(fn, lengths, capacity):
    """fn(lengths, capacity): a list of whole numbers in 1..capacity, and the capacity -> a list of bins, each a list of
    indices into lengths."""
    require(all(packed(fn, lengths, capacity)), "a bin is empty")


@law("pack.fits", "no bin holds more than the capacity", cases=draw_a.cases(shelves), **BINS)
def fits(fn, lengths, capacity):
    """fn(lengths, capacity): as in pack.each_once."""
    bins = packed(fn, lengths, capacity)
    for number, load in enumerate(loads(bins, lengths)):
        require(load <= capacity, f"bin {number} of {bins} holds {load}, the capacity is {capacity}")


def choices():
    """A later bin that is fuller than an earlier one with room; two that are equally full; equal documents."""
    return [dict(lengths=lengths, capacity=capacity)
            for lengths, capacity in (([8, 6, 6, 1], 13), ([5, 5, 2], 9), ([2, 2, 2], 4), ([1, 6, 8, 6], 13))]


@law("pack.best_fit", "longest first, each into the fullest bin with room; ties: the earlier document, the older bin",
     cases=draw_a.cases(shelves), always=choices, **BINS)
def best_fit(fn, lengths, capacity):
    """fn(lengths, capacity): as in pack.each_once; the bins in the order in which they were opened, and in each the
    documents in the order in which they came."""
    wanted: list[list[int]] = []
    for length, i in sorted((-n, i) for i, n in enumerate(lengths)):
        # the space left behind: the least that is not negative wins, then the lower number
        left = [(capacity - load + length, number) for number, load in enumerate(loads(wanted, lengths))]
        _, number = min((pair for pair in left if pair[0] >= 0), default=(0, len(wanted)))
        wanted[number:number + 1] = [[*(wanted[number] if number < len(wanted) else []), i]]
    bins = packed(fn, lengths, capacity)
    require(bins == wanted, f"you gave {bins}, the law wants {wanted}")


@law("pack.names", "another order of the documents changes their names, not how the bins are filled",
     cases=draw_a.cases(shelves), **BINS)
def names(fn, lengths, capacity):
    """fn(lengths, capacity): as in pack.each_once."""
    def filling(order):
        return [[order[i] for i in b] for b in packed(fn, order, capacity)]

    straight, backwards = filling(lengths), filling(lengths[::-1])
    require(straight == backwards, f"the bins hold lengths {straight}, and in reverse order {backwards}")


# Why any two bins hold more than one row: the first document of the younger bin did not fit into what the older one
# held then, and bins only gain. So at most one bin is half empty, and the bins are fewer than 2 sum / capacity + 1.
@law("pack.few", "any two bins hold more than one row together, so there are fewer than twice as many as needed",
     cases=draw_a.cases(shelves), **BINS)
def few(fn, lengths, capacity):
    """fn(lengths, capacity): as in pack.each_once."""
    bins = packed(fn, lengths, capacity)
    small = sorted(loads(bins, lengths))[:2]
    require(len(small) < 2 or sum(small) > capacity,
            f"two bins of {bins} hold {small} tokens: one row of {capacity} would do for both")
    least = math.ceil(sum(lengths) / capacity)
    require(least <= len(bins) <= max(1, 2 * least) if lengths else not bins,
            f"{len(bins)} bins for {sum(lengths)} tokens, a row holds {capacity}")


# ---- rows ------------------------------------------------------------------------------------------------------------


def documents(draw):
    lengths = [draw_a.size(draw, 1, 4) for _ in range(draw_a.size(draw, 1, 4))]
    bins = [[0]]
    for i in range(1, len(lengths)):
        if draw_a.flag(draw):
            bins[-1].insert(draw_a.pick(draw, (0, len(bins[-1]))), i)
        else:
            bins.append([i])
    capacity = max(loads(bins, lengths)) + draw_a.size(draw, 0, 3)
    masks = [draw_a.integers(draw, n, low=0, high=1).bool() for n in lengths] if draw_a.flag(draw) else None
    # trap: 0 fills up, and may be a token, too: which places are padding is not to be read from the tokens
    return dict(documents=[draw_a.integers(draw, n, low=0, high=9) for n in lengths], bins=bins[::-1],
                capacity=capacity, loss_masks=masks)


def places():
    """A bin whose documents are not in the order of their numbers; and a document that begins and ends with token 0."""
    numbers = [torch.tensor([1, 2]), torch.tensor([3, 4, 5]), torch.tensor([0, 6, 0])]
    return [dict(documents=numbers, bins=[[1, 0], [2]], capacity=5, loss_masks=None)]


def four(documents, bins, capacity, loss_masks):
    rows = lib.lay_out(documents, bins, capacity, 0, loss_masks)
    return rows.tokens, rows.targets, rows.doc_ids, rows.mask


ROWS = dict(cases=draw_a.cases(documents), always=places, subjects={"lay_out": four}, guards=[lib.lay_out], examples=60)
NAMES = "tokens, targets, doc_ids, mask"


@law("pack.rows", "a row holds its documents whole, one after the other, then padding", **ROWS)
def rows(fn, documents, bins, capacity, loss_masks):
    """fn(documents, bins, capacity, loss_masks): documents is a list of int64 (n,); bins a list of lists of indices;
    loss_masks a list of bool (n,), or None -> tokens int64, targets int64, doc_ids int64 and mask bool, each
    (rows, capacity). Padding: token 0, doc_id -1, mask False."""
    tokens, _, doc_ids, mask = parts(fn(documents, bins, capacity, loss_masks), 4, NAMES)
    wanted = torch.zeros(len(bins), capacity, dtype=torch.int64)
    owners = torch.full_like(wanted, -1)
    for row, members in enumerate(bins):
        line = [(token, i) for i in members for token in documents[i].tolist()]
        for column, (token, i) in enumerate(line):
            wanted[row, column], owners[row, column] = token, i
    expect(tokens, wanted, "o t", "token")
    expect(doc_ids, owners, "o t", "doc_id")
    expect(mask, owners >= 0, "o t", "mask")


@law("pack.targets", "each token predicts the next one of its own document; the last one predicts nothing", **ROWS)
def targets(fn, documents, bins, capacity, loss_masks):
    """fn(documents, bins, capacity, loss_masks): as in pack.rows; -100 where nothing is predicted: at the end of a
    document, on padding, and before a token whose loss mask is False."""
    _, got, _, _ = parts(fn(documents, bins, capacity, loss_masks), 4, NAMES)
    wanted = torch.full((len(bins), capacity), -100)
    for row, members in enumerate(bins):
        column = 0
        for i in members:
            for t in range(len(documents[i])):
                if t + 1 < len(documents[i]) and (loss_masks is None or loss_masks[i][t + 1]):
                    wanted[row, column] = documents[i][t + 1]
                column += 1
    expect(got, wanted, "o t", "target")
