"""Tasks: every one is deterministic, right, and cannot be fooled; what its worked reasoning says is true."""

import ast
import hashlib
import itertools
import math
import operator
import random
import re
import statistics
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minizaya.data import tasks, text
from minizaya.data.tasks import chain, countdown, falsify, program, sheet
from minizaya.data.tokenizer import CharTokenizer

CHAR = CharTokenizer(text.ALPHABET)
MANY_ANSWERS = {"countdown", "falsify", "invert", "rule"}
BY_VALUE = {"addition", "modchain", "chain100", "base"}  # leading zeros do not matter

task_and_difficulty = st.sampled_from(tasks.names()).flatmap(
    lambda name: st.tuples(st.just(tasks.get(name)), st.integers(1, tasks.get(name).max_difficulty))
)
seeds = st.integers(-(2**70), 2**70)


def levels(name):
    return st.integers(1, tasks.get(name).max_difficulty)


# ---- every task ----

PINNED = {  # (seed 0, difficulty 3): a change here breaks every shipped split and checkpoint card
    "addition": "192+053?a0235b0954c1102d0#245$",
    "base": "B129>5?a010122295r4b000020255r0c000000051r0d000000010r1#1004$",
    "chain100": "M38a+1b+1c-9?a38+1b39+1c40-9d31#31$",
    "copy": "Ca4b7c0d6?a4b7c0d6#4706$",
    "countdown": "N9397=29?03*9=27-7=20+9=29#3*9-7+9$",
    "falsify": "Fa*7b-2c/5;a*7b-3c/5?a50*7b50-2c48/5d09;a50*7b50-3c47/5d09=a35*7b45-2c43/5d08;a35*7b45-3c42/5d08="
               "a13*7b91-2c89/5d17;a13*7b91-3c88/5d17=a41*7b87-2c85/5d17;a41*7b87-3c84/5d16!#41$",
    "invert": "Ia-2b-3c+2=8?a7-2b5-3c2+2d4xa9-2b7-3c4+2d6xa3-2b1-3c8+2d0xa2-2b0-3c7+2d9xa5-2b3-3c0+2d2x"
              "a8-2b6-3c3+2d5xa1-2b9-3c6+2d8!#1$",
    "modchain": "8a*3b*3c-9?a8*3b4*3c2-9d3#3$",
    "parity": "Pa101b110c100d110?a0101b0110c0100d1110e1#1$",
    "program": "Xx0y7,ay+9[2bx-6cx*7]?a07y+9[2b06x-6c46x*7[1b86x-6c26x*7[0d46#4$",
    "reverse": "Ra0b0c0d6?d6c0b0a0#6000$",
    "rule": "E9:0,2:4,4:0,3?a9*6b4+1c5*8d0a2*6b2+1c3*8d4a4*6b4+1c5*8d0!#*6+1*8$",
    "sheet": "Q04721a95628b53703c?a044/022/426/077/729/471!b527/954/561/628!c572/303!#a47b62c30$",
    "sorting": "Smanr?m:m,a:am,n:amn,r:amnr#amnr$",
}


@given(task_and_difficulty, seeds)
def test_problems_are_deterministic_and_use_no_global_randomness(case, seed):
    task, difficulty = case
    random.seed(0)
    before = random.getstate()
    problem = task.generate(seed, difficulty)
    assert random.getstate() == before
    task.generate(seed + 1, difficulty)
    assert task.generate(seed, difficulty) == problem
    assert (problem.task, problem.difficulty) == (task.name, difficulty)
    CHAR.encode(problem.text)  # every character is in the alphabet
    assert "$" not in problem.prompt + problem.reasoning + problem.answer
    assert "#" not in problem.prompt + problem.reasoning[:-1] + problem.answer and problem.reasoning[-1] == "#"


DIGESTS = {  # hardest difficulty; SHA-256 of the texts of problems 0 to 3 at each difficulty, one a line
    "addition": (20, "ac5d074ea6256097"), "base": (10, "82e33bb7678d734d"), "chain100": (25, "34bb63eca199a12d"),
    "copy": (25, "927d6875eff1d64f"), "countdown": (6, "3f0c0fb8a772e90b"), "falsify": (6, "df5f9dca21f664ba"),
    "invert": (8, "c3f9ac440c705143"), "modchain": (25, "211df3dbb791e7bd"), "parity": (20, "808f928c15f6d3a6"),
    "program": (12, "dd47fdfd0566d363"), "reverse": (25, "555327676f20020f"), "rule": (3, "1174a84e84b5db01"),
    "sheet": (24, "7babac298bfa3cb4"), "sorting": (15, "d9f937f7cea7e665")}


@pytest.mark.parametrize("name", tasks.names())
def test_problems_are_the_same_in_every_process_and_version(name):
    task = tasks.get(name)
    assert task.generate(0, 3).text == PINNED[name]
    levels = range(1, task.max_difficulty + 1)
    text = "\n".join(task.generate(seed, level).text for level in levels for seed in range(4))
    assert (task.max_difficulty, hashlib.sha256(text.encode()).hexdigest()[:16]) == DIGESTS[name]


HELD_OUT = {  # of problems 0 to 39 at difficulty 3
    "addition": [7, 35, 37, 38], "base": [9, 12, 14], "chain100": [10, 22, 25, 35, 38], "copy": [8, 25, 30],
    "countdown": [18, 24, 31, 34], "falsify": [5, 11], "invert": [4, 7, 30], "modchain": [19],
    "parity": [2, 3, 16, 25, 35, 38], "program": [4, 17], "reverse": [11, 18, 27, 31], "rule": [5, 16, 28, 29],
    "sheet": [8, 16, 17, 28, 29], "sorting": [5, 20]}


