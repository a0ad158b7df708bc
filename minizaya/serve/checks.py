"""What a request says, one value at a time: each function gives the value, or raises `Wrong` and names the field."""

import reprlib
from typing import TypeVar

LONGEST_ERROR = 400  # characters
T = TypeVar("T")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class Wrong(ValueError):
    """A request that cannot be answered. param: the field to blame, or None; status: the HTTP status that says so."""

    def __init__(self, message: str, param: str | None = None, status: int = 400):
        super().__init__(message[:LONGEST_ERROR])
        self.param, self.status = None if param is None else param[:100], status


def brief(value: object) -> str:
    """A value as an error shows it: at most about 100 characters, however long or deep it is."""
    text = _short.repr(value)
    return text if len(text) <= 100 else text[:100] + "..."


def typed(given: dict, name: str, kind: type[T], default: T) -> T:
    value = given.get(name, default)
    if not isinstance(value, kind):
        raise Wrong(f"{name} must be a {kind.__name__}, got {type(value).__name__}", name)
    return value


def number(given: dict, name: str, low: float, high: float, default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Wrong(f"{name} must be a number in {low}..{high}, got {brief(value)}", name)
    return float(value)


def whole(given: dict, name: str, low: int, high: int | None, default: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        most = "" if high is None else f" and at most {high}"
        raise Wrong(f"{name} must be an integer of at least {low}{most}, got {brief(value)}", name)
    return value
