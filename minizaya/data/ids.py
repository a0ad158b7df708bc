"""Token ids as others give them: what is one, and what is not.

The rule: an id is an integer, of any kind that there is: int, numpy's, those of an integer tensor, uint8 too. True and
False are flags, 3.0 is a measurement, "3" is text, and bytes are a text's letters: none of them is an id, although
Python would make one of each. A mask that takes the place of tokens is found so. Many come in one dimension.
"""

import operator
import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def token_ids(name: str, tokens: Iterable[int], vocabulary: int | None = None) -> list[int]:
    """`tokens` as a list of ints, in 0..vocabulary - 1 where that is known; ValueError naming `name` otherwise."""
    try:
        if isinstance(tokens, (str, bytes, bytearray, dict)):
            raise TypeError
        listed = tokens.tolist() if hasattr(tokens, "tolist") else tokens    # of arrays and tensors
        ids = [token if type(token) is int else whole(token) for token in listed]
    except TypeError:
        raise ValueError(f"{name} must be a list of token ids (integers), got {brief(tokens)}") from None
    if vocabulary is not None and ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        wrong = next(token for token in ids if not 0 <= token < vocabulary)
        raise ValueError(f"{name} must hold ids in 0..{vocabulary - 1} (the vocabulary), got {wrong}")
    return ids


def token_tensor(name: str, tokens: "Iterable[int] | Tensor") -> "Tensor":
    """`token_ids` for many: int64 (n,) on the CPU. Raises ValueError naming `name`."""
    import torch

    if not isinstance(tokens, torch.Tensor):
        return torch.tensor(token_ids(name, tokens), dtype=torch.int64, device="cpu")
    if tokens.dim() != 1 or tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise ValueError(f"{name} must be one-dimensional integers, got {tokens.dtype} {tuple(tokens.shape)}")
    return tokens.to("cpu", torch.int64)


def whole(token: object) -> int:
    """One id. Raises TypeError."""
    token = token.item() if getattr(token, "ndim", None) == 0 else token     # numpy's, and a tensor's
    if isinstance(token, bool) or hasattr(token, "ndim"):
        raise TypeError
    return operator.index(token)


def brief(tokens: object) -> str:
    """What was given, cut short."""
    kind = f", {tokens.dtype} {tuple(tokens.shape)}" if hasattr(tokens, "dtype") and hasattr(tokens, "shape") else ""
    return reprlib.repr(tokens) + kind