@pytest.mark.parametrize("name", tasks.names())
def test_what_is_held_out_stays_so(name):
    """The shipped models have trained on the rest, and figures of theirs are of just these."""
    task = tasks.get(name)
    assert [i for i in range(40) if tasks.split(task.generate(i, 3)) == "held_out"] == HELD_OUT[name]


@pytest.mark.parametrize("part, seed, prompts", [("held_out", 0, ["142+682?", "577+157?", "304+990?"]),
                                                 ("train", 1, ["601+477?", "375+012?", "687+419?"])])
def test_the_same_problems_are_drawn_in_every_version(part, seed, prompts):
    assert [problem.prompt for problem in tasks.problems("addition", part, 3, 3, seed)] == prompts


@given(task_and_difficulty, seeds)
def test_a_task_accepts_its_own_answer_in_every_wrapping(case, seed):
    task, difficulty = case
    p = task.generate(seed, difficulty)
    for good in (p.answer, p.completion, p.text, p.reasoning + p.answer, f"#7777${p.completion}",
                 f"<think>{p.reasoning}</think>{p.answer}<|im_end|>", f"{p.completion}\n", f"{p.completion}#?$"):
        assert task.verify(p, good) == 1, good
    for bad in ("", "#", "$", p.prompt, p.reasoning, p.prompt + p.reasoning, f"#{p.answer}$#77777$"):
        assert task.verify(p, bad) == 0, bad


def truth(p, answer):
    """Is this answer right? Written again here, without the package's verifiers."""
    if p.task == "countdown":
        return countdown_truth(p, answer)
    if p.task == "falsify":
        return answer.isascii() and answer.isdigit() and len(answer) < 10 and int(answer) in differing_inputs(p)
    if p.task == "invert":
        return answer.isascii() and answer.isdigit() and len(answer) < 10 and int(answer) in hitting_inputs(p)
    if p.task == "rule":
        return answer in fitting_rules(p)
    if p.task in BY_VALUE and answer.isascii() and answer.isdigit():
        return int(answer) == int(p.answer)
    return answer == p.answer


@settings(max_examples=300)
@given(task_and_difficulty, seeds, st.data())
def test_every_one_character_corruption_of_the_answer_is_judged_rightly(case, seed, data):
    task, difficulty = case
    p = task.generate(seed, difficulty)
    i = data.draw(st.integers(0, len(p.answer) - 1))
    new = data.draw(st.sampled_from(sorted({*"0123456789abc+-*()/", *text.ALPHABET} - {*"#$<"})))
    # A "#", "$" or "<|" inside an answer starts or ends one; that is a new answer, not a corrupted one.
    replaced, inserted = p.answer[:i] + new + p.answer[i + 1 :], p.answer[:i] + new + p.answer[i:]
    removed = p.answer[:i] + p.answer[i + 1 :]
    for answer in (replaced, inserted, removed):
        assert task.verify(p, f"{p.reasoning}{answer}$") == truth(p, answer.strip()), answer


@given(task_and_difficulty, seeds, st.one_of(st.text(), st.text("#$0123456789-+*() \n</think>|", max_size=60)))
def test_verify_never_raises(case, seed, junk):
    task, difficulty = case
    p = task.generate(seed, difficulty)
    for s in (junk, "#" + junk, p.reasoning + junk + "$"):
        assert task.verify(p, s) in (0, 1)


HOSTILE = ["9" * 100_000, "(" * 100_000, "(" * 79 + "1", "((((" * 5000 + "1" + "))))" * 5000, "9**9**9**9",
           "1+" * 40_000,
           " " * 100_000 + "x", "# " * 50_000, "\u0663", "-3", "1e3", "__import__('os')", "().__class__", "1/0", "\x00",
           "open('planted', 'w')", "[2" * 1000, "lambda: 0", "\u00b2", "++1", "5-", "*", "()", "12345678901"]


