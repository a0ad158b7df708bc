"""What one attention layer costs: the CCA paper's Table II, for one sequence (B = 1).

The letters are the paper's: E residual width, S tokens, G query heads per KV head, C1 and C2 the compression of queries
and of keys and values, c_q and c_kv those of MLA. The formulas count every query against every key (no causal saving)
and one multiply-add as two FLOPs, as `plan/account.py` does; `tests/plan/test_attention_cost.py` compares the two.

Source: CCA paper (arXiv 2510.04476), Table II and its footnote.
"""

from typing import NamedTuple


class Cost(NamedTuple):
    """parameters: weights. kv: numbers kept in the cache for S tokens. forward: FLOPs of S tokens at once (prefill).
    decode: FLOPs of one more token that sees S keys."""

    parameters: float
    kv: float
    forward: float
    decode: float


def mha(E: int, S: int) -> Cost:
    """Multi-head attention: every head has its own keys and values."""
    return Cost(4 * E**2, 2 * S * E, 8 * S * E**2 + 4 * E * S**2, 8 * E**2 + 4 * E * S)


def gqa(E: int, S: int, G: int) -> Cost:
    """Grouped queries: G query heads share one KV head. The cache shrinks, the scores cost what they did."""
    return Cost(2 * E**2 + 2 * E**2 / G, 2 * S * E / G,
                (1 + 1 / G) * 4 * S * E**2 + 4 * E * S**2, (1 + 1 / G) * 4 * E**2 + 4 * E * S)


def mla(E: int, S: int, c_q: float, c_kv: float, heads: int, rope_dim: int) -> Cost:
    """Multi-head latent attention: keys and values are kept compressed, and projected up before the scores.

    rope_dim: channels of the extra key that carries the position. The paper leaves their projection out, so MLA is
    slightly under-counted. When decoding the up-projections are folded into queries and outputs.
    """
    return Cost(E**2 + 3 * E**2 / c_kv + 2 * E**2 / c_q, S * E / c_kv + S * rope_dim,
                2 * S * E**2 + 4 * S * E**2 / c_q + 6 * S * E**2 / c_kv + 4 * E * S**2,
                (2 * E**2 + 2 * heads * E**2) / c_kv + 2 * heads * E**2 / (c_q * c_kv) + 2 * E**2 / c_q
                + 4 * E * S * heads / c_kv)


def ccgqa(E: int, S: int, C1: float, C2: float, conv: int = 0) -> Cost:
    """CCA with grouped queries; C1 = C2 is plain CCA, C1 = 2 and C2 = 8 is ZAYA1. Scores shrink with the queries.

    conv: weights of the convolutions (`conv_weights`), each used once a token.
    """
    share = 1 / C1 + 1 / C2
    return Cost(2 * E**2 * share + conv, 2 * S * E / C2,
                share * 4 * S * E**2 + 4 * E * S**2 / C1 + 2 * S * conv, share * 4 * E**2 + 4 * E * S / C1 + 2 * conv)


def conv_weights(channels: int, heads: int, k_seq: int = 2, k_ch: int = 2) -> int:
    """Weights of both convolutions, biases not counted: one filter a channel, then d x d per tap in each head.

    channels: of packed q and k, (1 / C1 + 1 / C2) E. heads: query heads and KV heads together.
    """
    return channels * k_seq + channels * (channels // heads) * k_ch


def conv_weights_as_printed(channels: int, heads: int, k_seq: int = 2, k_ch: int = 2) -> float:
    """The same by the footnote of Table II, read literally for CCGQA: 2 e k_seq + (e^2 / h) k_ch, with e the packed
    channels and h all heads. It counts the depthwise filters twice: by chance, at two taps, just as many numbers as
    the biases it leaves out. (For plain CCA, where e and h are those of q alone, it counts half of the grouped ones.)
    """
    return 2 * channels * k_seq + channels**2 / heads * k_ch
