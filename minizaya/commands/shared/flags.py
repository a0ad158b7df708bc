"""A flag is used, refused, or its help says when it has no effect: whoever gives one is never left to believe in it."""

import argparse
import os
from pathlib import Path


def refuse(args: argparse.Namespace, why: str, **defaults: object) -> None:
    """Raises ValueError for the first of these flags that is not at its default: it would have no effect, `why`."""
    for name, default in defaults.items():
        value = getattr(args, name)
        if value != default:
            raise ValueError(f"{name} has no effect {why}, got {str(value)!r}")


def writable(name: str, path: Path | None, parents: bool = False) -> None:
    """Raises ValueError where what the flag `name` asks for cannot be written: before the work whose result it is to
    hold. path: None asks for nothing. parents: it may be a folder, and those on the way to it will be made."""
    if path is None:
        return
    if path.is_dir() and not parents:
        raise ValueError(f"{name} must be a file, got the folder {str(path)!r}")
    place = path if path.exists() else path.absolute().parent
    while parents and not place.exists():
        place = place.parent
    if not place.exists():
        raise ValueError(f"{name} must be in a folder that is there, got {str(path)!r}")
    if not os.access(place, os.W_OK) or (place != path and not place.is_dir()):
        raise ValueError(f"{name}: nothing can be written into {str(place)!r}, got {str(path)!r}")
