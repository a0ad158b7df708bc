"""Between what a kernel may answer, where it rounds to bfloat16 on the way.

Two right kernels add up in different orders, so their float32 sums differ in the last bits. Rounded to bfloat16, two
such sums nearly always become the same number, but at a tie they end up neighbours, 2 ** -7 apart. No fixed tolerance
is both tight and safe there. A span is: it says how far the float32 sum may be off, and carries both ends through the
roundings.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Span:
    """Every number from `low` to `high`, float64 tensors of one shape."""

    low: Tensor
    high: Tensor

    def rounded(self, dtype: torch.dtype) -> "Span":
        """As the kernel stores it in `dtype`. Rounding never swaps two numbers, so the ends stay the ends."""
        return Span(*(end.float().to(dtype).double() for end in (self.low, self.high)))

    def map(self, function) -> "Span":
        """Through a function that is monotone within each of these narrow spans."""
        ends = function(self.low), function(self.high)
        return Span(torch.minimum(*ends), torch.maximum(*ends))

    def __mul__(self, other: "Span") -> "Span":
        ends = torch.stack([a * b for a in (self.low, self.high) for b in (other.low, other.high)])
        return Span(ends.amin(0), ends.amax(0))

    def loose(self, relative: float) -> "Span":
        """Wider by that part of its size: the float32 error of one step."""
        return Span(self.low - relative * self.low.abs(), self.high + relative * self.high.abs())

    def holds(self, got: Tensor, what: str = "") -> None:
        """Raises AssertionError, with the first place, unless all of `got` lies within."""
        assert got.shape == self.low.shape, f"{what}: {tuple(got.shape)} instead of {tuple(self.low.shape)}"
        wide = got.double()
        wrong = ~((wide >= self.low) & (wide <= self.high))
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            raise AssertionError(f"{what}: {int(wrong.sum())} of {wrong.numel()} differ; at {at} {wide[at]} instead of "
                                 f"{self.low[at]} to {self.high[at]}")


def about(value: Tensor, tolerance: float = 1e-5) -> Span:
    """A float32 sum and its tolerance, 1e-5 of one plus its size unless told."""
    value = value.double()
    off = tolerance * (1 + value.abs())
    return Span(value - off, value + off)
