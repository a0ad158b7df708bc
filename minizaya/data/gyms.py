"""Problems of two public collections behind our interface: reasoning-gym, and RLVE-Gym (arXiv 2511.07317).

    chain = gyms.reasoning_gym("chain_sum")
    problem = chain.generate(seed=0, difficulty=2)
    chain.verify(problem, "#-7$")                      # 0 or 1

Both come with the extra `gyms` (`pip install "minizaya[gyms]"`, about 350 MB). Their prompts are English, and there is
no worked reasoning. To mix such a task with ours, put it in the table: `tasks.TASKS[chain.name] = chain`.

They are fenced, because of what we met in them:

- trap: RLVE seeds the random numbers of Python, numpy and torch, and sets PYTHONHASHSEED, each time it makes a problem.
  A training run around it would draw the same numbers again and again. Here all are put back.
- trap: partial credit. reasoning-gym gives a little for "the answer is 3" where 3 is right, and almost full marks for
  some wrong grids. RLVE's rewards go from -1 to 1. Here an answer is right or not: a score of exactly 1, or RLVE's own
  `accuracy`. Where nonsense gets full marks (game_of_life_halting), there is an error.
- trap: some scorers hand the answer to Python's `eval`, or to sympy's parser, which is `eval` too. A model under
  training could then run any code. Such a name is refused, by the source of its module: a few harmless ones with it.
- trap: RLVE abandons a slow generation in a thread that goes on drawing random numbers, and what is slow depends on the
  machine. Here there is no such limit: a high difficulty may take long.

The fence is ours and inside this process: another process would keep random numbers apart, too, but every scored answer
would travel to it and back, and an `eval` in it could still do whatever this user may.

What is not fenced: the time that a foreign generator or scorer takes; random numbers that another thread draws
meanwhile; and three data sets of reasoning-gym 0.1.25 (isomorphic_strings, ransom_note, word_ladder) that loop over
sets of strings, so that their problems change with every process unless PYTHONHASHSEED is set.
"""

import hashlib
import importlib
import inspect
import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import numpy
import torch

from .tasks.task import CUE, END, Problem, check_difficulty, check_task

MAX_LENGTH = 10_000  # characters of an answer that a scorer gets to see
NONSENSE = "no such answer"
ATTEMPTS = 8  # seeds that RLVE may fail on before we give up
EVALUATES = re.compile(r"\b(eval|exec|sympify|parse_expr)\(")


@dataclass(frozen=True)
class GymProblem(Problem):
    """A problem with what its gym needs to judge an answer. `answer` is "" where the gym shows none it accepts."""

    data: dict = field(compare=False, repr=False)


class Gym:
    """The interface of a task (`name`, `max_difficulty`, `generate`, `verify`); the two gyms fill in the rest."""

    name = ""
    max_difficulty = 0

    def make(self, seed: int, difficulty: int) -> tuple[str, str, dict]:
        """(prompt, answer, data) from a seed of 32 bits."""
        raise NotImplementedError

    def right(self, data: dict, answer: str) -> bool:
        """Does the gym give this answer full marks? May raise: then it does not."""
        raise NotImplementedError

    def generate(self, seed: int, difficulty: int) -> GymProblem:
        """Problem number `seed`, the same whatever was generated before.

        Raises ValueError for a difficulty outside 1 .. max_difficulty, for a gym that makes no problem or accepts
        nonsense, and for an answer that holds "#" or "$", which end the reasoning and the answer here.
        """
        check_difficulty(self, difficulty)
        digest = hashlib.sha256(f"{self.name}/{difficulty}/{seed}".encode()).digest()
        with random_numbers_kept():
            try:
                prompt, answer, data = self.make(int.from_bytes(digest[:4], "big"), difficulty)
            except Exception as error:  # some curricula reach settings that their own generators refuse
                raise ValueError(f"difficulty: {self.name} made no problem at {difficulty}: {error}") from error
        if CUE in answer or END in answer:
            raise ValueError(f"seed: the answer of {self.name} must not hold {CUE!r} or {END!r}, got {answer[:80]!r}")
        problem = GymProblem(prompt, CUE, answer, self.name, difficulty, data)
        if self.verify(problem, NONSENSE):
            raise ValueError(f"seed: {self.name} gives full marks to the answer {NONSENSE!r}")
        if not self.verify(problem, problem.completion):
            problem = GymProblem(prompt, CUE, "", self.name, difficulty, data)
        return problem

    def verify(self, problem: GymProblem, text: str) -> int:
        """1 if the last answer in `text` gets full marks from the gym, else 0. Never raises on any text.

        The answer is read as `tasks.Task.verify` does, except that it may have any form; more than 10,000 characters
        are wrong unread. Raises ValueError for a problem of another task.
        """
        check_task(self, problem)
        answer = last_answer(text)
        if not 0 < len(answer) <= MAX_LENGTH:
            return 0
        with random_numbers_kept():
            try:
                return int(self.right(problem.data, answer))
            except Exception:  # a foreign scorer may raise anything on text that its author did not think of
                return 0


