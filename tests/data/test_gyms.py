"""The adapters to reasoning-gym and RLVE-Gym: fenced against what those packages do.

Small packages of the same shape, written to a temporary folder, stand in for the real ones, so that every fence is
tested everywhere, with misbehaviour on demand. The first tests run the real ones where they are installed:
`pip install -c constraints.txt ".[gyms]"`. They are too big for `make test` (about 350 MB).
"""

import os
import random
import sys
import textwrap

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minizaya.data import gyms, tasks
from minizaya.data.tokenizer import SPECIALS


def everything_random():
    numbers = numpy.random.get_state()
    return (random.getstate(), numbers[1].tolist(), numbers[2:], torch.get_rng_state().tolist(),
            os.environ.get("PYTHONHASHSEED"))


# ---- the real packages, where they are installed ----


def skip_without(package):
    """trap: in another order of the tests the stand-ins below are there already, under the same names."""
    if any("fakes" in place for place in sys.path):
        pytest.skip("the stand-ins are in its place")
    pytest.importorskip(package)


@pytest.mark.parametrize("kind, package, name", [
    ("reasoning_gym", "reasoning_gym", "chain_sum"), ("reasoning_gym", "reasoning_gym", "gcd"),
    ("reasoning_gym", "reasoning_gym", "letter_counting"), ("rlve", "Gym", "Multiplication"),
    ("rlve", "Gym", "Sorting"),
])
def test_the_real_packages(kind, package, name):
    skip_without(package)
    before = everything_random()
    gym = getattr(gyms, kind)(name)
    for seed in range(5):
        problem = gym.generate(seed, 2)
        assert gym.generate(seed, 2) == problem and problem.answer
        assert gym.verify(problem, problem.text) == 1
        for bad in ("", "#the answer is " + problem.answer, "#no idea$", problem.prompt, "#" + "9" * 5000):
            assert gym.verify(problem, bad) == 0, bad
    assert everything_random() == before


@pytest.mark.parametrize("kind, package, name", [
    ("reasoning_gym", "reasoning_gym", "countdown"), ("reasoning_gym", "reasoning_gym", "spiral_matrix"),
    ("rlve", "Gym", "CountdownEqual"), ("rlve", "Gym", "Integral"),
])
def test_real_scorers_that_evaluate_text_are_refused(kind, package, name):
    skip_without(package)
    with pytest.raises(ValueError, match="evaluates no text"):
        getattr(gyms, kind)(name)


# ---- stand-ins ----

FAKES = {
    "Gym/__init__.py": "",
    "Gym/environments.py": """
        import os, random
        import numpy, torch
        from Gym.evaluating import Evaluating

        random.random()  # an import may draw, too


        class Sum:
            def generator(self, seed, parameter, timeout_second=10):
                assert 0 <= seed < 2**32 and timeout_second is None  # a limit would leave a thread behind
                random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
                os.environ["PYTHONHASHSEED"] = str(seed)
                if parameter["digits"] == 4:
                    return False
                if parameter["digits"] == 3 and random.random() < 0.2:
                    return False  # now and then a seed fails
                a = random.randrange(10 ** parameter["digits"])
                b = 1 + int(numpy.random.randint(10)) + int(torch.randint(10, ()))
                self.parameter = dict(parameter, a=a, b=b, reference_answer=a + b)
                return True

            def prompt_generator(self):
                return f"{self.parameter['a']} + {self.parameter['b']}"

            def get_config(self):
                return {"parameter": self.parameter}

            def set_config(self, config):
                self.parameter = config["parameter"]

            def score(self, output):
                answer = int(output.split("<answer>")[-1].split("</answer>")[0])
                right = self.parameter.pop("reference_answer")  # a scorer may spoil what it is given
                return 1.0 if answer == right else 0.99 if abs(answer - right) == 1 else -1.0

            def verifier(self, output):
                random.random(), numpy.random.random(), torch.rand(3)
                reward = self.score(output)
                return {"reward": reward, "accuracy": int(reward >= 1), "format_score": 1}


        class Silent(Sum):
            def generator(self, seed, parameter, timeout_second=10):
                self.parameter = {}
                return True

            def prompt_generator(self):
                return "guess"

            def verifier(self, output):
                return {"reward": 1.0, "accuracy": "yes" in output or "<answer></answer>" in output}


        identifier2environment = {"Sum": Sum, "Silent": Silent, "Evaluating": Evaluating}
    """,
    "Gym/evaluating.py": """
        class Evaluating:
            def verifier(self, output):
                return {"accuracy": eval(output)}
    """,
    "Gym/parameter_controllers.py": """
        class Controller:
            digits = 1

            def update(self):
                self.digits += 1

            def get_parameter_list(self):
                return [{"digits": self.digits}]


        identifier2controller = dict.fromkeys(["Sum", "Silent", "Evaluating"], Controller)
    """,
    "reasoning_gym/__init__.py": "",
    "reasoning_gym/dataset.py": """
        class ProceduralDataset:
            def score_answer(self, answer, entry):
                if answer == entry["answer"]:
                    return 1.0
                return len(entry["answer"]) / len(answer) if entry["answer"] in answer else 0.0
    """,
    "reasoning_gym/factory.py": """
        import random
        from reasoning_gym.dataset import ProceduralDataset
        from reasoning_gym.strict import Evaluating


        class Shout(ProceduralDataset):
            suffix = ""

            def __init__(self, seed, size, length=3, suffix=""):
                assert length < 9, "too long"
                self.seed, self.length, self.suffix = seed, length, suffix

            def __getitem__(self, i):
                random.seed(self.seed)
                word = "".join(random.choices("abcdefgh", k=self.length))
                return {"question": word, "answer": word.upper() + self.suffix, "metadata": {}}


        class Anything(Shout):
            def score_answer(self, answer, entry):
                return 1.0


        class Odd(Shout):
            def score_answer(self, answer, entry):
                if answer == "raise":
                    raise RecursionError
                scores = {"none": None, "nan": float("nan"), "two": 2.0, "text": "1.0x"}
                return scores.get(answer, 1.0 * (answer == entry.pop("answer")))    # spoils what it is given


        class Heir(Evaluating):
            pass


        class Attribute:
            name, levels = "length", [2, 4, 6, 9]


        class Curriculum:
            def __init__(self):
                self.attributes = {"length": Attribute()}

            def set_attr_level(self, name, level):
                self.level = level

            def generate_configuration(self):
                config = Attribute()
                config.length = Attribute.levels[self.level]
                return config


        DATASETS = {"shout": (Shout, dict), "anything": (Anything, dict), "odd": (Odd, dict),
                    "evaluating": (Evaluating, dict), "bare": (Shout, dict), "heir": (Heir, dict)}


        def has_curriculum(name):
            return name in ("shout", "bare")


        def create_curriculum(name):
            made = Curriculum()
            if name == "bare":
                made.attributes = {}
            return made


        def create_dataset(name, **config):
            return DATASETS[name][0](**config)
    """,
    "reasoning_gym/strict.py": """
        from reasoning_gym.dataset import ProceduralDataset


        class Evaluating(ProceduralDataset):
            def score_answer(self, answer, entry):
                return float(eval(answer) == 3)
    """,
}