@pytest.mark.parametrize("junk", HOSTILE, ids=lambda s: s[:12].encode("unicode_escape").decode())
def test_verify_survives_hostile_text(junk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in tasks.names():
        for difficulty in (1, tasks.get(name).max_difficulty):
            problem = tasks.get(name).generate(0, difficulty)
            for s in (junk, f"#{junk}$", f"\ud800#\x00{junk}"):
                assert tasks.get(name).verify(problem, s) == 0
    assert not list(tmp_path.iterdir())


def test_nothing_in_the_tasks_can_execute_text():
    """No task module calls anything that runs text, so no text can."""
    forbidden = {"eval", "exec", "compile", "__import__", "getattr", "literal_eval", "open", "import_module"}
    folder = re.sub(r"__init__\.py$", "", tasks.__file__)
    modules = ("__init__", "task", "arithmetic", "chain", "lists", "countdown", "program", "falsify", "invert", "rule",
               "sheet")
    for module in modules:
        with open(f"{folder}{module}.py", encoding="utf-8") as file:
            tree = ast.parse(file.read())
        called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {f.id if isinstance(f, ast.Name) else f.attr for f in called
                 if isinstance(f, (ast.Name, ast.Attribute))}
        assert not (names - {"compile"}) & forbidden
        assert all(f.value.id == "re" for f in called if isinstance(f, ast.Attribute) and f.attr == "compile")


@pytest.mark.parametrize("name", tasks.names())
def test_reasoning_gets_longer_with_difficulty(name):
    task = tasks.get(name)
    means = [statistics.mean(len(task.generate(seed, d).reasoning) for seed in range(300))
             for d in range(1, task.max_difficulty + 1)]
    assert all(easier < harder for easier, harder in zip(means, means[1:])), means


@pytest.mark.parametrize("name", tasks.names())
def test_the_two_parts_share_no_prompt(name):
    seen = {"train": set(), "held_out": set()}
    for seed in range(3000):
        p = tasks.get(name).generate(seed, 1 + seed % 3)
        seen[tasks.split(p)].add(p.prompt)
    assert not seen["train"] & seen["held_out"]
    # A tenth of the distinct prompts, give or take four standard errors of a binomial count.
    total = len(seen["train"]) + len(seen["held_out"])
    assert abs(len(seen["held_out"]) - total / 10) < 4 * math.sqrt(total * 0.1 * 0.9)


@pytest.mark.parametrize("name", tasks.names())
def test_every_difficulty_has_problems_in_both_parts(name):
    task = tasks.get(name)
    for difficulty in range(1, task.max_difficulty + 1):
        found = [task.generate(seed, difficulty) for seed in range(300)]
        distinct = {part: {p.prompt for p in found if tasks.split(p) == part} for part in ("train", "held_out")}
        enough = 10 if difficulty >= 2 else 3  # addition has 100 prompts of one digit
        assert len(distinct["held_out"]) >= enough and len(distinct["train"]) >= 5 * enough, difficulty


def test_a_prompt_says_which_task_it_is():
    firsts = {name: {tasks.get(name).generate(seed, 2).prompt[0] for seed in range(100)} for name in tasks.names()}
    assert firsts.pop("addition") == firsts.pop("modchain") == set(string.digits)
    assert all(len(first) == 1 and first <= set(string.ascii_uppercase) for first in firsts.values())
    assert len(set.union(*firsts.values())) == len(firsts)


@settings(max_examples=20)
@given(st.sampled_from(tasks.names()), st.sampled_from(["train", "held_out"]), st.integers(1, 3), st.integers(0, 20),
       seeds)
def test_problems_come_from_the_asked_part(name, part, difficulty, n, seed):
    found = tasks.problems(name, part, difficulty, n, seed)
    assert len(found) == n and all(tasks.split(p) == part and p.difficulty == difficulty for p in found)
    assert tasks.problems(name, part, difficulty, n + 3, seed)[:n] == found


class OnlyOne(tasks.Task):
    """A task with one problem: one of the two parts must be empty."""

    name, max_difficulty, form = "only-one", 1, "[12]"

    def make(self, rng, difficulty):
        return "1?", "", "1"


def test_an_empty_part_is_an_error_not_an_endless_loop(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "only-one", OnlyOne())
    only = OnlyOne().generate(0, 1)
    assert (OnlyOne().verify(only, "#1$"), OnlyOne().verify(only, "#2$")) == (1, 0)  # the default check
    full = tasks.split(only)
    assert tasks.problems("only-one", full, 1, 2, seed=0) == [only, only]
    empty = {"train": "held_out", "held_out": "train"}[full]
    with pytest.raises(ValueError, match=f"has no {empty} problem"):
        tasks.problems("only-one", empty, 1, 1, seed=0)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda: tasks.get("nope"), "addition"),
        (lambda: tasks.ModChain(1), "modulus"),
        (lambda: tasks.ModChain(101), "modulus must be in 2 to 100, got 101"),
        (lambda: tasks.get("addition").generate(0, 0), "difficulty"),
        (lambda: tasks.get("addition").generate(0, 21), "1 to 20"),
        (lambda: tasks.get("addition").generate(0, 1.5), "difficulty"),
        (lambda: tasks.get("addition").verify(tasks.get("modchain").generate(0, 1), ""), "modchain"),
        (lambda: tasks.problems("addition", "test", 1, 1, 0), "part"),
        (lambda: tasks.problems("addition", "train", 1, -1, 0), "n must"),
        (lambda: tasks.problems("addition", "train", 99, 1, 0), "difficulty"),
    ],
)
def test_task_errors_are_clear(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


# ---- arithmetic ----


@given(st.integers(1, 20), seeds)
def test_addition_is_right_and_its_reasoning_says_why(digits, seed):
    p = tasks.get("addition").generate(seed, digits)
    x, y = p.prompt.removesuffix("?").split("+")
    assert len(x) == len(y) == digits and int(p.answer) == int(x) + int(y)
    *columns, last = [p.reasoning[i : i + 5] for i in range(0, len(p.reasoning) - 1, 5)]
    carry, written = 0, ""
    for letter, column, a, b in zip("abcdefghijklmnopqrstuvwxyz", columns, x[::-1], y[::-1]):
        assert column[:4] == f"{letter}{carry}{a}{b}"
        assert 10 * (total := (carry + int(a) + int(b)) // 10) + int(column[4]) == carry + int(a) + int(b)
        carry, written = total, column[4] + written
    assert last[1] == str(carry) and int(last[1] + written) == int(p.answer)


@given(st.sampled_from([2, 10, 11, 97, 100]), st.integers(1, 25), seeds)
def test_modchain_is_right_step_by_step(modulus, steps, seed):
    task = tasks.ModChain(modulus)
    p = task.generate(seed, steps)
    width = len(str(modulus - 1))
    value, rest = int(p.prompt[:width]), p.prompt[width:-1]
    expected = ""
    for letter, sign, number in zip(rest[::3], rest[1::3], rest[2::3]):
        expected += f"{letter}{value:0{width}d}{sign}{number}"
        value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[sign] % modulus
    assert rest[::3] == "abcdefghijklmnopqrstuvwxy"[:steps]
    assert p.reasoning == f"{expected}{chr(ord('a') + steps)}{value:0{width}d}#"
    assert p.answer == f"{value:0{width}d}"


@given(levels("base"), seeds)
def test_base_is_right_and_its_divisions_are_too(difficulty, seed):
    p = tasks.get("base").generate(seed, difficulty)
    number, base = p.prompt.removeprefix("B").removesuffix("?").split(">")
    assert int(p.answer, int(base)) == int(number) and len(p.answer) == difficulty + 1 and p.answer[0] != "0"
    value, rows = int(number), re.findall(r"([a-z])([0-9]+)r([0-9])", p.reasoning)
    assert "".join(f"{a}{b}r{c}" for a, b, c in rows) + "#" == p.reasoning
    for letter, (name, row, last), wanted in zip(string.ascii_lowercase, rows, p.answer[::-1]):
        assert name == letter and last == wanted and len(row) == 3 * len(number)
        assert row[1::3] == f"{value:0{len(number)}d}"
        remainders = [*map(int, row[::3]), int(last)]
        for before, digit, quotient, after in zip(remainders, row[1::3], row[2::3], remainders[1:]):
            assert divmod(10 * before + int(digit), int(base)) == (int(quotient), after)
        value //= int(base)
    assert value == 0 and len(rows) == difficulty + 1


# ---- lists ----


@given(levels("parity"), seeds)
def test_parity_counts_the_ones(difficulty, seed):
    p = tasks.get("parity").generate(seed, difficulty)
    groups = re.findall("[01]{3}", p.prompt)
    assert p.prompt == "P" + "".join(map("".join, zip(string.ascii_lowercase, groups))) + "?"
    assert len(groups) == difficulty + 1 and p.answer == str(sum(map(int, "".join(groups))) % 2)
    before = [sum(map(int, "".join(groups[:i]))) % 2 for i in range(difficulty + 2)]
    steps = [f"{letter}{parity}{group}" for letter, parity, group in zip(string.ascii_lowercase, before, [*groups, ""])]
    assert p.reasoning == "".join(steps) + "#"


@given(st.sampled_from(["copy", "reverse"]), st.integers(1, 25), seeds)
def test_copy_and_reverse(name, difficulty, seed):
    p = tasks.get(name).generate(seed, difficulty)
    digits = "".join(filter(str.isdigit, p.prompt))
    items = [letter + digit for letter, digit in zip(string.ascii_lowercase, digits)]
    assert p.prompt == name[0].upper() + "".join(items) + "?" and len(digits) == difficulty + 1
    if name == "reverse":
        digits, items = "".join(reversed(digits)), list(reversed(items))
    assert p.answer == digits and p.reasoning == "".join(items) + "#"


@given(levels("sorting"), seeds)
def test_sorting_sorts_and_every_step_inserts_one_letter(difficulty, seed):
    p = tasks.get("sorting").generate(seed, difficulty)
    letters = p.prompt.removeprefix("S").removesuffix("?")
    assert len(letters) == len(set(letters)) == difficulty + 1 and p.answer == "".join(sorted(letters))
    steps = [step.split(":") for step in p.reasoning.removesuffix("#").split(",")]
    assert "".join(letter for letter, _ in steps) == letters and steps[-1][1] == p.answer
    for i, (letter, so_far) in enumerate(steps):
        assert list(so_far) == sorted(letters[: i + 1]) and letter in so_far


# ---- countdown ----


def trees(numbers):
    """Every (expression with all parentheses, value, top sign) that uses each of the numbers once: by brute force."""
    if len(numbers) == 1:
        yield str(numbers[0]), numbers[0]
        return
    for size in range(1, len(numbers)):
        for left in itertools.combinations(range(len(numbers)), size):
            right = [numbers[i] for i in range(len(numbers)) if i not in left]
            for (a, x), (b, y) in itertools.product(trees([numbers[i] for i in left]), trees(right)):
                yield f"({a}+{b})", x + y
                yield f"({a}-{b})", x - y
                yield f"({a}*{b})", x * y


def countdown_truth(p, answer):
    given_digits, target = p.prompt[1:-1].split("=")
    if sorted(re.findall("[0-9]", answer)) != sorted(given_digits) or not re.fullmatch("[0-9+*()-]{1,80}", answer):
        return False
    return python_value(answer) == int(target)


def python_value(expression):
    """What Python's own parser makes of digits, signs and parentheses; NaN, equal to nothing,
    if the rules forbid it."""
    if re.search("[0-9]{2}", expression):  # Python reads 00 as 0
        return math.nan
    try:
        return value_of(ast.parse(expression, mode="eval").body)
    except SyntaxError:
        return math.nan


def value_of(node):
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left, ast.Add(), right):
            return value_of(left) + value_of(right)
        case ast.BinOp(left, ast.Sub(), right):
            return value_of(left) - value_of(right)
        case ast.BinOp(left, ast.Mult(), right):
            return value_of(left) * value_of(right)
    return math.nan


@settings(max_examples=30)
@given(st.integers(1, 3), seeds)
def test_countdown_accepts_exactly_the_right_trees(difficulty, seed):
    task = tasks.get("countdown")
    p = task.generate(seed, difficulty)
    numbers, target = [int(char) for char in p.prompt[1:-1].split("=")[0]], int(p.prompt[1:-1].split("=")[1])
    right = 0
    for expression, value in trees(numbers):
        assert task.verify(p, f"{p.reasoning}{expression}$") == (value == target), expression
        right += value == target
    assert right >= 1


@given(levels("countdown"), seeds, st.sampled_from("123456789"))
def test_countdown_wants_each_given_digit_exactly_once(difficulty, seed, digit):
    task = tasks.get("countdown")
    p = task.generate(seed, difficulty)
    digits, target = p.prompt[1:-1].split("=")
    used = p.answer[-1]
    more = [f"{p.answer}+{d}-{d}" for d in (digit, used)] + [f"1*({p.answer})", f"({p.answer})*1", f"({p.answer})"]
    assert [task.verify(p, f"#{answer}$") for answer in more] == [0, 0, 0, 0, 1]
    alone = "+".join("9" * (int(target) // 9) + str(int(target) % 9))
    assert task.verify(p, f"#{alone}$") == (sorted(alone.replace("+", "")) == sorted(digits))
    assert task.verify(p, f"#{int(target)}$") == 0


pieces = st.lists(st.sampled_from([*"0123456789", *"+-*()" * 3]), max_size=30).map("".join)
expressions = st.recursive(
    st.sampled_from("123456789"),
    lambda inner: st.one_of(st.tuples(inner, st.sampled_from("+-*"), inner).map("".join), inner.map("({})".format)),
    max_leaves=9,
)


@settings(max_examples=500)
@given(st.one_of(pieces, expressions))
@example("8-2-3")
@example("2*3*4-1")
@example("(((((1)))))")
def test_countdown_reads_expressions_as_python_does(expression):
    expected = python_value(expression)
    if len(expression) > countdown.MAX_LENGTH or math.isnan(expected):
        assert countdown.evaluate(expression) is None
    else:
        assert countdown.evaluate(expression) == expected


@pytest.mark.parametrize("pairs, value", [(38, 3), (39, None)])
def test_countdown_reads_up_to_80_characters(pairs, value):
    """So does the form by which others constrain a decoder. An expression has an odd number of them: 79, and 81."""
    expression = "(" * pairs + "5-2" + ")" * pairs
    assert countdown.evaluate(expression) == value
    assert bool(re.fullmatch(tasks.get("countdown").form, expression)) == (value is not None)


@given(levels("countdown"), seeds)
def test_countdown_tries_are_true(difficulty, seed):
    p = tasks.get("countdown").generate(seed, difficulty)
    digits, target = p.prompt[1:-1].split("=")
    assert len(digits) == difficulty + 1 and 1 <= int(target) <= 99 and len(p.answer) <= countdown.MAX_LENGTH
    *wrong, good = p.reasoning[:-1].split("x")
    assert len(wrong) <= difficulty
    for one in (*wrong, good):
        first, *steps = re.findall(r"^..|[-+*].=..", one)
        assert first + "".join(steps) == one and sorted(first[1] + "".join(s[1] for s in steps)) == sorted(digits)
        value = int(first)
        for sign, digit, _, *result in steps:
            value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[sign]
            assert value == int("".join(result)) and 1 <= value <= 99
        assert (value == int(target)) == (one == good)
    # The answer is the last try, with parentheses where they are needed and nowhere else.
    expression, last = good[1], "*"
    for sign, digit in re.findall(r"([-+*])(.)=", good):
        expression = f"({expression})*{digit}" if sign == "*" and last != "*" else f"{expression}{sign}{digit}"
        last = sign
    assert p.answer == expression


@pytest.mark.parametrize("expression", ["(" * 100_000, "1" + "+1" * 50_000, "(" * 60 + "1" + ")" * 60, "", "1\n",
                                        "\u0661"])
def test_countdown_refuses_what_is_too_long_or_no_expression(expression):
    assert countdown.evaluate(expression) is None


# ---- program ----

letters = st.sampled_from(string.ascii_lowercase)
statement = st.tuples(letters, st.sampled_from("xy"), st.sampled_from("+-*"), st.sampled_from("0123456789xy"))
blocks = st.recursive(
    st.lists(statement, max_size=4),
    lambda inner: st.lists(st.one_of(statement, st.tuples(st.integers(0, 3), inner)), max_size=4),
    max_leaves=8,
)


def spell(block):
    return "".join(f"[{part[0]}{spell(part[1])}]" if len(part) == 2 else "".join(part) for part in block)


def walk(block, values, steps):
    """The meaning of a program as a recursion over its tree, where the package jumps between positions."""
    for part in block:
        if len(part) == 2:
            for left in range(part[0], 0, -1):
                steps.append(f"[{left}")
                walk(part[1], values, steps)
            steps.append("[0")
        else:
            letter, target, sign, operand = part
            steps.append(f"{letter}{values['x']}{values['y']}{target}{sign}{operand}")
            other = values[operand] if operand in "xy" else int(operand)
            change = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign]
            values[target] = change(values[target], other) % 10


@settings(max_examples=300)
@given(blocks, st.integers(0, 9), st.integers(0, 9))
def test_programs_run_as_their_tree_says(block, x, y):
    values, steps = {"x": x, "y": y}, []
    walk(block, values, steps)
    *ours, last = program.run(spell(block), x, y, limit=len(steps))
    assert [step for step, _, _ in ours] == steps and last == ("", values["x"], values["y"])
    if steps:
        with pytest.raises(ValueError, match=f"within {len(steps) - 1} steps"):
            list(program.run(spell(block), x, y, limit=len(steps) - 1))


@given(levels("program"), seeds)
def test_program_problems_are_right(difficulty, seed):
    p = tasks.get("program").generate(seed, difficulty)
    start, body = p.prompt.removeprefix("X").removesuffix("?").split(",")
    assert re.fullmatch("x[0-9]y[0-9]", start)
    *steps, (_, x, y) = program.run(body, int(start[1]), int(start[3]))
    assert p.answer == str(x) and p.reasoning == "".join(s[0] for s in steps) + f"{'abcdefghijklm'[difficulty]}{x}{y}#"
    assert len(re.findall("[a-l][xy][-+*]", body)) == difficulty


@given(levels("program"), seeds)
def test_no_statement_of_a_program_loses_information(difficulty, seed):
    """All 100 starts lead to different ends, so that no answer is likelier than another."""
    p = tasks.get("program").generate(seed, difficulty)
    body = p.prompt.removesuffix("?").split(",")[1]
    ends = {list(program.run(body, x, y))[-1] for x in range(10) for y in range(10)}
    assert len(ends) == 100


@given(st.one_of(st.text(), st.text("[]0123xyab+-*", max_size=30)))
def test_any_text_is_run_or_refused(source):
    try:
        steps = list(program.run(source, 1, 2))
    except ValueError as error:
        assert "program must" in str(error)
    else:
        assert len(steps) <= program.STEP_LIMIT + 1


def test_a_program_may_take_all_of_its_steps():
    source = "[2ax+1bx+2]"          # head, two statements, end, two statements, end: seven steps
    assert list(program.run(source, 1, 2, limit=7))[-1] == ("", 7, 2)
    with pytest.raises(ValueError, match="within 6 steps"):
        list(program.run(source, 1, 2, limit=6))


@pytest.mark.parametrize("source, message", [
    ("ax+", "statements like"), ("[2ax+1", "close every"), ("ax+1]", "open every"), ("ax/0", "statements like"),
    ("[9" * 6 + "ax+1" + "]" * 6, "within 1000 steps"), ("[9]" * 200, "within 1000 steps"),
])
def test_bad_programs_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        list(program.run(source, 1, 2))


# ---- falsification ----


OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod}


def differing_inputs(p):
    """The inputs on which the two functions of the prompt differ: their meaning written again."""

    def value(function, x):
        for sign, digit in re.findall("[a-z](.)(.)", function):
            x = OPERATIONS[sign](x, int(digit)) % 100
        return x

    f, g = p.prompt.removeprefix("F").removesuffix("?").split(";")
    return {x for x in range(100) if value(f, x) != value(g, x)}


@settings(max_examples=60)
@given(levels("falsify"), seeds)
def test_falsify_accepts_exactly_the_differing_inputs(difficulty, seed):
    task = tasks.get("falsify")
    p = task.generate(seed, difficulty)
    right = differing_inputs(p)
    assert 1 <= len(right) <= 100 / (difficulty + 1)
    for x in range(-3, 250):
        assert task.verify(p, f"{p.reasoning}{x}$") == (x in right)
    f, g = (re.findall("[a-z](..)", function) for function in p.prompt.split(";"))
    assert len(f) == len(g) and sum(a != b for a, b in zip(f, g)) == 1


@settings(max_examples=60)
@given(levels("falsify"), seeds)
def test_falsify_tries_are_true(difficulty, seed):
    p = tasks.get("falsify").generate(seed, difficulty)
    f, g = p.prompt.removeprefix("F").removesuffix("?").split(";")
    tries = re.findall("[^=!]+[=!]", p.reasoning)
    assert "".join(tries) + "#" == p.reasoning and len(tries) <= difficulty + 1
    for i, one in enumerate(tries):
        x = int(one[1:3])
        left, right = one[:-1].split(";")
        for function, shown in ((f, left), (g, right)):
            steps = re.findall("([a-z])([0-9]{2})(..|$)", shown)
            assert "".join(a + b for a, _, b in steps[:-1]) == function and "".join(map("".join, steps)) == shown
            assert all(chain.run("a" + op, int(v), 100)[-1] == int(after)
                       for (_, v, op), (_, after, _) in zip(steps, steps[1:]))
            assert int(steps[0][1]) == x
        assert (one[-1] == "!") == (x in differing_inputs(p)) == (i == len(tries) - 1)
    assert x == int(p.answer)
    assert falsify.outputs(f) == [chain.run(f, x, 100)[-1] for x in falsify.INPUTS]


# ---- invert ----


def hitting_inputs(p):
    """The digits that the program turns into the wanted one: its meaning written again."""
    program, wanted = p.prompt[1:-1].split("=")
    found = set()
    for x in range(10):
        value = x
        for sign, digit in re.findall(r"[a-z]([-+*])([0-9])", program):
            value = (value + int(digit) if sign == "+" else value - int(digit) if sign == "-"
                     else value * int(digit)) % 10
        if value == int(wanted):
            found.add(x)
    return found


@given(levels("invert"), seeds)
def test_invert_accepts_exactly_the_hitting_inputs(difficulty, seed):
    p = tasks.get("invert").generate(seed, difficulty)
    right = hitting_inputs(p)
    assert right and {x for x in range(10) if tasks.get("invert").verify(p, f"#{x}$")} == right
    assert not tasks.get("invert").verify(p, f"#{10 + min(right)}$")  # congruent, but no digit


@given(levels("invert"), seeds)
def test_invert_tries_are_true_and_stop_at_the_first_hit(difficulty, seed):
    p = tasks.get("invert").generate(seed, difficulty)
    program, _ = p.prompt[1:-1].split("=")
    *misses, hit, end = re.split("[x!]", p.reasoning)
    assert end == "#" and p.reasoning.endswith("!#") and p.reasoning.count("!") == 1
    tried = [int(run[1]) for run in (*misses, hit)]
    assert len(set(tried)) == len(tried) and tried[-1] == int(p.answer)
    assert [x in hitting_inputs(p) for x in tried] == [False] * len(misses) + [True]
    for x, run in zip(tried, (*misses, hit)):
        assert run == chain.trace(program, x, 10)


def test_chain100_is_modchain_with_two_digits():
    p = tasks.get("chain100").generate(0, 3)
    value = int(re.match(r"M(\d\d)a", p.prompt)[1])
    for sign, digit in re.findall(r"[a-z]([-+*])([0-9])", p.prompt):
        value = (value + int(digit) if sign == "+" else value - int(digit) if sign == "-" else value * int(digit)) % 100
    assert p.answer == f"{value:02d}" and p.reasoning.endswith(f"d{value:02d}#")


# ---- rule ----


def fitting_rules(p):
    """Every rule of at most the asked length that turns each input into its output: by brute force."""
    shown, most = p.prompt[1:-2], int(p.prompt[-2])
    examples = [tuple(map(int, pair.split(":"))) for pair in shown.removesuffix(",").split(",")]
    operations = [f"{sign}{digit}" for sign in "+*-" for digit in range(1, 10)]
    return {"".join(rule) for length in range(1, most + 1) for rule in itertools.product(operations, repeat=length)
            if all(outcome(rule, x) == y for x, y in examples)}


def outcome(rule, x):
    for sign, digit in rule:
        x = {"+": x + int(digit), "-": x - int(digit), "*": x * int(digit)}[sign] % 10
    return x


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), seeds)
def test_rule_accepts_exactly_the_rules_that_fit(difficulty, seed):
    task = tasks.get("rule")
    p = task.generate(seed, difficulty)
    right = fitting_rules(p)
    operations = [f"{sign}{digit}" for sign in "+*-" for digit in range(1, 10)]
    for rule in map("".join, itertools.chain(*(itertools.product(operations, repeat=n) for n in (1, 2)))):
        assert task.verify(p, f"#{rule}$") == (rule in right), rule
    assert p.answer in right
    assert task.verify(p, f"#{p.answer}+1-1$") == 0, "it fits, but is longer than asked for"


