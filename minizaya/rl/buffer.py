"""The shelf between generator and trainer: a folder of batches, of weights, and of who did what.

    weights-00000004.safetensors    the weights after 4 updates; the last two are kept
    batch-00000007.safetensors      answers waiting to be trained on
    taken-00000006.safetensors      taken by the trainer, kept until a checkpoint covers them
    generator.lock, trainer.lock    held by the process that is at work
    generator.jsonl                 a line a batch made (with its difficulties and pass rates) or evicted

Every change is one rename, so either side may be killed between any two instructions: a file is there, whole, under one
name. A batch has one fate: trained on, evicted because the shelf was full (the oldest goes first), or found too stale.

Ours, not a message queue's: what waits survives both sides, and a reader can open the folder and look.
"""

import json
import re
from pathlib import Path

from filelock import BaseFileLock
from torch import Tensor

from ..config import check_settings
from ..train import checkpoint
from ..train.run_lock import try_lock
from .rollout import Rollout, load_batch, save_batch

NUMBER = re.compile(r"(batch|taken|weights)-(\d{8,})\.safetensors")


class Shelf:
    """Batches and weights in one folder. capacity: batches that may wait. Raises ValueError for a capacity below 2.

    While the trainer learns from one batch, the next one waits and another one may be put beside it.
    """

    def __init__(self, folder: str | Path, capacity: int = 3):
        check_settings(locals(), capacity=2)
        self.folder, self.capacity = Path(folder), capacity
        self.folder.mkdir(parents=True, exist_ok=True)
        self.locks: dict[str, BaseFileLock] = {}

    def lock(self, side: str) -> bool:
        """Makes this the only "generator" or "trainer" of the shelf; False while another one is alive.

        trap: a generator whose trainer was killed lives on for a moment, and two of them would make the same batch
        number. The system lets go of the lock when its owner dies, however it dies.
        """
        if side not in self.locks:
            lock = try_lock(self.folder / f"{side}.lock")
            if lock is None:
                return False
            self.locks[side] = lock
        return True

    def unlock(self) -> None:
        """Lets go of all locks."""
        while self.locks:
            self.locks.popitem()[1].release()

    def numbers(self, kind: str) -> list[int]:
        """The numbers of the "batch", "taken" or "weights" files that are there, ascending."""
        found = (NUMBER.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[2]) for match in found if match and match[1] == kind)

    def path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:08d}.safetensors"

    # ---- the generator's side ----------------------------------------------------------------------------------------

    def put(self, number: int, rollouts: list[Rollout], num_experts: int, info: dict) -> list[int]:
        """Adds a batch; where more than `capacity` wait, the oldest are evicted. Returns the evicted numbers."""
        save_batch(self.path("batch", number), rollouts, num_experts, info)
        evicted = []
        for old in self.numbers("batch")[: -self.capacity]:
            try:
                self.path("batch", old).unlink()
                evicted.append(old)
            except FileNotFoundError:
                pass  # the trainer was faster
        with open(self.folder / "generator.jsonl", "a", encoding="utf-8") as log:
            made = {"made": number} | {key: info[key] for key in ("levels", "rates") if key in info}
            log.write("".join(json.dumps(line) + "\n" for line in [made, *({"evicted": n} for n in evicted)]))
        return evicted

    def newest_info(self) -> dict | None:
        """The `info` of the batch with the highest number, waiting or taken; None before the first."""
        kinds = {number: kind for kind in ("taken", "batch") for number in self.numbers(kind)}
        if not kinds:
            return None
        number = max(kinds)
        try:
            return load_batch(self.path(kinds[number], number))[1]
        except FileNotFoundError:  # it was taken just now
            return load_batch(self.path("taken", number))[1]

    def weights(self) -> int | None:
        """The version of the newest weights, or None."""
        return max(self.numbers("weights"), default=None)

    # ---- the trainer's side ------------------------------------------------------------------------------------------

    def publish(self, version: int, state: dict[str, Tensor]) -> None:
        """Puts the weights after `version` updates on the shelf."""
        content = checkpoint.safetensors().save({name: tensor.contiguous() for name, tensor in state.items()})
        checkpoint.replace_file(self.path("weights", version), content)
        for old in self.numbers("weights")[:-2]:
            self.path("weights", old).unlink(missing_ok=True)

    def take(self, oldest_version: int) -> tuple[int, list[Rollout], list[int]] | None:
        """(number, rollouts, stale numbers) of the oldest batch all of whose tokens have at least this version.

        None when there is none; staler ones found on the way are taken, too, and named.
        """
        stale = []
        for number in self.numbers("batch"):
            try:
                self.path("batch", number).rename(self.path("taken", number))
            except FileNotFoundError:
                continue  # evicted just now
            rollouts, _ = load_batch(self.path("taken", number))
            if min(version for rollout in rollouts for version in rollout.versions) >= oldest_version:
                return number, rollouts, stale
            stale.append(number)
        return (-1, [], stale) if stale else None

    def untake(self, keep: set[int]) -> None:
        """After a restart: what was taken, but is covered by no checkpoint, waits again. keep: what one covers."""
        for number in self.numbers("taken"):
            if number not in keep:
                self.path("taken", number).rename(self.path("batch", number))

    def forget(self, done: set[int]) -> None:
        """Removes batches that a checkpoint covers; the newest stays, since the generator reads its state there."""
        newest = max([*self.numbers("batch"), *self.numbers("taken")], default=-1)
        for number in self.numbers("taken"):
            if number in done and number != newest:
                self.path("taken", number).unlink(missing_ok=True)