def remove_gyms():
    for module in [name for name in sys.modules if name.split(".")[0] in ("Gym", "reasoning_gym")]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fakes")
    for name, source in FAKES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(textwrap.dedent(source), encoding="utf-8")
    remove_gyms()
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    remove_gyms()


FAKE_GYMS = [("rlve", "Sum", 3), ("reasoning_gym", "shout", 3), ("reasoning_gym", "odd", 1)]


@pytest.mark.parametrize("kind, name, top", FAKE_GYMS)
@pytest.mark.parametrize("hash_seed", [None, "7"])
def test_no_random_number_generator_moves(fakes, monkeypatch, kind, name, top, hash_seed):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if hash_seed:
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
    remove_gyms()
    before = everything_random()
    gym = getattr(gyms, kind)(name)
    assert everything_random() == before
    for seed in range(5):
        problem = gym.generate(seed, 1 + seed % top)
        gym.verify(problem, problem.text), gym.verify(problem, "junk")
        assert everything_random() == before


@pytest.mark.parametrize("kind, name, top", FAKE_GYMS)
@given(st.integers(-(2**70), 2**70), st.data())
def test_problems_are_deterministic_and_accept_their_answer(fakes, kind, name, top, seed, data):
    gym = getattr(gyms, kind)(name)
    difficulty = data.draw(st.integers(1, top))
    problem = gym.generate(seed, difficulty)
    random.seed(seed), gym.generate(seed + 1, 1)
    assert gym.generate(seed, difficulty) == problem
    assert (problem.task, problem.difficulty, problem.reasoning) == (f"{kind}/{name}", difficulty, "#")
    for good in (problem.answer, problem.completion, problem.text, f"#0${problem.completion}",
                 f"<think>hm #7$</think>{problem.answer}",
                 f"{problem.completion}<|im_end|>", f" {problem.answer}\n"):
        assert gym.verify(problem, good) == 1, good
        assert gym.verify(problem, good) == 1, "judging changes nothing"
    for bad in ("", "#", "$", problem.prompt, f"{problem.completion}#0$", f"{problem.answer}{problem.answer}",
                "#" + "1" * 20_000):
        assert gym.verify(problem, bad) == 0, bad


@pytest.mark.parametrize("kind, name, top", FAKE_GYMS)
@given(text=st.one_of(
    st.text(), st.lists(st.sampled_from([*SPECIALS, "#", "$", "<answer>", "</answer>", "7", " ", "-"])).map("".join)
))
def test_verify_never_raises(fakes, kind, name, top, text):
    gym = getattr(gyms, kind)(name)
    assert gym.verify(gym.generate(0, 1), text) in (0, 1)


