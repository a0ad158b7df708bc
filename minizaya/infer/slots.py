"""A cache whose sequences have lengths of their own: what continuous batching needs.

`arch.cache.Cache` keeps one length for all, and pads on the left. Here each sequence has a slot of fixed size and its
own length. The sequences at work fill slots 0 .. n - 1: when one leaves, the last takes its slot, so that the model
always sees one block of memory.
"""

import torch
from torch import Tensor

from ..arch.attention import Place, rope_angles, rope_frequencies
from ..arch.cache import Cache
from ..config import ZayaConfig


class SlotCache(Cache):
    """`slots` sequences of at most `size` tokens, all memory taken at the start; one new token a sequence at a time.

    Attributes: batch, the sequences at work; stored, int64 (slots,), tokens held of each; turned, int64 (slots,), the
    position that RoPE turns a sequence's next token by. The two differ by the padding that the sequence was read with:
    only distances matter to RoPE.
    """

    def __init__(self, config: ZayaConfig, slots: int, size: int, dtype: torch.dtype,
                 device: torch.device | None = None):
        super().__init__(config, slots, dtype, device)
        layers, empty = range(config.num_hidden_layers), dict(dtype=dtype, device=device)
        # zeros: a masked place still takes part in 0 * value, and 0 * NaN is NaN
        self.kv = [torch.zeros(2, slots, size, config.num_key_value_heads, config.head_dim, **empty) for _ in layers]
        self.all_columns = self.columns
        self.all_delayed = [torch.zeros(slots, config.kv_size // 2, **empty) for _ in layers]
        self.stored = torch.zeros(slots, dtype=torch.int64, device=device)
        self.turned = torch.zeros(slots, dtype=torch.int64, device=device)
        self.size, self.batch = size, 0

    @staticmethod
    def bytes(config: ZayaConfig, slots: int, size: int, element_size: int) -> int:
        """What such a cache takes, in bytes: known before it is made."""
        kv = 2 * size * config.kv_size
        state = config.conv_lag * (config.query_size + config.kv_size) + config.kv_size // 2
        return slots * (config.num_hidden_layers * (kv + state) * element_size + 2 * 8)

    # ---- what the model asks of a cache ------------------------------------------------------------------------------

    def exchange(self, layer: int, z: Tensor, then: Tensor) -> tuple[Tensor, Tensor]:
        past, before = self.all_columns[layer][: self.batch], self.all_delayed[layer][: self.batch].clone()
        new = torch.cat([past, z], dim=1)
        past = past.clone()
        self.all_columns[layer][: self.batch] = new[:, 1:]
        self.all_delayed[layer][: self.batch] = then[:, -1]
        return past, before

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        rows, room = torch.arange(self.batch, device=k.device), self.kv[layer]
        place = self.stored[: self.batch]
        room[0][rows, place], room[1][rows, place] = k[:, 0], v[:, 0]
        return room[0, : self.batch, : self.length + 1], room[1, : self.batch, : self.length + 1]

    def ends(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.all_columns[layer][: self.batch], self.all_delayed[layer][: self.batch]

    def held(self) -> Tensor:
        return self.stored[: self.batch]

    def turned_by(self) -> Tensor:
        return self.turned[: self.batch]

    def advance(self, steps: int, valid: Tensor | None) -> None:
        if steps != 1 or valid is not None:
            raise ValueError("a slot cache takes one real token a sequence at a time")

    def placed(self, place: Place) -> Place:
        """Each sequence sees its own tokens, and turns by its own position."""
        stored, turned = self.stored[: self.batch, None], self.turned[: self.batch, None]
        keys = torch.arange(self.length + 1, device=stored.device)
        angles, masks = {}, {}
        for sliding, (cos, _) in place.angles.items():
            theta = self.config.rope_theta_sliding if sliding else self.config.rope_theta
            frequencies = rope_frequencies(self.config.rotary_dim, theta, stored.device)
            angles[sliding] = rope_angles(turned, frequencies, cos.dtype)
            seen = keys <= stored
            if sliding:
                seen &= keys > stored - self.config.sliding_window
            masks[sliding] = seen[:, None, None, :]
        return Place(angles, masks, None, None)

    # ---- joining and leaving -----------------------------------------------------------------------------------------

    def join(self, read: Cache, lengths: list[int], rows: list[int]) -> None:
        """Takes in the sequences `rows` of `read`, an ordinary cache that has just read their prompts, padded on the
        left. lengths: of all of its prompts. A sequence may come in several times, to go on in several ways."""
        for row in rows:
            length = lengths[row]
            slot, start = self.batch, read.length - length
            for layer, room in enumerate(self.kv):
                room[:, slot, :length] = read.kv[layer][:, row, start: read.length]
                self.all_columns[layer][slot] = read.columns[layer][row]
                self.all_delayed[layer][slot] = read.delayed[layer][row]
            self.stored[slot], self.turned[slot] = length, read.length
            self.batch += 1
        self.measure()

    def leave(self, slot: int) -> None:
        """Frees a slot; the last sequence moves into it."""
        last = self.batch - 1
        if slot != last:
            length = int(self.stored[last])
            for layer, room in enumerate(self.kv):
                room[:, slot, :length] = room[:, last, :length]
                self.all_columns[layer][slot] = self.all_columns[layer][last]
                self.all_delayed[layer][slot] = self.all_delayed[layer][last]
            self.stored[slot], self.turned[slot] = self.stored[last], self.turned[last]
        self.batch -= 1
        self.measure()

    def select(self, rows: Tensor) -> None:
        """Refused: a sequence leaves by `leave`; keys of one would go on with the columns of another."""
        raise ValueError(f"rows: a slot cache cannot select, its sequences leave one by one (`leave`), got {rows!r}")

    def wipe(self, slot: int) -> None:
        """Zeros in a slot that held NaN or infinity: the next sequence there would multiply them by its zeros."""
        for layer, room in enumerate(self.kv):
            room[:, slot] = 0
            self.all_columns[layer][slot] = 0
            self.all_delayed[layer][slot] = 0

    def step(self) -> None:
        """One token a sequence has been taken in."""
        self.stored[: self.batch] += 1
        self.turned[: self.batch] += 1
        self.measure()

    def measure(self) -> None:
        self.length = int(self.stored[: self.batch].max()) if self.batch else 0
