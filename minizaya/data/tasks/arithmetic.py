"""Tasks with numbers: addition, chains of operations modulo a number, conversion to another base."""

from random import Random

from .chain import run, trace
from .task import Problem, Task, label


class Addition(Task):
    """Add two numbers of `difficulty` digits, column by column from the right, as on paper.

    `47+85?`: column a is carry 0, digits 7 and 5, sum digit 2 -> `a0752`; column b is carry 1, digits 4 and
    8, sum digit 3 -> `b1483`; then the last carry -> `c1`. The answer reads the sum digits backwards.
    Both numbers are written with leading zeros (`007+120?`); the answer is not, and may be read either way.
    """

    name = "addition"
    max_difficulty = 20
    form = r"[0-9]{1,40}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        x, y = ("".join(rng.choices("0123456789", k=difficulty)) for _ in range(2))
        steps, carry = [], 0
        for i, (p, q) in enumerate(zip(reversed(x), reversed(y))):
            total = int(p) + int(q) + carry
            steps.append(f"{label(i)}{carry}{p}{q}{total % 10}")
            carry = total // 10
        steps.append(f"{label(difficulty)}{carry}")
        return f"{x}+{y}?", "".join(steps), str(int(x) + int(y))

    def check(self, problem: Problem, answer: str) -> bool:
        return int(answer) == int(problem.answer)


class ModChain(Task):
    """Follow `difficulty` operations modulo `modulus`.

    `7a+3b*3c-2?`: start at 7; operation a is "plus 3", b is "times 3", c is "minus 2". The reasoning takes
    the operations one by one, each with the value it starts from: `a7+3b0*3c0-2d8`. So copying an operation
    (find the same letter in the prompt) and working it out (all it needs stands side by side) are two
    separate, easy steps. Values have a fixed width: two digits for a modulus of 11 to 100.

    The factors 3, 7 and 9 have inverses modulo 10 and 100: a wrong value stays wrong to the end, and no
    answer is much likelier than another.
    """

    name = "modchain"
    max_difficulty = 25
    form = r"[0-9]{1,9}"

    def __init__(self, modulus: int = 10):
        if not 2 <= modulus <= 100:
            raise ValueError(f"modulus must be in 2 to 100, got {modulus}")
        self.modulus = modulus
        self.width = len(str(modulus - 1))

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        start, chain = rng.randrange(self.modulus), ""
        for i in range(difficulty):
            sign = rng.choice("+-*")
            number = rng.choice((3, 7, 9)) if sign == "*" else rng.randint(1, 9)
            chain += f"{label(i)}{sign}{number}"
        start, end = (f"{value:0{self.width}d}" for value in (start, run(chain, start, self.modulus)[-1]))
        return f"{start}{chain}?", trace(chain, int(start), self.modulus), end

    def check(self, problem: Problem, answer: str) -> bool:
        return int(answer) == int(problem.answer)


class Chain100(ModChain):
    """`ModChain` modulo 100: each step is a little harder, so long chains go wrong now and then.

    Its prompts begin with a capital M: `M17a*3b-2?`, worked as `a17*3b51-2c49`.
    """

    name = "chain100"

    def __init__(self):
        super().__init__(100)

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        prompt, reasoning, answer = super().make(rng, difficulty)
        return f"M{prompt}", reasoning, answer


class BaseConversion(Task):
    """Write a decimal number in base 2 to 9. The answer has `difficulty` + 1 digits.

    `B173>6?`: divide by 6 again and again; the remainders, read backwards, are the answer. Each division is a row,
    made digit by digit from the left as on paper: remainder so far, digit, quotient digit. 173/6 is row a: `010`
    (1 holds no 6), `172` (17 holds two, 5 remain), `538` (53 holds eight), and the last remainder after "r":
    `a010172538r5`. Row b divides the quotient 028, and so on until the quotient is zero: its remainders 5, 4, 4
    give 445. All rows of a problem are equally wide. Leading zeros do not make an answer wrong.
    """

    name = "base"
    max_difficulty = 10
    form = r"[0-9]{1,40}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        base = rng.randint(2, 9)
        number = rng.randrange(base**difficulty, base ** (difficulty + 1))
        digits, rows, answer = [int(digit) for digit in str(number)], "", ""
        for i in range(difficulty + 1):
            rows += label(i)
            remainder, quotient = 0, []
            for digit in digits:
                value = 10 * remainder + digit
                quotient.append(value // base)
                rows += f"{remainder}{digit}{value // base}"
                remainder = value % base
            rows += f"r{remainder}"
            answer = f"{remainder}{answer}"
            digits = quotient
        return f"B{number}>{base}?", rows, answer

    def check(self, problem: Problem, answer: str) -> bool:
        return int(answer) == int(problem.answer)
