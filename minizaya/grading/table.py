"""The table of lessons and exercises: what is judged by which laws, and for how many points. Package data.

    python -m minizaya.grading.table lessons      writes exercises.json and lessons/RUBRIC.md anew, from the lessons
"""

import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

from .. import laws
from .notebook import document

PLACE = Path(__file__).with_name("exercises.json")


@cache
def lessons() -> dict[str, dict]:
    """A lesson's name -> its title, minutes, exercises: id, function, laws, points, minutes and stub; and its open
    ones, without points and minutes, whose law is themselves."""
    return json.loads(PLACE.read_text(encoding="utf-8"))


def made(folder: Path) -> dict[str, dict]:
    """The table of the lessons in a folder. Points are the bullets of an exercise's difficulty."""
    return {path.stem: lesson(document(path)) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def lesson(notebook: dict) -> dict:
    title = notebook["cells"][0]["source"].splitlines()[0].lstrip("# ")
    return {"title": title, "minutes": notebook["metadata"]["minizaya"]["minutes"], "exercises": exercises(notebook),
            "open": open_ones(notebook)}


def exercises(notebook: dict) -> list[dict]:
    found, card = [], ""
    for place, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            card = cell["source"]
        for tag in cell["metadata"].get("tags", []):
            if not tag.startswith("exercise:"):
                continue
            below = next(c["source"] for c in notebook["cells"][place + 1:] if c["cell_type"] == "code")
            calls = [node for node in ast.walk(ast.parse(below)) if isinstance(node, ast.Call)
                     and ast.unparse(node.func).endswith("laws.check")]
            difficulty = re.search(r"[●○]{2,}", card)
            minutes = re.search(r"(\d+) minutes", card)
            found.append({"id": tag.split(":", 1)[1], "function": ast.unparse(calls[0].args[1]),
                          "laws": [ast.literal_eval(call.args[0]) for call in calls],
                          "points": difficulty[0].count("●") if difficulty else 1,
                          "minutes": int(minutes[1]) if minutes else None, "stub": cell["source"]})
    return found


def open_ones(notebook: dict) -> list[dict]:
    """`tag` is what `notebook.region` looks for."""
    found = []
    for cell in notebook["cells"]:
        for tag in cell["metadata"].get("tags", []):
            if tag.startswith("open:"):
                name = tag.removeprefix("open:")
                found.append({"tag": "open", "id": name, "function": ast.parse(cell["source"]).body[-1].name,
                              "laws": [name], "points": 0, "stub": cell["source"]})
    return found


def text(table: dict) -> str:
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def rubric(table: dict) -> str:
    """The table for teachers, in Markdown."""
    rows = ["# What every exercise is judged by", "",
            "Made by `python -m minizaya.grading.table lessons`. A function gets its points if all of its laws hold.",
            "", "| lesson | exercise | function | points | minutes | what must hold |", "|---|---|---|---|---|---|"]
    for name, about in table.items():
        for exercise in about["exercises"]:
            held = "; ".join(laws.get(law).statement for law in exercise["laws"])
            rows.append(f"| {name[:2]} | {exercise['id']} | `{exercise['function']}` | {exercise['points']} | "
                        f"{exercise['minutes']} | {escaped(held)} |")
    return "\n".join(rows) + "\n"


def escaped(words: str) -> str:
    """As plain words in a cell of a Markdown table."""
    return re.sub(r"([|*_<>~])", r"\\\1", words)


if __name__ == "__main__":
    fresh = made(Path(sys.argv[1]))
    PLACE.write_text(text(fresh), encoding="utf-8")
    (Path(sys.argv[1]) / "RUBRIC.md").write_text(rubric(fresh), encoding="utf-8")
