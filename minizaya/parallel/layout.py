"""Who does what on several devices, and who holds what: the numbers behind "dp2xep2"."""

import re
from dataclasses import dataclass

NO_TENSOR_PARALLEL = (
    "tp is not supported, with a reason: tensor parallelism gives each rank some heads, and CCA has 2 KV heads, so 2 "
    "ranks at most, with mean path and value shift (head 0 is present, head 1 is past) cut between them; and it "
    "adds up the whole stream over the ranks after every half layer, to split matrices that are narrow already. Use cp "
    "for long rows, ep for experts, dp for the rest")


@dataclass(frozen=True)
class Layout:
    """dp * ep * cp ranks, each with tokens of its own. Raises ValueError for a count below one.

    dp: groups that read different rows and share the states of all weights (FSDP2). ep: ranks that divide the experts.
    cp: ranks that divide a sequence.
    """

    dp: int = 1
    ep: int = 1
    cp: int = 1

    def __post_init__(self):
        for name in ("dp", "ep", "cp"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """From "dp2xep2", "cp4" and the like. Raises ValueError for anything else, and for tensor parallelism."""
        sizes = {}
        for part in text.lower().split("x"):
            found = re.fullmatch(r"(dp|ep|cp|tp)(\d+)", part)
            if not found or found[1] in sizes:
                raise ValueError(f"layout must look like dp2xep2, with dp, ep and cp once each, got {text!r}")
            sizes[found[1]] = int(found[2])
        if "tp" in sizes:
            raise ValueError(NO_TENSOR_PARALLEL)
        return cls(**sizes)

    @property
    def ranks(self) -> int:
        return self.dp * self.ep * self.cp

    def __str__(self) -> str:
        sizes = [f"{name}{getattr(self, name)}" for name in ("dp", "ep", "cp") if getattr(self, name) > 1]
        return "x".join(sizes) or "dp1"


ONE_RANK = Layout()


def rows_of(name: str, count: int, layout: Layout, rank: int) -> tuple[int, int]:
    """First row, and last row + 1, of the `count` rows of parameter `name` that a rank holds; equal if it has none.

    Experts: the rows of the rank's experts, cut over the ranks with the same experts. Else: cut over all ranks. FSDP
    cuts into pieces of ceil(count / ranks), so that the last ones may be shorter or empty.
    """
    first, group, place = 0, layout.ranks, rank
    if ".experts." in name:
        count, group, place = count // layout.ep, layout.ranks // layout.ep, rank // layout.ep
        first = rank % layout.ep * count
    size = -(-count // group)
    return first + min(place * size, count), first + min((place + 1) * size, count)
