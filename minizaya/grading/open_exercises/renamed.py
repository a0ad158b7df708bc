"""Token ids under other names. A function sees what is equal to what, but not which token is a digit: it cannot solve a
problem by itself, nor ask a copy of the model."""

import hashlib

import torch


def number(*words: object) -> int:
    """A seed for torch, from a text and what comes with it."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:7], "big")


class Renamed:
    """A vocabulary in another order, by the seed."""

    def __init__(self, size: int, seed: str):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(number(seed, "names")))
        self.name, self.token = order.tolist(), order.argsort().tolist()

    def told(self, tokens: list[int]) -> list[int]:
        return [self.name[token] for token in tokens]

    def meant(self, names: list[int]) -> list[int]:
        return [self.token[name] for name in names]