@pytest.mark.parametrize("answer, right", [("+1", 1), ("+2-1", 1), ("+3", 0), ("+1+0", 0), ("++1", 0), ("1+1", 0),
                                           ("+1+", 0), ("+11", 0), ("+1 ", 1)])
def test_a_rule_is_operations_of_a_sign_and_a_digit_from_1_to_9(answer, right):
    problem = tasks.Problem("E1:2,2:3,3:4,2?", "a1+1b2#", "+1", "rule", 2)
    assert tasks.get("rule").verify(problem, f"#{answer}$") == right


@given(levels("rule"), seeds)
def test_rule_tries_are_true(difficulty, seed):
    p = tasks.get("rule").generate(seed, difficulty)
    examples = [tuple(map(int, pair.split(":"))) for pair in p.prompt[1:-2].removesuffix(",").split(",")]
    assert len(examples) == len({x for x, _ in examples}) == 3
    *misses, hit = re.findall("[^x!]*[x!]", p.reasoning)
    for tried in (*misses, hit):
        runs = re.findall(r"a[0-9](?:[+*-][0-9][b-d][0-9])+", tried)
        assert "".join(runs) == tried[:-1] and 1 <= len(runs) <= 3
        for run, (x, y) in zip(runs, examples):
            values, signs = [int(v) for v in re.findall("[a-d]([0-9])", run)], re.findall("[+*-][0-9]", run)
            assert len(signs) == difficulty and values[0] == x
            assert all(outcome([sign], before) == after for sign, before, after in zip(signs, values, values[1:]))
            assert (values[-1] == y) == (run is not runs[-1] or tried[-1] == "!")
    assert hit[-1] == "!" and all(miss[-1] == "x" for miss in misses) and len(misses) <= difficulty
    assert len(runs) == 3


