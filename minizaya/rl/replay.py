"""Router replay: the experts that a token visited when it was sampled, recorded, kept with it, and visited again.

Generator and trainer round differently, so at a near tie they pick different experts, and the trainer then computes the
log-probability of a model that nobody sampled from. Recorded routes settle it: `Engine.submit(record=True)` writes them
down, `model(tokens, routes=...)` goes where they say. Only the choice is replayed. Gates are computed anew from the
live router, so gradients flow into it: gather from the softmax over all experts, never a softmax over the gathered one,
which is the constant 1 at top-1.

    in memory       int16 (tokens, layers): 0..E-1 an expert, E the skip route, -1 not recorded
    on disk         one byte each, 255 for -1: 40 bytes a token at ZAYA1-8B

-1 belongs to the last token that was sampled: the generator never read it, so it never went anywhere. trap: filling
such a row with 0 sends it to expert 0, and counts a visit there that nobody made. Prompt tokens count as well as
answers: what they do to the stream reaches every later token.

Column l is layer l of the model, whatever order modules were built in. Sources: Ma et al. (arXiv 2510.11370), ZAYA1-8B
report, section IV-B.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

UNRECORDED, BYTE = -1, 255


def check_routes(routes: Tensor, tokens: int, layers: int, num_experts: int, name: str = "routes") -> Tensor:
    """`routes`, or one clear ValueError.

    Wanted: an integer tensor (tokens, layers); ids in 0..num_experts, -1 in whole rows and only at the end. A row that
    is half -1 was damaged on the way.
    """
    if not isinstance(routes, Tensor) or routes.is_floating_point() or routes.dtype == torch.bool:
        raise ValueError(f"{name} must be an integer tensor, got {getattr(routes, 'dtype', type(routes).__name__)}")
    if tuple(routes.shape) != (tokens, layers):
        raise ValueError(f"{name} must have shape ({tokens}, {layers}), one row a token and one column a layer, "
                         f"got {tuple(routes.shape)}")
    if routes.numel():
        low, high = (int(x) for x in routes.aminmax())
        if low < UNRECORDED or high > num_experts:
            raise ValueError(f"{name} must lie in -1..{num_experts} (-1: not recorded, {num_experts}: skip), "
                             f"got {low}..{high}")
    empty = routes == UNRECORDED
    missing = empty.all(-1) if layers else empty.new_zeros(tokens)
    torn = (empty.any(-1) & ~missing).nonzero()
    if len(torn):
        row = int(torn[0])
        raise ValueError(f"{name}: row {row} is recorded for some layers only, {routes[row].tolist()}")
    gaps = (missing[:-1] & ~missing[1:]).nonzero()
    if len(gaps):
        raise ValueError(f"{name}: row {int(gaps[0])} is not recorded, but a later one is")
    return routes


def pack_routes(routes: Tensor, num_experts: int) -> bytes:
    """(tokens, layers) -> tokens * layers bytes, row by row. Raises ValueError as `check_routes`, or for E over 254."""
    if num_experts > BYTE - 1:
        raise ValueError(f"num_experts must be at most {BYTE - 1} to fit a byte beside -1, got {num_experts}")
    check_routes(routes, *routes.shape, num_experts)
    return torch.where(routes < 0, BYTE, routes).to(torch.uint8).numpy().tobytes()


def unpack_routes(data: bytes, tokens: int, layers: int, num_experts: int) -> Tensor:
    """The way back: int16 (tokens, layers). Raises ValueError when the length or an id is wrong."""
    if len(data) != tokens * layers:
        raise ValueError(f"data must hold {tokens} tokens x {layers} layers = {tokens * layers} bytes, got {len(data)}")
    routes = torch.tensor(list(data), dtype=torch.int16, device="cpu").reshape(tokens, layers)
    return check_routes(torch.where(routes == BYTE, UNRECORDED, routes), tokens, layers, num_experts)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The routes of a text that was written in several turns, int16 (tokens, layers).

    Each part covers the text from its very beginning and reaches further than the one before: turn by turn, the engine
    reads the conversation again. A row that an earlier part could not know (the last token of a turn was never read
    then) comes from the next part. trap: cutting each part at the length of the one before would keep that -1.
    """
    if not parts:
        raise ValueError("parts must hold at least one tensor of routes")
    whole = parts[0]
    for part in parts[1:]:
        if len(part) < len(whole) or part.shape[1] != whole.shape[1]:
            raise ValueError(f"each part must cover the one before, got {tuple(whole.shape)}, then {tuple(part.shape)}")
        known = whole != UNRECORDED
        whole = torch.cat([torch.where(known, whole, part[: len(whole)]), part[len(whole):]])
    return whole
