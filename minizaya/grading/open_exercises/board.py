"""A class's leader board: a file of JSON lines, to which lines are only ever added.

    {"exercise", "name", "score", "cost", "baseline", "seed", "date"}

All lines of an exercise are measured on the same draws, by the seed of its first line. That one is drawn by chance
unless it is given, so nobody can have tuned an answer to it; who has seen the file knows it.
"""

import json
import math
import secrets
from datetime import date
from pathlib import Path

from .judging import EXERCISES

FIELDS = {"exercise": str, "name": str, "score": float, "cost": float, "baseline": float, "seed": str, "date": str}


def read(path: Path) -> list[dict]:
    """The lines of a board, oldest first; none if there is no such file. Raises ValueError, with the line's number, for
    one that is damaged."""
    rows = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if not all(type(row[name]) is kind for name, kind in FIELDS.items()):
                raise ValueError("a field is of another type")
            if row["exercise"] not in EXERCISES or not math.isfinite(row["score"]):
                raise ValueError("no such exercise, or no score")
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no line of a leader board: {error}") from None
        rows.append(row)
    return rows


def seed_of(rows: list[dict], exercise: str, wanted: str | None = None) -> str:
    """The seed of an exercise's first line, or the one wanted, or a new one. Raises ValueError where the board has
    another than the one wanted."""
    kept = next((row["seed"] for row in rows if row["exercise"] == exercise), None)
    if kept is not None and wanted not in (None, kept):
        raise ValueError(f"the board measures {exercise} with seed {kept!r}, not {wanted!r}: begin another file")
    return kept or wanted or secrets.token_hex(4)


def add(path: Path, exercise: str, name: str, seed: str, verdict: dict) -> dict:
    """Adds what `judge.by_cost` found of one student, and returns the line."""
    row = {"exercise": exercise, "name": name, "score": float(verdict["score"]), "cost": float(verdict["cost"]),
           "baseline": float(verdict["baseline"]), "seed": seed, "date": date.today().isoformat()}
    whole = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * whole + json.dumps(row, ensure_ascii=False) + "\n")
    return row


def table(rows: list[dict]) -> str:
    """Each one's best, exercise by exercise, the best first."""
    lines = []
    for exercise in EXERCISES:
        best: dict[str, dict] = {}
        for row in rows:
            if row["exercise"] == exercise and row["score"] > best.get(row["name"], {"score": -1.0})["score"]:
                best[row["name"]] = row
        if best:
            (first, *_) = best.values()
            lines.append(f"{exercise}: {EXERCISES[exercise].COST}; the baseline has {first['baseline']:.4g}")
        for place, row in enumerate(sorted(best.values(), key=lambda row: -row["score"]), start=1):
            lines.append(f"  {place:3} {row['name']:24} {row['cost']:10.4g}  {row['score']:7.3f} times as good   "
                         f"{row['date']}")
    return "\n".join(lines)