# ---- sheet ----


def entries(reasoning):
    """What a trace tried: letter -> [(pair, total, mark), ...]. The whole text must be of this form."""
    assert re.fullmatch(r"(?:[a-x](?:\d{3}/)*(?:\d{3}[!/]))*", reasoning), reasoning
    return {letter: re.findall(r"(\d\d)(\d)([!/])", tried) for letter, tried in
            re.findall(r"([a-x])([\d/!]*)", reasoning)}


def truth_of(digits, end):
    """The pairs of digits, in order, whose sum ends so; worked out again."""
    return [a + b for i, a in enumerate(digits) for b in digits[i + 1:] if (int(a) + int(b)) % 10 == int(end)]


def check_search(parts, reasoning, listed, most):
    """Every part in turn, at most `most` tries each, no pair twice, all sums true; the list says what was found."""
    tried = entries(reasoning)
    assert list(tried) == list(parts)
    for letter, digits in parts.items():
        good, = truth_of(digits[:4], digits[4])
        *misses, last = tried[letter]
        pairs = [pair for pair, _, _ in tried[letter]]
        assert 1 <= len(pairs) == len(set(pairs)) <= most
        assert all(digits.find(pair[0]) < digits[:4].find(pair[1]) for pair in pairs)
        assert all(int(total) == sum(map(int, pair)) % 10 for pair, total, _ in tried[letter])
        assert all(mark == "/" and pair != good for pair, _, mark in misses)
        assert (last[0] == good) == (last[2] == "!") and (last[2] == "!" or len(pairs) == most)
        assert f"{letter}{good if last[2] == '!' else '?'}" in listed
    assert len(listed) == sum(3 if tried[letter][-1][2] == "!" else 2 for letter in tried)


