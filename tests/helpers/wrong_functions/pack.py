"""Wrong functions for the laws of pack: see the head of this folder."""

import torch

from minizaya.data import pack
from minizaya.laws.pack import four


def one_more(lengths, capacity):
    return [*pack.pack(lengths, capacity), []]


def as_tuples(lengths, capacity):
    return [tuple(b) for b in pack.pack(lengths, capacity)]


def spoils_input(lengths, capacity):
    bins = pack.pack(lengths, capacity)
    lengths.append(1)
    return bins


def all_in_one(lengths, capacity):
    return [list(range(len(lengths)))] if lengths else []


def one_each(lengths, capacity):
    return [[i] for i in range(len(lengths))]


def full_but_not(change):
    """The right four, one of them changed."""
    def rows(*given):
        got = list(four(*given))
        got[change] = got[change] + 1 if got[change].dtype != torch.bool else ~got[change]
        return tuple(got)
    return rows


def told_by_token(*given):
    """Padding is where token 0 is."""
    tokens, targets, doc_ids, _ = four(*given)
    return tokens, targets, doc_ids, tokens != 0


def by_number(documents, bins, capacity, loss_masks):
    return four(documents, [sorted(b) for b in bins], capacity, loss_masks)


WRONG = {
    "pack.each_once": [
        one_more,
        as_tuples,
        (lambda n, c: pack.pack(n, c)[1:], "every index must be in one bin"),
        (spoils_input, "make a new list instead"),
    ],
    "pack.fits": [
        all_in_one,
    ],
    "pack.best_fit": [
        one_each,
    ],
    "pack.names": [
        lambda lengths, capacity: pack.pack(lengths, capacity)[:: -1 if lengths > lengths[::-1] else 1],
    ],
    "pack.few": [
        lambda lengths, capacity: one_each(lengths, capacity) if len(lengths) == 2 else pack.pack(lengths, capacity),
        all_in_one,
        one_each,
        one_more,
    ],
    "pack.rows": [
        full_but_not(0),
        full_but_not(2),
        full_but_not(3),
        told_by_token,
        by_number,
    ],
    "pack.targets": [
        full_but_not(1),
        by_number,
    ],
}
