"""Answers that are paid for stay paid for: finished requests on disk, shared by processes, safe from a kill."""

import json
import os
import reprlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class RunFile:
    """Finished requests on disk: a line {"key", "text"} each, synced before it counts as done.

    It is open only while it is read or written, and locked meanwhile (not on Windows), so several processes may share
    one: each learns at its own `append` what the others have finished. A torn last line, from a run that was killed, is
    cut off. Raises ValueError for any other damage.
    """

    def __init__(self, path: Path):
        self.path, self.lock, self.texts = path, threading.Lock(), {}
        self.read = self.lines = 0  # bytes and lines of the file that have been taken in
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.opened():
            pass

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, locked, with all of it taken in: it ends with a whole line."""
        with open(self.path, "ab+") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
            file.seek(self.read)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                self.lines += 1
                try:
                    entry = json.loads(line)
                    if not (isinstance(entry["key"], str) and isinstance(entry["text"], str)):
                        raise ValueError(f"key and text must be texts, got {reprlib.repr(entry)}")
                    self.texts[entry["key"]] = entry["text"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"run_file {self.path} is damaged in line {self.lines}: {error}") from error
            self.read += len(whole)
            if len(whole) < len(content):
                file.truncate(self.read)
            yield file

    def append(self, key: str, text: str) -> None:
        """Keeps one finished request; waits until the disk has it."""
        with self.lock, self.opened() as file:
            line = json.dumps({"key": key, "text": text}).encode() + b"\n"
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self.texts[key], self.read, self.lines = text, self.read + len(line), self.lines + 1