@given(levels("sheet"), seeds)
def test_a_sheet_has_one_pair_a_part_and_a_search_that_finds_it(difficulty, seed):
    p = tasks.get("sheet").generate(seed, difficulty)
    parts = sheet.parts_asked(p)
    assert p.prompt == f"Q{''.join(digits + letter for letter, digits in parts.items())}?"
    assert list(parts) == list(string.ascii_lowercase[:difficulty])
    assert all(re.fullmatch(r"\d{5}", digits) and len(set(digits[:4])) == 4 for digits in parts.values())
    check_search(parts, p.reasoning[:-1], p.answer, 6)
    assert "?" not in p.answer and len(p.answer) == 3 * difficulty


@given(levels("sheet"), seeds, st.integers(0, 9))
def test_practice_has_room_for_few_tries(difficulty, seed, chance):
    p = tasks.get("sheet").generate(seed, difficulty)
    reasoning, listed = tasks.get("sheet").practice(p, random.Random(chance))
    most = {1: 6, 2: 6, 3: 6, 4: 6, 5: 4, 6: 4, 7: 3, 8: 3}.get(difficulty, 2)
    check_search(sheet.parts_asked(p), reasoning, listed, most)
    assert (listed == p.answer) == ("?" not in listed) == bool(tasks.get("sheet").verify(p, f"#{listed}$"))


