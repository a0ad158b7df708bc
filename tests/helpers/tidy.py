"""What a test may change for the whole process and leave changed for the next one; and how it is put back.

`conftest.py` puts it back after each test, so that no test depends on what ran before it. `tests/alone.py` says who
left something. Not among it: filters of warnings and handlers of logs, which pytest keeps itself; and the generators of
random numbers, which stand at one place before each test and each fixture of a file (`same_chances`).
"""

import os
import random
import signal
import sys
from collections.abc import Callable

import numpy
import torch

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGPIPE", "SIGXFSZ", "SIGALRM")
           if hasattr(signal, name)]
UNTOLD = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")     # of os.environ: pytest's own, and what an import sets


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in UNTOLD}


def put_environment(before: dict[str, str]) -> None:
    for name in environment().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:         # a temporary one that is gone
        return ""


def put_signals(before: list) -> None:
    for number, handler in zip(SIGNALS, before):
        if handler is not None:       # None: not set from Python
            signal.signal(number, handler)


def figures() -> list[int]:
    return sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []


def close_figures(before: list[int]) -> None:
    for number in set(figures()) - set(before):
        sys.modules["matplotlib.pyplot"].close(number)


def put_device(before: torch.device) -> None:
    torch.set_default_device(None if before == torch.device("cpu") else before)    # a CPU that is set slows all calls


def put_list(held: list) -> Callable[[list], None]:
    return lambda before: held.__setitem__(slice(None), before)


# what it is -> (how it is now, how it becomes what it was)
STATE: dict[str, tuple[Callable, Callable]] = {
    "the working folder": (folder, lambda before: before and os.chdir(before)),
    "the environment's variables": (environment, put_environment),
    "sys.path": (lambda: list(sys.path), put_list(sys.path)),
    "sys.argv": (lambda: list(sys.argv), put_list(sys.argv)),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the handlers of signals": (lambda: [signal.getsignal(number) for number in SIGNALS], put_signals),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default type": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, put_device),
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "open figures": (figures, close_figures),
}


def same_chances() -> None:
    """A test that draws without a seed draws the same, whatever ran before it."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def state() -> dict[str, object]:
    """How things are."""
    return {name: now() for name, (now, _) in STATE.items()}


def put_back(before: dict[str, object]) -> list[str]:
    """Makes things what they were. Returns the names of what was not."""
    left = [name for name, (now, _) in STATE.items() if now() != before[name]]
    for name in left:
        STATE[name][1](before[name])
    return left
