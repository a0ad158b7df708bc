"""What a run's folder says: whether it is this run, and how far its log goes.

    log.jsonl             a line a step; what stands behind the checkpoint's `log_bytes` will be done again
    checkpoint-00000200   the newest checkpoint, with the settings that it was made by

A resumed run repeats the one that was not stopped only if it asks for the same; so whatever differs is named.
"""

import json
import reprlib
from pathlib import Path

from . import checkpoint


def must_match(newest: Path, info: dict, settings: dict) -> None:
    """Raises ValueError unless the checkpoint `newest`, which says `info`, was made with these settings."""
    for name, value in settings.items():
        if info.get(name) != value:
            name, kept, given = difference(name, info.get(name), value)
            raise ValueError(f"{name} of {newest} is {reprlib.repr(kept)}, got {reprlib.repr(given)}; resume with the "
                             "same")


def difference(name: str, kept: object, given: object) -> tuple[str, object, object]:
    """The first setting within `name` that is not the same: its whole name, what was kept, and what is given."""
    if isinstance(kept, dict) and isinstance(given, dict):
        for key in [*kept, *given]:
            if kept.get(key) != given.get(key):
                return difference(f"{name}.{key}", kept.get(key), given.get(key))
    return name, kept, given


def check_untouched(folder: Path | None, step: int) -> None:
    """Raises ValueError unless the newest checkpoint in `folder` is that of `step`, which we know; -1: none."""
    newest = folder and checkpoint.latest(folder)
    if folder is not None and step != (-1 if newest is None else int(checkpoint.KEPT.fullmatch(newest.name)[1])):
        raise ValueError(f"{folder} has been trained on meanwhile: its newest checkpoint is {newest}; resume it")


def read_log(folder: Path, length: int) -> tuple[Path, list[dict]]:
    """The log of a run, to `append` to, and the records in it; folder and file are made if they are not there.

    length: bytes of it when the checkpoint was written. Lines after them belong to steps that will be done again, and
    go. Raises OSError when the folder cannot be written, ValueError when lines are missing.
    """
    path = folder / "log.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            if file.tell() < length:
                raise ValueError(f"{path} is shorter than when the newest checkpoint was written: "
                                 f"it had {length} bytes")
            file.truncate(length)
    except OSError as error:
        raise OSError(error.errno, f"cannot write into the run folder {folder} ({error.strerror})") from error
    return path, [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def append(log: Path, record: dict) -> None:
    """One line of JSON more. The file is open only for this moment, so nobody needs to close it."""
    with open(log, "ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
