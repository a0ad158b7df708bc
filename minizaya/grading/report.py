"""Results as rows, as a table for people, as CSV."""

import csv
from pathlib import Path

from .notebook import cells
from .submissions import Submission
from .table import lessons

MARKS = {"passed": "✔", "wrong": "✘", "open": "○"}
COLUMNS = ("student", "lesson", "exercise", "verdict", "points", "of", "seconds", "covered", "broke", "message")


def rows(done: list[tuple[Submission, dict]]) -> list[dict]:
    """One for each exercise of each notebook, in the order of students and lessons; a row is JSON."""
    found = []
    for one, result in sorted(done, key=lambda pair: (pair[0].student, pair[0].lesson)):
        for name, verdict in result["exercises"].items():
            found.append({"student": one.student, "lesson": one.lesson, "exercise": name, **verdict,
                          "covered": covered(verdict), "path": str(one.path), "problem": result["problem"]})
    return found


def covered(verdict: dict) -> str:
    """What a check looked at: "cca.causal 40 examples, ..."."""
    return ", ".join(f"{law['law']} {law['examples']} examples" for law in verdict["laws"] if law["passed"])


def broke(verdict: dict) -> str:
    return "; ".join(f"cell {number}{f', line {line}' if line else ''}: {said}"
                     for number, line, said in verdict["broke"])


def table(done: list[tuple[Submission, dict]], copies: list[Submission], strangers: list[Path],
          alike: list[dict]) -> str:
    """A line for each notebook with its marks and points, and below it what is wrong and why; totals, and
    what `similarity.alike` found, at the end."""
    lines, totals = [], {}
    for one, result in sorted(done, key=lambda pair: (pair[0].student, pair[0].lesson)):
        verdicts = result["exercises"]
        points, of = (sum(verdict[key] for verdict in verdicts.values()) for key in ("points", "of"))
        sums = totals.setdefault(one.student, [0, 0])
        sums[0], sums[1] = sums[0] + points, sums[1] + of
        marks = "".join(MARKS[verdict["verdict"]] for verdict in verdicts.values())
        lines.append(f"{one.student:20} {one.lesson:20} {marks:6} {points:3} of {of:3}   {result['problem']}".rstrip())
        if not result["problem"]:
            lines += [line for name, verdict in verdicts.items() for line in detail(name, verdict)]
    lines += [f"{one.student:20} {one.lesson:20} not counted: {one.path.name} is a copy of {Path(one.of).name}"
              for one in copies]
    lines += [f"{path}: belongs to no lesson" for path in strangers]
    if len(totals) > 1 or len(done) > 1:
        lines += ["", *(f"{student:41} {'':6} {points:3} of {of:3}" for student, (points, of) in totals.items())]
    lines += ["", "alike, which is for you to judge:"] if alike else []
    lines += [f"{row['lesson']:20} {row['exercise']:16} {row['student']} and {row['like']}: {row['share']:.0%}"
              for row in alike]
    walls = {wall for _, result in done for wall in result["walls"]}
    if walls:
        lines += ["", f"behind: {', '.join(sorted(walls))}" + ("" if "calls" in walls else
                  "; this system cannot forbid programs and the network: grade in a container")]
    return "\n".join(lines)


def detail(name: str, verdict: dict) -> list[str]:
    """What a student is to know of one exercise."""
    if verdict["verdict"] == "open":
        return []
    found = [f"    {name}: {broke(verdict)}"] if verdict["broke"] else []
    if verdict["verdict"] == "wrong":
        failed = [law for law in verdict["laws"] if not law["passed"]]
        law = f"{failed[0]['law']}: {failed[0]['statement']}" if failed else ""
        found += [f"  {MARKS['wrong']} {name}: {law}".rstrip(": "), f"      {verdict['message']}"]
    return found


def lines_of(done: list[tuple[Submission, dict]]) -> list[dict]:
    """`rows` as they stand in a spreadsheet."""
    return [{key: broke(row) if key == "broke" else row[key] for key in COLUMNS} for row in rows(done)]


def write_csv(path: Path, done: list[tuple[Submission, dict]]) -> None:
    """One line an exercise. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for line in lines_of(done):
            writer.writerow({key: "'" + value if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
                             for key, value in line.items()})


def damaged(notebook: dict, lesson: str) -> list[str]:
    """What would cost marks though the code may be right: tags that are lost or doubled, cells that are no Python."""
    found, complaints = cells(notebook), []
    for exercise in lessons()[lesson]["exercises"]:
        tag, function = f"exercise:{exercise['id']}", exercise["function"]
        mine = [cell for cell in found if exercise["id"] in cell.tagged("exercise")]
        if not mine:
            complaints.append(f"no cell is tagged {tag}")
        elif len(mine) > 1:
            complaints.append(f"cells {', '.join(str(cell.number) for cell in mine)} are tagged {tag}")
        elif function not in mine[0].binds and not mine[0].error:
            complaints.append(f"cell {mine[0].number}, {tag}, does not define {function}")
    return complaints + [f"cell {cell.number} cannot be read: {cell.error}" for cell in found if cell.error]
