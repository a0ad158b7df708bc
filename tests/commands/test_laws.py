"""The command `laws`: the list, and a function from outside judged from the shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import minizaya.__main__ as cli
from minizaya import laws

ROOT = Path(__file__).resolve().parents[2]
ROUTER = """
import torch

def route(probs, bias):
    routes = (probs.float() + bias).argmax(-1)
    return routes, probs.gather(-1, routes[..., None])[..., 0]

def leaks(probs, bias):
    scores = probs + bias
    return scores.argmax(-1), scores.amax(-1)

def stub(probs, bias):
    raise NotImplementedError

def arrays(probs, bias):
    routes = (probs.astype("float32") + bias).argmax(-1)
    return routes, __import__("numpy").take_along_axis(probs, routes[..., None], -1)[..., 0]

class Layer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()

class Norm(torch.nn.Module):
    def forward(self, q, k):
        return q, k

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `mypkg` in the folder that the command is called in."""
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "router.py").write_text(ROUTER)
    (tmp_path / "mypkg" / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_every_law_is_listed_with_what_it_takes_and_catches(capsys):
    assert cli.main(["laws"]) == 0
    out = capsys.readouterr().out
    for law in laws.all():
        assert f"\n  {law.name}: {law.statement}\n" in out
    assert "choose(probs, bias)\n    fn(probs, bias): probs float (b, t, E + 1), the skip route last;" in out
    assert f"{len(laws.all())} laws;" in out
    assert cli.main(["laws", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["law"] for row in rows] == [law.name for law in laws.all()]
    (gate,) = [row for row in rows if row["law"] == "router.unbiased_gate"]
    assert gate["component"] == "router" and gate["protocol"] == "choose" and gate["arguments"] == ["probs", "bias"]
    assert "probs float (b, t, E + 1)" in gate["signature"] and gate["tested_on"]["bugs"][0]["why"]


@pytest.mark.parametrize("name, count", [("pack", len(laws.all("pack"))), ("choose", 5), ("cca.rope", 1)])
def test_a_part_is_listed(name, count, capsys):
    assert cli.main(["laws", name]) == 0
    assert f"{count} laws;" in capsys.readouterr().out


def test_a_function_is_judged(package, capsys):
    assert cli.main(["laws", "router", "--run", "mypkg.router:route"]) == 0
    assert "5 of 5 laws hold for mypkg.router:route" in capsys.readouterr().out
    assert cli.main(["laws", "router", "--run", "mypkg.router:leaks"]) == 1
    out = capsys.readouterr().out
    assert "✘ router.unbiased_gate: the gate is the chosen expert's own probability, whatever the bias\n  with" in out
    assert cli.main(["laws", "choose", "--run", "mypkg.router:stub"]) == 1
    assert "○ router.biased_choice: " in capsys.readouterr().out
    assert cli.main(["laws", "cca", "--run", "mypkg.router:Norm"]) == 1     # a module, made here, by its forward
    assert "✘ cca.qk_mean: " in capsys.readouterr().out


def test_verdicts_as_one_document(package, capsys):
    assert cli.main(["laws", "router.unbiased_gate", "--run", "mypkg.router:leaks", "--seed", "3", "--examples", "9",
                     "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (row,) = found["laws"]
    assert found["function"] == "mypkg.router:leaks" and found["passed"] is row["passed"] is False
    assert row["outcome"] == "broken" and row["seed"] == 3 and row["message"].startswith("with probs = ")
    bias = row["case"]["bias"]
    assert row["case"]["probs"]["dtype"] == "float64" and [len(bias["values"])] == bias["shape"]


def test_what_a_law_cannot_judge_is_said_and_not_held_against_the_function(package, capsys):
    assert cli.main(["laws", "router", "--run", "mypkg.router:arrays", "--numpy"]) == 0
    out = capsys.readouterr().out
    assert "– router.bias_no_gradient: " in out and "4 of 5 laws hold" in out
    assert cli.main(["laws", "router.bias_no_gradient", "--run", "mypkg.router:arrays", "--numpy"]) == 2
    assert "no law of router.bias_no_gradient can judge mypkg.router:arrays" in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [
    ("router --run mypkg.router:rout", "mypkg.router has no 'rout'; did you mean route?"),
    ("router --run mypkg.router", "a target is written package.module:function, got 'mypkg.router'"),
    ("router --run mypkg.nothing:route", "importing mypkg.nothing raised ModuleNotFoundError"),
    ("router --run mypkg.broken:route", "importing mypkg.broken raised ZeroDivisionError: division by zero"),
    ("router --run mypkg.router:number", "mypkg.router:number is a int, not a function"),
    ("router --run mypkg.router:Layer", "mypkg.router:Layer needs arguments"),
    ("rooter --run mypkg.router:route", "no law, component or protocol is called 'rooter'"),
    ("rooter", "no protocol is called 'rooter'; there are value_shift"),
    ("router.bias", "no law is called 'router.bias'; did you mean"),
    ("cca --run mypkg.router:route", "cca has several kinds of functions"),
    ("--run mypkg.router:route", "name what to judge the function by"),
    ("pack --run mypkg.router:route --examples 0", "examples must be"),
], ids=str)
def test_wrong_words_are_one_clear_line(words, said, package, capsys):
    assert cli.main(["laws", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_the_folder_it_is_called_in_is_searched(package):
    """The console script does not have it in its path, `python -m` has."""
    code = "import sys; sys.path[0] = sys.argv[1]; from minizaya.__main__ import main; sys.exit(main(sys.argv[2:]))"
    words = ["laws", "choose", "--run", "mypkg.router:route", "--examples", "2"]
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "5 of 5" in done.stdout, done.stderr
