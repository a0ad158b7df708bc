"""The baseline a neural model must beat: a character n-gram with Witten-Bell smoothing.

Count which character followed each context (the n - 1 characters before it) in the training text. Long
contexts predict well but are often unseen; short ones are always seen but vague. Witten-Bell mixes them:

    p_n(c | h) = (count(h c) + distinct(h) * p_{n-1}(c | h')) / (count(h) + distinct(h))

h is the context of n - 1 tokens and h' the same without its oldest token; count(h c) is how often c
followed h, count(h) how often anything did, distinct(h) how many different tokens did. distinct(h) counts
how often h surprised us, so it measures how much to trust the shorter context. Below the 1-gram stands the
uniform distribution p_0 = 1 / vocab_size. An unseen context has count = distinct = 0: p_n = p_{n-1}.

Each p_n sums to one, because p_{n-1} does: (count(h) + distinct(h)) / (count(h) + distinct(h)).

nltk has the same model; here the formula is the lesson, and it takes forty lines.

Source: Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory, 1991
(their method C), in the interpolated form of Chen and Goodman, 1998.
"""

import math
from collections import Counter
from collections.abc import Sequence

from .ids import token_ids


class WittenBell:
    """N-gram counts of `train_ids` for every order up to `max_order`.

    Args:
        train_ids: list of int, each in 0 .. vocab_size - 1, at least one.
        vocab_size: number of possible tokens.
        max_order: the longest n-gram, at least 1.
    """

    def __init__(self, train_ids: Sequence[int], vocab_size: int, max_order: int = 6):
        if max_order < 1:
            raise ValueError(f"max_order must be at least 1, got {max_order}")
        text = _pack(train_ids, vocab_size, "train_ids")
        self.vocab_size, self.max_order = vocab_size, max_order
        self.count_next = []  # [n - 1]: how often each n-gram h c occurred
        self.count = []  # [n - 1]: how often each context h was followed by anything
        self.distinct = []  # [n - 1]: by how many different tokens
        for n in range(1, max_order + 1):
            ngrams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
            count, distinct = Counter(), Counter()
            for ngram, times in ngrams.items():
                count[ngram[:-1]] += times
                distinct[ngram[:-1]] += 1
            self.count_next.append(ngrams)
            self.count.append(count)
            self.distinct.append(distinct)

    def probabilities(self, context: Sequence[int], token: int) -> list[float]:
        """[p_1, ..., p_max_order] of `token` after `context` (its last max_order - 1 tokens count)."""
        return self._probabilities(_pack(context, self.vocab_size, "context"), _pack([token], self.vocab_size, "token"))

    def loss(self, ids: Sequence[int]) -> list[float]:
        """Mean -log p_n over `ids`, in nats per token, for n = 1 .. max_order."""
        text = _pack(ids, self.vocab_size, "held_out_ids")
        totals = [0.0] * self.max_order
        for i, token in enumerate(text):
            context = text[max(0, i - self.max_order + 1) : i]
            for k, p in enumerate(self._probabilities(context, token)):
                totals[k] -= math.log(p)
        return [total / len(text) for total in totals]

    def _probabilities(self, context: str, token: str) -> list[float]:
        p = 1 / self.vocab_size
        result = []
        for k in range(self.max_order):
            # At the start of a text the context is shorter than the order asks for; then p_n = p_{n-1}.
            if k <= len(context):
                h = context[len(context) - k :]
                distinct = self.distinct[k].get(h, 0)
                if distinct:
                    p = (self.count_next[k].get(h + token, 0) + distinct * p) / (self.count[k][h] + distinct)
            result.append(p)
        return result


def witten_bell(
    train_ids: Sequence[int], held_out_ids: Sequence[int], vocab_size: int, max_order: int = 6
) -> list[float]:
    """Held-out loss in nats per token of the 1-gram, the 2-gram, ... the max_order-gram.

    Raises ValueError if either text is empty, holds an id outside the vocabulary, or max_order is below 1.
    """
    return WittenBell(train_ids, vocab_size, max_order).loss(held_out_ids)


def _pack(ids: Sequence[int], vocab_size: int, name: str) -> str:
    """`ids` as a str with one code point per id: slices of a str are fast keys for a dictionary."""
    if vocab_size < 1 or vocab_size > 0x10FFFF:
        raise ValueError(f"vocab_size must be in 1 to {0x10FFFF}, got {vocab_size}")
    ids = token_ids(name, ids)
    if not ids and name != "context":
        raise ValueError(f"{name} must hold at least one token, got none")
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ValueError(f"{name} must be in 0 to {vocab_size - 1}, got {min(ids)} to {max(ids)}")
    return "".join(map(chr, ids))