def test_partial_credit_is_no_credit(fakes):
    shout = gyms.reasoning_gym("shout")
    problem = shout.generate(1, 3)
    assert shout.verify(problem, f"#{problem.answer}$") == 1
    assert shout.verify(problem, f"#the answer is {problem.answer}$") == 0  # the gym's score is about 0.3
    total = gyms.rlve("Sum")
    problem = total.generate(1, 2)
    assert total.verify(problem, str(int(problem.answer) + 1)) == 0  # reward 0.99
    assert total.verify(problem, str(int(problem.answer) + 9)) == 0  # reward -1
    assert total.verify(problem, f"so <answer>{problem.answer}</answer>") == 1  # the form RLVE's prompts ask for


@pytest.mark.parametrize("answer", ["raise", "none", "nan", "two", "text"])
def test_strange_scores_are_wrong(fakes, answer):
    odd = gyms.reasoning_gym("odd")
    assert odd.verify(odd.generate(0, 1), f"#{answer}$") == 0


def test_difficulty_turns_the_gym_s_own_dial(fakes):
    shout = gyms.reasoning_gym("shout")
    assert shout.max_difficulty == 4
    assert [len(shout.generate(0, d).prompt) for d in (1, 2, 3)] == [2, 4, 6]
    assert len(gyms.reasoning_gym("shout", length=5).generate(0, 1).prompt) == 5
    bare = gyms.reasoning_gym("bare")      # its curriculum has nothing to set
    assert bare.max_difficulty == 1 and len(bare.generate(0, 1).prompt) == 3
    total = gyms.rlve("Sum", max_difficulty=3)
    largest = [max(int(total.generate(seed, d).prompt.split(" ")[0]) for seed in range(60)) for d in (1, 2, 3)]
    assert largest[0] < 10 <= largest[1] < 100 <= largest[2]


def test_where_the_gym_shows_no_answer_there_is_none(fakes):
    silent = gyms.rlve("Silent")
    problem = silent.generate(0, 1)
    assert problem.answer == "" and silent.verify(problem, problem.text) == 0 and silent.verify(problem, "#yes$") == 1
    assert [silent.verify(problem, empty) for empty in ("", "#", "#$", "# $")] == [0] * 4
    assert [silent.verify(problem, f"#yes{'!' * more}$") for more in (9_997, 9_998)] == [1, 0]


def test_a_gym_works_as_one_of_our_tasks(fakes, monkeypatch):
    total = gyms.rlve("Sum")
    monkeypatch.setitem(tasks.TASKS, total.name, total)
    held_out = tasks.problems("rlve/Sum", "held_out", 3, 5, seed=0)
    assert len(held_out) == 5 and all(tasks.split(p) == "held_out" for p in held_out)


@pytest.mark.parametrize("bad, message", [
    (lambda: gyms.rlve("Sums"), "Silent"),
    (lambda: gyms.reasoning_gym("shouts"), "shout"),
    (lambda: gyms.rlve("Evaluating"), r"evaluates no text; Evaluating has eval\("),
    (lambda: gyms.reasoning_gym("evaluating"), r"evaluates no text; evaluating has eval\("),
    (lambda: gyms.reasoning_gym("heir"), r"evaluates no text; heir has eval\("),
    (lambda: gyms.reasoning_gym("anything").generate(0, 1), "full marks to"),
    (lambda: gyms.reasoning_gym("shout", suffix="#").generate(0, 1), "must not hold '#'"),
    (lambda: gyms.reasoning_gym("shout", suffix="$").generate(0, 1), "must not hold '#'"),
    (lambda: gyms.reasoning_gym("shout").generate(0, 4), "no problem at 4: too long"),
    (lambda: gyms.rlve("Sum").generate(0, 4), "no problem at 4: its generator failed on 8 seeds"),
    (lambda: gyms.rlve("Sum").generate(0, 11), "1 to 10"),
    (lambda: gyms.rlve("Sum").generate(0, 0), "difficulty"),
    (lambda: gyms.rlve("Sum").verify(gyms.rlve("Silent").generate(0, 1), ""), "rlve/Silent"),
])
def test_errors_are_clear(fakes, bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


@pytest.mark.parametrize("kind, package", [("rlve", "Gym"), ("reasoning_gym", "reasoning_gym")])
def test_a_missing_package_says_what_to_install(monkeypatch, kind, package):
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # Python's way to say "not installed"
    with pytest.raises(ImportError, match=r'pip install "minizaya\[gyms\]"'):
        getattr(gyms, kind)("any")


@pytest.mark.parametrize("text, answer", [("7", "7"), (" 7 $ 8", "7"), ("1#2 # 3 <|im_end|>", "3"),
                                          ("a</think> b\n", "b"), ("1#2</think>\n7 $", "7"), ("", ""), ("$", "")])
def test_the_last_answer_of_a_text(text, answer):
    assert gyms.last_answer(text) == answer
