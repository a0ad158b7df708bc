"""The generator in a process of its own (torch.multiprocessing); the shelf is all that the two share."""

import os
import sys
import time
from pathlib import Path

import torch.multiprocessing as mp

from ..arch.model import Zaya
from .buffer import Shelf


def generate_for_ever(job, config, tokenizer, folder: str, parent: int) -> None:
    """The generator's process: makes batches until its parent (a process number) is gone or ends it.

    trap: the parent must say who it is. Asked for here, it may be dead already, and the one asked about would be init.
    """
    import torch

    from .pipeline import GeneratorSide

    torch.set_num_threads(1)
    shelf = Shelf(folder)
    while not shelf.lock("generator"):  # one that has lost its trainer is still finishing its batch
        if os.getppid() != parent:
            return
        time.sleep(0.05)
    side = GeneratorSide(job, Zaya(config), tokenizer, shelf)
    while os.getppid() == parent:
        # the oldest would be thrown away unread: nothing is gained by running ahead of the trainer
        if len(shelf.numbers("batch")) >= shelf.capacity:
            side.refresh()
            time.sleep(0.02)
            continue
        side.refresh()
        side.make(in_flight=True)


class Helper:
    """Starts the generator's process, and starts it again when it dies."""

    def __init__(self, job, config, tokenizer, folder: str | Path):
        self.arguments, self.deaths = (job, config, tokenizer, str(folder)), 0
        self.start()

    def start(self) -> None:
        # trap: fork copies a process whose torch threads are already running; they do not come along
        self.process = mp.get_context("spawn").Process(target=generate_for_ever, args=(*self.arguments, os.getpid()), daemon=True)
        self.process.start()

    def watch(self) -> None:
        """Starts a new process where the old one died. Raises RuntimeError after five deaths in a row without a batch."""
        made = Shelf(self.arguments[-1]).newest_info()
        if made and made["number"] != getattr(self, "seen", None):
            self.seen, self.deaths = made["number"], 0
        if not self.process.is_alive():
            self.deaths += 1
            if self.deaths >= 5:
                raise RuntimeError(f"the generator died {self.deaths} times without making a batch; the last exit code was "
                                   f"{self.process.exitcode}")
            print(f"the generator died (exit code {self.process.exitcode}); starting it again", file=sys.stderr)
            self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
