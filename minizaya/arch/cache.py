"""What a CCA model must remember between two calls, layer by layer.

Four things, not two: keys and values of every token, and, since queries and keys are convolved and values arrive late,
the last `conv_lag` packed q, k columns from before the convolutions and the last token's delayed half of the value.
Drop one of the latter and decoding still runs: it just answers wrongly.
"""

import torch
from torch import Tensor

from ..config import ZayaConfig
from .attention import Place


class Cache:
    """The state of `batch` sequences of one length (left-padded if they differ). Grows by doubling.

    Attributes: length, tokens held so far; valid, bool (batch, length), False where a token was padding, or None.
    """

    def __init__(self, config: ZayaConfig, batch: int, dtype: torch.dtype, device: torch.device | None = None):
        if not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch must be a positive integer, got {batch!r}")
        self.config, self.batch, self.length, self.valid = config, batch, 0, None
        layers = range(config.num_hidden_layers)
        packed = config.query_size + config.kv_size
        empty = dict(dtype=dtype, device=device)
        self.kv = [torch.empty(2, batch, 0, config.num_key_value_heads, config.head_dim, **empty) for _ in layers]
        self.columns = [torch.zeros(batch, config.conv_lag, packed, **empty) for _ in layers]
        self.delayed: list[Tensor | None] = [None for _ in layers]

    def exchange(self, layer: int, z: Tensor, then: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hands out the past of one layer and keeps the new end of it.

        z: (b, t, c), packed q and k before the convolutions; then: (b, t, c'), the delayed half of the values.
        Returns the `conv_lag` columns before z, and `then` of the token before (None at the very start).
        """
        past, before = self.columns[layer], self.delayed[layer]
        # clone: a view would keep the projections of the whole prompt alive, and `native/step.py` writes into these
        # where they lie: contiguous, and nobody else's
        end = z[:, max(0, z.shape[1] - past.shape[1]):]
        self.columns[layer] = torch.cat([past, end], dim=1)[:, end.shape[1]:].clone()
        self.delayed[layer] = then[:, -1].clone()
        return past, before

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends k and v, (b, t, j, d) each, after rotation; returns all keys and values so far, (b, s, j, d)."""
        end = self.length + k.shape[1]
        room = self.room(layer, k.shape[1])
        room[0, :, self.length: end] = k
        room[1, :, self.length: end] = v
        return room[0, :, :end], room[1, :, :end]

    def room(self, layer: int, steps: int) -> Tensor:
        """Keys and values of one layer, (2, b, size, j, d), with size for `steps` more tokens at least."""
        room, end = self.kv[layer], self.length + steps
        if room.shape[2] < end:  # double, so that n tokens cost O(n) copies in all
            bigger = room.new_empty(*room.shape[:2], max(end, 2 * room.shape[2], 16), *room.shape[3:])
            bigger[:, :, : self.length] = room[:, :, : self.length]
            self.kv[layer] = room = bigger
        return room

    def ends(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """`columns` and `delayed` of one layer, for whoever moves them on in place (`native/step.py`)."""
        return self.columns[layer], self.delayed[layer]

    def held(self) -> Tensor:
        """int64 (b,), the tokens held of each sequence."""
        return torch.full((self.batch,), self.length, dtype=torch.int64, device=self.columns[0].device)

    def turned_by(self) -> Tensor:
        """int64 (b,), the position that RoPE turns each sequence's next token by."""
        return self.held()

    def advance(self, steps: int, valid: Tensor | None) -> Tensor | None:
        """The validity of old and new tokens together, bool (b, length + steps), or None when all are valid."""
        if valid is None and self.valid is None:
            return None
        everyone = dict(dtype=torch.bool, device=self.columns[0].device)
        old = torch.ones(self.batch, self.length, **everyone) if self.valid is None else self.valid
        new = torch.ones(self.batch, steps, **everyone) if valid is None else valid
        return torch.cat([old, new], dim=1)

    def placed(self, place: Place) -> Place:
        """Where the new tokens stand: as `locate` says, unless each sequence has a length of its own (`SlotCache`)."""
        return place

    def select(self, rows: Tensor) -> None:
        """Keeps only the sequences `rows` (int or bool index), in that order: finished ones leave the batch.

        Keys and values of a sequence that keeps its number stay where they are (`moved`).
        """
        self.kv = [moved(kv, rows) for kv in self.kv]
        self.columns = [columns[rows] for columns in self.columns]
        self.delayed = [None if late is None else late[rows] for late in self.delayed]
        self.valid = None if self.valid is None else self.valid[rows]
        self.batch = self.columns[0].shape[0]

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token of one sequence costs: 2 * K * d * layers * bytes of a number (40 KiB at 8B)."""
        return sum(2 * kv.shape[3] * kv.shape[4] * kv.element_size() for kv in self.kv)


def moved(kv: Tensor, rows: Tensor) -> Tensor:
    """kv[:, rows], where few rows move in the memory of `kv` itself, until half of that memory would lie idle.

    trap: a large batch loses a sequence at nearly every step, and to copy all others each time can cost more than the
    step does.
    """
    if rows.dtype == torch.bool or len(rows) > kv.shape[1] or kv.requires_grad:
        return kv[:, rows]
    away = (rows != torch.arange(len(rows), device=kv.device)).nonzero()[:, 0]
    room = kv.stride(0) // kv.stride(1)   # of so many sequences; kv may be a part of it
    if 2 * len(away) > len(rows) or 2 * len(rows) <= room:
        return kv[:, rows]
    kv[:, away] = kv[:, rows[away]]       # gathered before the first is written over
    return kv[:, : len(rows)]
