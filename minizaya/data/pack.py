"""Packing: documents of uneven length laid into rows of one length, none cut, little padding.

    bins = pack([len(d) for d in documents], capacity)       which documents share a row
    rows = lay_out(documents, bins, capacity, pad_id)        the rows themselves
    model(rows.tokens, doc_ids=rows.doc_ids, mask=rows.mask)

The old way joins all text and cuts it every `capacity` tokens (`wrapped`): no padding, but documents lose their
beginnings, and the model learns to answer without having seen the question. Best-fit decreasing cuts nothing and still
fills rows almost to the brim, because short documents fill what long ones leave.

Source: Ding et al., "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830), section 3.
"""

import heapq
import reprlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from .ids import token_tensor

IGNORE = -100  # a target that is not scored; what F.cross_entropy leaves out unless told otherwise


def pack(lengths: Iterable[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: longest first, each into the fullest bin that still has room for it.

    Args:
        lengths: whole numbers, 1 to `capacity` each. capacity: tokens in a row.
    Returns:
        The bins in the order in which they were opened, each a list of indices into `lengths`, longest first. Ties:
        of two equal documents the earlier one goes first, of two equally full bins the older one is filled.
    Raises:
        ValueError: a length is no whole number, below 1 or above the capacity (trim such documents first: cutting
            them here could cut an answer).

    Sorting takes O(n log n). Then each document takes O(log capacity) to find its bin and O(log n) to keep the ties in
    order; looking at every bin (`pack_naive`) takes O(n).
    """
    lengths = checked(lengths, capacity)
    bins, opened = [], OpenBins(capacity)
    for i in longest_first(lengths):
        number, space = opened.take(lengths[i]) or (len(bins), capacity)
        if number == len(bins):
            bins.append([])
        bins[number].append(i)
        opened.put(number, space - lengths[i])
    return bins


class OpenBins:
    """Bins by the space they have left; finds the smallest space that suffices in O(log capacity).

    A binary tree over the spaces 0..capacity. A leaf is filled when some bin has exactly that space, a node above when
    a leaf below it is: so whole ranges without bins are passed over at one look.
    """

    def __init__(self, capacity: int):
        self.leaves = 1 << capacity.bit_length()      # a power of two above `capacity`
        self.filled = bytearray(2 * self.leaves)      # node 1 is the root; node k has the children 2k and 2k + 1
        self.bins = defaultdict(list)                 # space -> heap of bin numbers, the oldest on top

    def put(self, number: int, space: int) -> None:
        """Bin `number` has `space` left."""
        heapq.heappush(self.bins[space], number)
        node = self.leaves + space
        while node and not self.filled[node]:
            self.filled[node] = 1
            node //= 2

    def take(self, least: int) -> tuple[int, int] | None:
        """Removes and returns the bin with the smallest space of at least `least`, as (number, space); None: no bin."""
        filled, node = self.filled, self.leaves + least
        if not filled[node]:
            # up, until a right sibling holds bins: all of those have more space than `least`
            while node > 1 and (node % 2 or not filled[node + 1]):
                node //= 2
            if node <= 1:
                return None
            node += 1
            while node < self.leaves:  # down again, to the left wherever there is something
                node = 2 * node if filled[2 * node] else 2 * node + 1
        space = node - self.leaves
        heap = self.bins[space]
        number = heapq.heappop(heap)
        if not heap:
            while node:
                filled[node] = 0
                node = 0 if filled[node ^ 1] else node // 2  # a filled sibling keeps the parent filled
        return number, space


def pack_naive(lengths: Iterable[int], capacity: int) -> list[list[int]]:
    """The definition of `pack`, looking at every bin: equal to it bin for bin. O(n^2)."""
    lengths = checked(lengths, capacity)
    # min gives the first, so the oldest, of the bins with the smallest space
    return place(longest_first(lengths), lengths, capacity, lambda room, spaces: min(room, key=lambda b: spaces[b]))


def first_fit(lengths: Iterable[int], capacity: int) -> list[list[int]]:
    """For comparison: documents in the order given, each into the oldest bin with room. O(n^2)."""
    lengths = checked(lengths, capacity)
    return place(range(len(lengths)), lengths, capacity, lambda room, spaces: room[0])


def place(order: Iterable[int], lengths: list[int], capacity: int, choose: Callable) -> list[list[int]]:
    """Puts the documents, in this order, into the bin that `choose(bins with room, space left in each bin)` names."""
    bins, spaces = [], []
    for i in order:
        room = [b for b, space in enumerate(spaces) if space >= lengths[i]]
        if not room:
            room = [len(bins)]
            bins.append([])
            spaces.append(capacity)
        best = choose(room, spaces)
        bins[best].append(i)
        spaces[best] -= lengths[i]
    return bins


def wrapped(lengths: Iterable[int], capacity: int) -> list[list[tuple[int, int, int]]]:
    """The old way, for comparison: all documents in one line, cut every `capacity` tokens. Lengths may exceed it.

    Returns rows of pieces (index, start, stop): tokens start..stop - 1 of that document.
    """
    checked([], capacity)
    rows, space = [], 0
    for i, length in enumerate(checked(lengths, sys.maxsize)):
        start = 0
        while start < length:
            if space == 0:
                rows.append([])
                space = capacity
            stop = min(length, start + space)
            rows[-1].append((i, start, stop))
            start, space = stop, space - (stop - start)
    return rows


def longest_first(lengths: list[int]) -> list[int]:
    """The indices by falling length; equal lengths keep their order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def checked(lengths: Iterable[int], capacity: int) -> list[int]:
    """`lengths` as a list of int. Raises ValueError as `pack` does."""
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"capacity must be a whole number of at least 1, got {capacity!r}")
    numbers = []
    for i, length in enumerate(lengths):
        try:
            number = index(length)
        except TypeError:
            raise ValueError(f"lengths must be whole numbers, got lengths[{i}] = {length!r}") from None
        if not 1 <= number <= capacity:
            advice = "; trim it first, packing never cuts" if number > capacity else ""
            raise ValueError(f"lengths must lie in 1..{capacity} (the capacity), got lengths[{i}] = {number}{advice}")
        numbers.append(number)
    return numbers


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Rows ready for `model(tokens, doc_ids=doc_ids, mask=mask)`; all four are (rows, capacity).

    tokens: int64. targets: int64, the token after each token, IGNORE where none is scored. doc_ids: int64, the
    document's index, -1 for padding. mask: bool, False for padding, which stands at the row's end.
    """

    tokens: Tensor
    targets: Tensor
    doc_ids: Tensor
    mask: Tensor


def lay_out(documents: Sequence, bins: list[list[int]], capacity: int, pad_id: int,
            loss_masks: Sequence | None = None) -> Packed:
    """The rows that `bins` describes, each document whole, one after the other.

    Args:
        documents: token ids of each document, lists or int tensors (n,).
        bins: one list of indices into `documents` a row, as `pack` makes them; some may be left out.
        capacity: tokens in a row. pad_id: the token that fills up.
        loss_masks: for each document n flags, True where its token is to be learned; None: all are.
    Raises:
        ValueError: a row is longer than the capacity, a document comes twice, a loss mask has another length than its
            document or holds what is no flag, a document holds what is no token id.

    trap: shifting a whole row by one makes each document's last token predict the next document's first, which has
    nothing to do with it. Here the last token predicts nothing, and the first is predicted by nothing.
    """
    tokens = torch.full((len(bins), capacity), pad_id, device="cpu")
    targets, doc_ids = torch.full_like(tokens, IGNORE), torch.full_like(tokens, -1)
    seen = set()
    for row, members in enumerate(bins):
        start = 0
        for i in members:
            if i in seen:
                raise ValueError(f"bins must hold a document at most once, got document {i} twice")
            seen.add(i)
            document = token_tensor(f"documents[{i}]", documents[i])
            stop = start + len(document)
            if stop > capacity:
                raise ValueError(f"bins[{row}] must fit into the capacity of {capacity}, got {stop} tokens or more")
            following = document[1:]
            if loss_masks is not None:
                flags = torch.as_tensor(loss_masks[i], device="cpu")
                if flags.numel() and flags.dtype != torch.bool and not bool(((flags == 0) | (flags == 1)).all()):
                    raise ValueError(f"loss_masks[{i}] must hold True and False, no weights, "
                                     f"got {reprlib.repr(loss_masks[i])}")
                flags = flags.bool()
                if flags.shape != document.shape:
                    raise ValueError(f"loss_masks[{i}] must have one flag for each of {len(document)} tokens, "
                                     f"got {tuple(flags.shape)}")
                following = torch.where(flags[1:], following, IGNORE)
            tokens[row, start:stop] = document
            doc_ids[row, start:stop] = i
            targets[row, start: stop - 1] = following
            start = stop
    return Packed(tokens, targets, doc_ids, doc_ids >= 0)


def lay_out_routes(routes: Sequence[Tensor], bins: Sequence[Sequence[int]], capacity: int) -> Tensor:
    """Routes in packed rows, beside `lay_out`: int64 (rows, capacity, layers), -1 on padding.

    routes: one (tokens, layers) a document. bins: the same as for the tokens. Raises ValueError when a row overflows.
    """
    layers = routes[0].shape[1]
    laid = torch.full((len(bins), capacity, layers), -1, device="cpu")
    for row, members in enumerate(bins):
        filled = torch.cat([routes[i] for i in members])
        if len(filled) > capacity:
            raise ValueError(f"bins: row {row} holds {len(filled)} tokens, capacity is {capacity}")
        laid[row, : len(filled)] = filled.long()
    return laid
