"""Messages on the pipe between the judge and a student's process: no pickle, nothing that could be more than data.

A message is its sizes, a JSON document, and one run of bytes, those of its tensors. `pack.py` makes it of values,
`unpack.py` values of it.
"""

import json
import socket
import struct
import time

import torch

SIZES = struct.Struct(">QQ")
MOST = 2**28            # bytes of one message
DEPTH = 60              # of lists in lists
DTYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool)}
NUMPY = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


class Lost(Exception):
    """The other end is gone, or sends what is no message."""


def send(pipe: socket.socket, message: dict, data: bytes = b"") -> None:
    text = json.dumps(message).encode()
    pipe.sendall(SIZES.pack(len(text), len(data)) + text + data)


def receive(pipe: socket.socket, until: float | None = None) -> tuple[dict, bytearray]:
    """The next message. until: by `time.monotonic`. Raises Lost, and TimeoutError when it is not whole by then."""
    text, data = SIZES.unpack(exactly(pipe, SIZES.size, until))
    if text > MOST or data > MOST:
        raise Lost(f"it sends a result of {(text + data) / 2**20:.0f} MiB; {MOST >> 20} MiB are allowed")
    raw = exactly(pipe, text, until)
    data = exactly(pipe, data, until)
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Lost(f"it sends what is no message: {error}") from None
    if not isinstance(message, dict):
        raise Lost("it sends what is no message")
    return message, data


def exactly(pipe: socket.socket, count: int, until: float | None) -> bytearray:
    found = bytearray()
    while len(found) < count:
        if until is not None:
            pipe.settimeout(max(0.001, until - time.monotonic()))
        try:
            piece = pipe.recv(min(count - len(found), 2**20))
        except ConnectionError:
            piece = b""
        if not piece:
            raise Lost("its process has ended")
        found += piece
    return found
