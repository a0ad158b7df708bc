"""Bugs planted in a kernel's text, many in one build: a number, set before a launch, says which of them is at work.

A build takes a second or more, and most bugs change one expression or one statement. `switched` writes both versions
into the text, `(mz_planted() == 3 ? (i <= n) : (i < n))`, so all of a kernel's bugs cost little more than one build. A
bug that is no choice between two expressions or two statements (a declaration, a template's argument, a constant of the
compiler) has a fourth word in its table, "alone", and a build of its own.
"""

import ctypes
import functools
import itertools
import re

import pytest

from kernel_tools import WAYS
from minizaya import hip
from minizaya.hip import launch

ALONE = "alone"
# the tracer first: it stops a wild write before it happens
ORDER = [*WAYS[3:], *WAYS[:3]]
SWITCH = """static int mz_bug;
extern "C" __attribute__((visibility("default"))) void mz_plant(int bug) { mz_bug = bug; }
__attribute__((noinline, const, no_sanitize("thread"), no_sanitize_coverage)) static int mz_planted() { return mz_bug; }
"""
TOKEN = re.compile(r"\s+|[A-Za-z_]\w*|\.?\d[\w.]*|<<=|>>=|[-+*/%&|^]=|<=|>=|==|!=|&&|\|\||\+\+|--|->|<<|>>|.", re.S)
OPEN, CLOSE = "([{", ")]}"
SETS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "return"}
STATEMENT = re.compile(r"\s*(if|for|while|do|continue|break|return|else)\b|.*;", re.S)


def plain(text: str) -> str:
    """The same text, its comments as blanks."""
    return re.sub(r"//.*", lambda found: " " * len(found[0]), text)


def changed(text: str, old: str, new: str) -> tuple[int, int, str]:
    """(first, end, what stands there instead): the tokens that a bug changes."""
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times; the table must follow the code"
    first = text.index(old)
    before, after = TOKEN.findall(plain(old)), TOKEN.findall(plain(new))
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    last = 0
    while last < min(len(before), len(after)) - same and before[-1 - last] == after[-1 - last]:
        last += 1
    start = first + len("".join(before[:same]))
    return start, start + len("".join(before[same:len(before) - last])), "".join(after[same:len(after) - last])


def whole(text: str, start: int, end: int) -> tuple[int, int, bool]:
    """The expression around [start, end), arguments with commas between them for several, or the statement where that
    is more; True for a statement. text: without comments."""
    tokens = [(found.start(), found.end(), found[0]) for found in TOKEN.finditer(text)]
    inside = [word for a, b, word in tokens if a >= start and b <= end]
    level = [0, *itertools.accumulate((word in OPEN) - (word in CLOSE) for word in inside)]
    statement = any(word in ";{}" for word in inside)
    depth, left = -min(level), 0
    for _, b, word in reversed([one for one in tokens if one[1] <= start]):
        ends = word in ";}" or (not statement and (word == "," or word in SETS))
        if depth == 0 and (ends or word in OPEN):
            left = b
            break
        depth += (word in CLOSE) - (word in OPEN)
    if not statement and STATEMENT.match(text[left:end]) and text[:left].rstrip()[-1:] in ";{}":
        statement = True
    depth, right = sum((word in OPEN) - (word in CLOSE) for a, b, word in tokens if left <= a and b <= end), len(text)
    if statement and inside and "".join(inside).rstrip()[-1:] in ";}" and depth == 0:
        return left, end, True
    for a, b, word in (one for one in tokens if one[0] >= end):
        depth += (word in OPEN) - (word in CLOSE)
        if depth < 0 or (depth == 0 and (word == ";" or (not statement and word == ","))):
            right = b if statement and word == ";" else a
            break
        if statement and depth == 0 and word == "}":
            right = b
            break
    return left, right, statement


def parted(text: str) -> list[str]:
    """What stands between the commas that no bracket holds."""
    parts, depth = [""], 0
    for word in TOKEN.findall(text):
        depth += (word in OPEN) - (word in CLOSE)
        if depth == 0 and word == ",":
            parts.append("")
        else:
            parts[-1] += word
    return parts


