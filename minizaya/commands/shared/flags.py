"""A flag is used, refused, or its help says when it has no effect: whoever gives one is never left to believe in it."""

import argparse


def refuse(args: argparse.Namespace, why: str, **defaults: object) -> None:
    """Raises ValueError for the first of these flags that is not at its default: it would have no effect, `why`."""
    for name, default in defaults.items():
        value = getattr(args, name)
        if value != default:
            raise ValueError(f"{name} has no effect {why}, got {str(value)!r}")
