"""Processes that hold nothing of ours: a fork with a group of its own and one file left open."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable


def fork(work: Callable[[], None], keep: int) -> int:
    """Runs `work` in a copy of this process and returns its id. The copy keeps the file `keep`; its input is empty, and
    what it prints, on any other number, goes nowhere. An exception there ends it with code 1."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)            # here, too: whoever is first
        return pid
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode, encoding="utf-8", errors="backslashreplace",
                                                  closefd=False) for number, mode in enumerate("rww"))
        work()
        code = 0
    finally:
        os._exit(code)


def kill(pid: int) -> None:
    """The process and its group."""
    for end in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            end(pid, signal.SIGKILL)