def switched(text: str, bugs) -> str:
    """The text with every bug in it, number 1 the first. One may lie within another."""
    blank, places = plain(text), []
    for number, (old, new, *_) in enumerate(bugs, 1):
        start, end, instead = changed(text, old, new)
        left, right, statement = whole(blank, start, end)
        right_ones, wrong_ones = [blank[left:right]], [blank[left:start] + instead + blank[end:right]]
        if not statement:
            right_ones, wrong_ones = parted(right_ones[0]), parted(wrong_ones[0])
        assert len(right_ones) == len(wrong_ones), f"{old!r} is no choice between two expressions; mark it as alone"
        for right_one, wrong in zip(right_ones, wrong_ones):
            if right_one != wrong:
                places.append((left, -left - len(right_one), number, statement, wrong))
            left += len(right_one) + 1
    places.sort()

    def part(left: int, right: int) -> str:
        """text[left:right], with the switches of the places that begin in it."""
        out = []
        while places and places[0][0] < right:
            first, end, number, statement, wrong = places.pop(0)
            assert -end <= right, f"bug {number} lies across another one; mark it as alone"
            out += [blank[left:first], both(number, statement, wrong, part(first, -end))]
            left = -end
        return "".join(out) + blank[left:right]

    return SWITCH + part(0, len(text))


def both(number: int, statement: bool, wrong: str, right: str) -> str:
    if statement:
        return f"if (mz_planted() == {number}) {{{wrong}\n}} else {{{right}\n}}\n"
    return f"(mz_planted() == {number} ? ({wrong}) : ({right}))"


@functools.cache
def text_of(name: str, without: tuple[str, ...] = ()) -> str:
    """The kernel's text with its own headers and gemm.h in it. without: lines that are left out, of kernels that no
    check runs."""
    text = (hip.KERNELS / name / f"{name}.hip").read_text()
    for header in [*sorted((hip.KERNELS / name).glob("*.h")), hip.KERNELS / "gemm.h"]:
        for include in (f'#include "{name}/{header.name}"\n', f'#include "{header.name}"\n'):
            text = text.replace(include, header.read_text())
    for line in without:
        assert f"{line}\n" in text, f"{line!r} is not in {name}.hip"
        text = text.replace(f"{line}\n", "\n")
    return text


@functools.cache
def together(name: str, bugs: tuple, without: tuple[str, ...]) -> str:
    return switched(text_of(name, without), bugs)


def launcher(name: str, bugs, bug, target: str, wave: int, without=()) -> launch.Launcher:
    """A launcher with one of the table's bugs at work, none for None. Raises KernelError where it cannot be built."""
    shared = tuple(one for one in bugs if ALONE not in one[3:])
    if bug is not None and bug not in shared:
        start, end, instead = changed(text := text_of(name, tuple(without)), *bug[:2])
        source, number = text[:start] + instead + text[end:], None
    else:
        source, number = together(name, shared, tuple(without)), 0 if bug is None else shared.index(bug) + 1
    library = ctypes.CDLL(str(hip.build(source, target, wave)))
    if number is not None:
        library.mz_plant(number)
    return hip.launcher(target, wave, source)


def notices(name: str, bugs, bug, checks, way, without=()) -> bool:
    """Does `checks(launcher)` raise with this bug (None: with none), the kernel run in this way?"""
    target, wave, order = way
    run = launcher(name, bugs, bug, target, wave, without)
    try:
        with hip.order(order):
            checks(run)
    except (AssertionError, hip.KernelError):
        return True
    return False


def each(bugs):
    """A test for each bug, and one, "nothing", that what notices them notices nothing without any."""
    return pytest.mark.parametrize("bug", [None, *bugs], ids=["nothing", *(bug[2].replace(" ", "_") for bug in bugs)])


def caught(name: str, bugs, bug, checks, ways=ORDER, without=()) -> None:
    """Asserts that the checks notice a bug, run in some of the ways; and that without a bug (None) they notice nothing
    in the first."""
    if bug is None:
        assert not notices(name, bugs, None, checks, ways[0], without), f"{name}: wrong before any bug is planted"
    else:
        assert any(notices(name, bugs, bug, checks, way, without) for way in ways), f"nobody noticed: {bug[2]}"