def test_a_short_sheet_is_found_and_of_a_long_one_a_third():
    task, found = tasks.get("sheet"), {k: [] for k in (1, 4, 24)}
    for k, shares in found.items():
        for seed in range(200):
            p = task.generate(seed, k)
            shares.append(len(sheet.parts_of("#" + task.practice(p, random.Random(seed))[1])) / k)
    assert set(found[1] + found[4]) == {1.0}
    # two of six pairs: 4,800 parts, a standard deviation of 0.007
    assert abs(statistics.mean(found[24]) - 1 / 3) < 0.03
    firsts = [entries(task.practice(task.generate(0, 1), random.Random(seed))[0])["a"][0][0] for seed in range(300)]
    assert len(set(firsts)) == 6 and max(map(firsts.count, firsts)) < 90, "no pair is tried first more often"


@given(st.text(max_size=9), st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from(["01", "59", "?"]))))
def test_parts_of_a_text_are_those_of_its_last_list(junk, pairs):
    told = "".join(map("".join, pairs))
    known = {letter: pair for letter, pair in pairs if pair != "?"}
    assert sheet.parts_of(told) == known, "of a letter that comes twice, the later"
    assert sheet.parts_of(f"a77b88!#{told}$") == known
    assert all(re.fullmatch("[a-z]", letter) and re.fullmatch("[0-9]{2}", pair)
               for letter, pair in sheet.parts_of(junk).items())


