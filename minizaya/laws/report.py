"""Laws and verdicts for people and programs to read: what the command `laws` prints."""

from collections.abc import Callable

from .core import Law, Refused
from .judging import all, get, judge
from .protocols import caught, protocol, protocols, told, words
from .words import data

MARKS = {"passed": "✔", "broken": "✘", "stub": "○", "refused": "–"}


def chosen(spec: str | None) -> list[Law]:
    """The laws that a word names: one, those of a component, those of a protocol; without a word all."""
    if spec is None or spec in {law.component for law in all()}:
        return all(spec)
    return [get(spec)] if "." in spec else list(protocol(spec).laws)


def listing(found: list[Law]) -> str:
    """Laws for people to read, those of one protocol under its call."""
    lines = []
    for kind in protocols().values():
        own = [law for law in kind.laws if law in found]
        if not own:
            continue
        lines += [f"{kind.name}({', '.join(kind.arguments)})", "    " + indented(kind.signature)]
        for law in own:
            lines.append(f"  {law.name}: {law.statement}")
            if words(law) != kind.signature:
                lines.append("      " + indented(words(law), 6))
            seen = caught()[law.name]
            lines.append(f"      tested on {seen['wrong_functions']} wrong functions" + (
                ", and on planted bugs, which broke:" if seen["bugs"] else ""))
            lines += [f"        - {bug['why']}" for bug in seen["bugs"]]
        lines.append("")
    return "\n".join([*lines, f"{len(found)} laws; minizaya laws NAME --run package.module:function judges yours"])


def indented(text: str, by: int = 4) -> str:
    return text.replace("\n", "\n" + " " * by)


def record(law: Law) -> dict:
    """A law as plain JSON values."""
    kind = protocol(law.name)
    return {"law": law.name, "component": law.component, "protocol": kind.name, "arguments": list(kind.arguments),
            "statement": law.statement, "signature": told(law),
            "examples": law.examples, "tested_on": caught()[law.name]}


def judged(law: Law, fn: Callable, options: dict) -> dict:
    """One verdict as plain JSON values; "outcome" is passed, broken, stub, or refused: the law cannot judge this."""
    try:
        verdict = judge(law.name, fn, **options)
    except Refused as error:
        return {"law": law.name, "statement": law.statement, "outcome": "refused", "passed": False,
                "message": str(error).removeprefix(f"{law.name}: "), "case": None, "tried": 0, "seed": None}
    outcome = "passed" if verdict else "broken" if verdict.attempted else "stub"
    return {"law": law.name, "statement": law.statement, "outcome": outcome, "passed": verdict.passed,
            "message": verdict.message, "case": data(verdict.case), "tried": verdict.tried, "seed": verdict.seed}
