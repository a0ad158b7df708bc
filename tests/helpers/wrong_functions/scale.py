"""Wrong functions for the laws of scale: see the head of this folder."""

import torch

from minizaya.laws.scale import token_bytes, visited
from minizaya.native import matmul
from minizaya.plan import account


def text_bytes(config, tokens):
    return tokens * account.kv_bytes_per_token(config)


def stored(change):
    """Right numbers and scales, changed: change(numbers, scales) -> both."""
    return lambda weight: change(*matmul.quantise(weight))


def no_scale_for_nothing(weight):
    small, scale = matmul.quantise(weight)
    return small, torch.where((weight == 0).all(-1), 0.0, scale)


def endless_for_nothing(weight):
    small, scale = matmul.quantise(weight)
    return small, torch.where((weight == 0).all(-1), float("inf"), scale)


WRONG = {
    "scale.kv_bytes": [
        lambda config, tokens: text_bytes(config, tokens) // 2,
        lambda config, tokens: float(text_bytes(config, tokens)),
    ],
    "scale.token_bytes": [
        lambda config: token_bytes(config) + 2,
        lambda config: float(token_bytes(config)),
    ],
    "scale.visited": [
        lambda experts, tokens: min(experts, tokens),
        lambda experts, tokens: torch.tensor(visited(experts, tokens), dtype=torch.float64),
    ],
    "scale.int8": [
        (stored(lambda small, scale: small), "the law wants two results"),
        stored(lambda small, scale: (small, scale.double())),
        no_scale_for_nothing,
        (endless_for_nothing, "the scales holds NaN or infinity"),
        stored(lambda small, scale: (small, 1.1 * scale)),
    ],
}