@given(levels("sheet"), seeds, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 120)), max_size=4))
def test_united_takes_up_what_the_tails_found(difficulty, seed, cuts):
    """Each tail is a trace of its own, cut at its end by some characters; what any shows as found is tried first."""
    p, task = tasks.get("sheet").generate(seed, difficulty), tasks.get("sheet")
    parts, shown, tails = sheet.parts_asked(p), set(), []
    for chance, gone in cuts:
        reasoning, listed = task.practice(p, random.Random(chance))
        text = f"{reasoning}#{listed}$"
        tails.append(text[: max(1, len(text) - gone)])
        begun, _, end = tails[-1].partition("#")
        shown |= set(re.findall(r"([a-x])(?:\d{3}/)*\d{3}!", begun)) | set(re.findall(r"([a-x])\d\d", end))
    written = sheet.united(p, tails)
    assert written == sheet.united(p, tails) and written.endswith("$")
    reasoning, _, listed = written[:-1].partition("#")
    most = {1: 6, 2: 6, 3: 6, 4: 6, 5: 4, 6: 4, 7: 3, 8: 3}.get(difficulty, 2)
    check_search(parts, reasoning, listed, most)
    tried = entries(reasoning)
    for letter in shown:
        assert len(tried[letter]) == 1 and tried[letter][0][2] == "!", letter


def test_united_tries_what_most_tails_say_and_checks_it():
    p = tasks.get("sheet").generate(0, 1)
    digits = sheet.parts_asked(p)["a"]
    good, = truth_of(digits[:4], digits[4])
    wrong, other = [a + b for a, b in itertools.combinations(digits[:4], 2) if a + b != good][:2]
    reasoning = sheet.united(p, [f"#a{other}$", f"#a{wrong}$", f"#a{wrong}$", "#a?$"]).partition("#")[0]
    pairs = [pair for pair, _, _ in entries(reasoning)["a"]]
    assert pairs[:2] == [wrong, other] and pairs[-1] == good, "two say so, one says so, then the search"
    unasked = "".join(sorted(set("0123456789") - set(digits)))[:2]
    assert unasked not in [pair for pair, _, _ in entries(sheet.united(p, [f"#a{unasked}$"]).partition("#")[0])["a"]]
    assert sheet.united(p, [f"{good}5!#a{good}$"]).startswith(f"a{good}"), "a tail that begins in the middle"
