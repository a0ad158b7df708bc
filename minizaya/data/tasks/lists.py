"""Tasks with lists: parity, copying, reversing, sorting."""

from random import Random

from .task import Task, label


class Parity(Task):
    """Is the number of ones even (0) or odd (1)? Over `difficulty` + 1 groups of three bits.

    `Pa011b110c100?`: the reasoning takes the groups one by one, each with the parity before it, and ends with the
    last parity: `a0011b0110c0100d1`.
    """

    name = "parity"
    max_difficulty = 20
    form = r"[0-9]{1,9}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        prompt, reasoning, parity = "P", "", 0
        for i in range(difficulty + 1):
            bits = "".join(rng.choices("01", k=3))
            prompt += f"{label(i)}{bits}"
            reasoning += f"{label(i)}{parity}{bits}"
            parity = (parity + bits.count("1")) % 2
        return prompt + "?", f"{reasoning}{label(difficulty + 1)}{parity}", str(parity)


class Copy(Task):
    """Say `difficulty` + 1 digits again.

    `Ca5b2c7?`: every digit has a letter, so that it can be found by its letter. The reasoning says both,
    `a5b2c7`; the answer only the digits, 527.
    """

    name = "copy"
    max_difficulty = 25
    form = r"[0-9]{1,40}"
    capital, step = "C", 1

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        items = [f"{label(i)}{rng.randrange(10)}" for i in range(difficulty + 1)]
        ordered = items[:: self.step]
        return f"{self.capital}{''.join(items)}?", "".join(ordered), "".join(item[1] for item in ordered)


class Reverse(Copy):
    """Say `difficulty` + 1 digits backwards: `Ra5b2c7?`, `c7b2a5`, 725."""

    name = "reverse"
    capital, step = "R", -1


class Sorting(Task):
    """Put `difficulty` + 1 different letters in alphabetical order.

    `Sqhzb?`: insertion sort. Each step names the next letter of the prompt, then the sorted list with that letter in
    it: `q:q,h:hq,z:hqz,b:bhqz`. As no letter comes twice, "what follows this letter" always has one answer. The
    reasoning grows with the square of the length.
    """

    name = "sorting"
    max_difficulty = 15
    form = r"[0-9a-zA-Z]{1,40}"

    def make(self, rng: Random, difficulty: int) -> tuple[str, str, str]:
        letters = rng.sample("abcdefghijklmnopqrstuvwxyz", difficulty + 1)
        done = ["".join(sorted(letters[: i + 1])) for i in range(len(letters))]
        steps = [f"{letter}:{so_far}" for letter, so_far in zip(letters, done)]
        return f"S{''.join(letters)}?", ",".join(steps), done[-1]