class ReasoningGym(Gym):
    def __init__(self, name: str, config: dict):
        factory = _import("reasoning_gym.factory")
        if name not in factory.DATASETS:
            raise ValueError(f"name must be one of {sorted(factory.DATASETS)}, got {name!r}")
        dataset = factory.DATASETS[name][0]
        if dataset.score_answer is not _import("reasoning_gym.dataset").ProceduralDataset.score_answer:
            _refuse_evaluators(name, dataset)  # the common scorer only compares strings
        self.name, self.config, self.dataset = f"reasoning_gym/{name}", config, name
        self.factory, self.max_difficulty = factory, 1
        if factory.has_curriculum(name):
            levels = [len(a.levels) for a in factory.create_curriculum(name).attributes.values()]
            self.max_difficulty = max(levels, default=1)

    def _create(self, seed: int, difficulty: int):
        settings = {}
        if self.max_difficulty > 1:
            curriculum = self.factory.create_curriculum(self.dataset)
            for attribute in curriculum.attributes.values():
                curriculum.set_attr_level(attribute.name, min(difficulty, len(attribute.levels)) - 1)
            settings = vars(curriculum.generate_configuration())
        return self.factory.create_dataset(self.dataset, **{**settings, **self.config, "seed": seed, "size": 1})

    def make(self, seed: int, difficulty: int) -> tuple[str, str, dict]:
        dataset = self._create(seed, difficulty)
        entry = dataset[0]
        return str(entry["question"]), str(entry["answer"]), {"dataset": dataset, "entry": entry}

    def right(self, data: dict, answer: str) -> bool:
        return float(data["dataset"].score_answer(answer, deepcopy(data["entry"]))) == 1.0


class RLVE(Gym):
    def __init__(self, name: str, max_difficulty: int):
        environments = _import("Gym.environments").identifier2environment
        if name not in environments:
            raise ValueError(f"name must be one of {sorted(environments)}, got {name!r}")
        _refuse_evaluators(name, environments[name])
        self.name, self.max_difficulty = f"rlve/{name}", max_difficulty
        self.environment = environments[name]
        self.controller = _import("Gym.parameter_controllers").identifier2controller[name]

    def make(self, seed: int, difficulty: int) -> tuple[str, str, dict]:
        controller = self.controller()
        for _ in range(difficulty - 1):
            controller.update()
        parameter = random.Random(seed).choice(controller.get_parameter_list())
        for attempt in range(ATTEMPTS):
            environment = self.environment()
            if environment.generator((seed + attempt) % 2**32, parameter, timeout_second=None):
                answer = environment.parameter.get("reference_answer", "")
                return environment.prompt_generator(), str(answer), environment.get_config()
        raise ValueError(f"its generator failed on {ATTEMPTS} seeds")

    def right(self, data: dict, answer: str) -> bool:
        environment = self.environment()
        environment.set_config(deepcopy(data))
        marked = answer if "</answer>" in answer else f"<answer>{answer}</answer>"
        return environment.verifier(marked)["accuracy"] == 1


def reasoning_gym(name: str, **config) -> Gym:
    """The reasoning-gym dataset `name`; `config` goes to it and wins over the difficulty.

    Difficulty d sets every attribute of its curriculum to level d, or to its last; without a curriculum there is only
    difficulty 1. Raises ImportError where reasoning-gym is missing; ValueError for an unknown or refused name.
    """
    with random_numbers_kept():
        return ReasoningGym(name, config)


def rlve(name: str, max_difficulty: int = 10) -> Gym:
    """The RLVE environment `name`; difficulty d is its parameter controller after d - 1 updates.

    Raises ImportError where rlve-gym is missing; ValueError for an unknown or refused name.
    """
    with random_numbers_kept():
        return RLVE(name, max_difficulty)


def last_answer(text: str) -> str:
    """What stands after the last "#" or "</think>" (or from the beginning), up to "$", "<|" or the end."""
    for mark in (CUE, "</think>"):
        text = text.rpartition(mark)[2]
    return re.split(r"\$|<\|", text, maxsplit=1)[0].strip()


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Puts back, at the end, the random number generators of Python, numpy and torch, and PYTHONHASHSEED."""
    python, numbers, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    hash_seed = os.environ.get("PYTHONHASHSEED")
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        os.environ.pop("PYTHONHASHSEED", None)
        if hash_seed is not None:
            os.environ["PYTHONHASHSEED"] = hash_seed


def _import(module: str):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{module} needs the extra "gyms": pip install "minizaya[gyms]" ({error})') from error


def _refuse_evaluators(name: str, kind: type) -> None:
    """Raises ValueError if a module that defines `kind`, or a class it inherits from, evaluates text."""
    for parent in kind.__mro__:
        module = parent.__module__
        if module.split(".")[0] in ("reasoning_gym", "Gym"):
            found = EVALUATES.search(inspect.getsource(sys.modules[module]))
            if found:
                raise ValueError(f"name must be one whose scorer evaluates no text; {name} has {found[0]}...)")
