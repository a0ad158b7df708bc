"""route_tape: expert ids written down while decoding, a byte each, and read back to replay them (`minizaya.rl.replay`).

Shapes: n tokens of one step (prefill and decode mixed as they come), L layers, a tape of uint8
(slots, capacity, pitch), where pitch >= L is room for a row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minizaya.rl.replay import BYTE, UNRECORDED

BLOCK, TOKENS = 256, 64
DTYPES = {torch.int64: "i64", torch.int16: "i16"}


def blank(slots: int, capacity: int, layers: int, device: str = "cpu") -> Tensor:
    """A tape on which nothing is recorded. `tape[slot, :n, :layers]` are a text's bytes as they go to disk.

    Rows are as long as the next power of two, from 64 on the next multiple of 64: none lies on two lines of memory.
    """
    pitch = 1 << max(0, layers - 1).bit_length() if layers <= 64 else -(-layers // 64) * 64
    return torch.full((slots, capacity, pitch), BYTE, dtype=torch.uint8, device=device)


def reference(routes: Tensor, slot: Tensor, position: Tensor, tape: Tensor) -> Tensor:
    """Records, in place, and returns the tape.

    Args:
        routes: int64 or int16 (n, L), ids in 0..254, -1 for not recorded.
        slot, position: int32 (n,), where each token's row goes; no two tokens to the same row. Rows outside the tape
            are left out: slot -1 marks padding.
        tape: uint8 (slots, capacity, pitch); bytes from L on are left alone.
    """
    inside = within(slot, position, tape)
    rows = torch.where(routes < 0, BYTE, routes).to(torch.uint8)[inside]
    tape[slot.long()[inside], position.long()[inside], :routes.shape[1]] = rows
    return tape


def reference_replay(tape: Tensor, slot: Tensor, position: Tensor, layers: int,
                     dtype: torch.dtype = torch.int64) -> Tensor:
    """The way back: (n, layers) of `dtype`, -1 where nothing was recorded and in rows outside the tape."""
    inside = within(slot, position, tape)
    routes = torch.full((len(slot), layers), UNRECORDED, dtype=dtype, device=tape.device)
    rows = tape[slot.long()[inside], position.long()[inside], :layers].to(dtype)
    routes[inside] = torch.where(rows == BYTE, UNRECORDED, rows)
    return routes


def within(slot: Tensor, position: Tensor, tape: Tensor) -> Tensor:
    return (slot >= 0) & (slot < tape.shape[0]) & (position >= 0) & (position < tape.shape[1])


def supports(routes: Tensor, *rest) -> str | None:
    """None, or why the kernel cannot take these inputs."""
    return None if routes.dtype in DTYPES else f"routes of type {routes.dtype}"


def launch(run: Callable, routes: Tensor, slot: Tensor, position: Tensor, tape: Tensor) -> Tensor:
    """As `reference`, by the kernel. run: a `minizaya.hip.launch.Launcher`. Raises ValueError as `checked`."""
    n, layers = routes.shape
    checked(n, layers, slot, position, tape)
    run("route_tape", f"route_tape_record_{DTYPES[routes.dtype]}", (-(-n // TOKENS) if layers else 0,), BLOCK,
        [routes, slot, position, tape, n, layers, tape.shape[2], *tape.shape[:2]])
    return tape


def launch_replay(run: Callable, tape: Tensor, slot: Tensor, position: Tensor, layers: int,
                  dtype: torch.dtype = torch.int64) -> Tensor:
    """As `reference_replay`, by the kernel."""
    n = len(slot)
    checked(n, layers, slot, position, tape)
    routes = torch.empty(n, layers, dtype=dtype, device=tape.device)
    run("route_tape", f"route_tape_replay_{DTYPES[dtype]}", (-(-n // TOKENS) if layers else 0,), BLOCK,
        [tape, slot, position, routes, n, layers, tape.shape[2], *tape.shape[:2]])
    return routes


def checked(n: int, layers: int, slot: Tensor, position: Tensor, tape: Tensor) -> None:
    """Raises ValueError when types or shapes do not fit together."""
    if tape.dtype != torch.uint8 or tape.dim() != 3 or tape.shape[2] < layers:
        raise ValueError(f"tape must be uint8 (slots, capacity, {layers} or more), got {tape.dtype} "
                         f"{tuple(tape.shape)}")
    for name, value in (("slot", slot), ("position", position)):
        if value.dtype != torch.int32 or tuple(value.shape) != (n,):
            raise ValueError(f"{name} must be int32 ({n},), got {value.dtype} {tuple(value.shape)}")


def example(dtype: torch.dtype = torch.int64, device: str = "cpu", layers: int = 40) -> tuple:
    """Arguments of `launch`: a step that decodes a token in 64 slots and reads 128 tokens of a prompt in another."""
    draw = torch.Generator().manual_seed(0)
    slot = torch.cat([torch.arange(1, 65), torch.zeros(128)]).int()
    position = torch.cat([torch.randint(0, 128, (64,), generator=draw), torch.arange(128)]).int()
    routes = torch.randint(0, 17, (192, layers), generator=draw).to(dtype if dtype in DTYPES else torch.int64)
    return routes.to(device), slot.to(device), position.to(device), blank(65, 128, layers, device)


def full(run: Callable, kernel: str, tokens: int = 16384, layers: int = 40) -> None:
    """The launch of `kernel` at ZAYA1-8B's size: one prompt of `tokens`."""
    routes = torch.zeros(tokens, layers, dtype=torch.int16 if kernel.endswith("i16") else torch.int64)
    slot, position, tape = torch.zeros(tokens).int(), torch.arange(tokens).int(), blank(1, tokens, layers)
    if "replay" in kernel:
        launch_replay(run, tape, slot, position, layers, routes.dtype)
    else:
        launch(run, routes, slot, position, tape)


def work(kernel: str, tokens: int = 16384, layers: int = 40) -> tuple[int, int]:
    """(fewest bytes, 0 operations) of one launch at ZAYA1-8B's size: ids, tape, and 8 bytes that say where."""
    return tokens * (layers * ((2 if kernel.endswith("i16") else 8) + 1) + 8), 0
