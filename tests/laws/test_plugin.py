"""The pytest plugin, in suites of its own: what runs, what fails and how, what it costs who does not use it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = """
import torch
from torch import nn

class Attention(nn.Module):
    def forward(self, q, k, v, mask=None):
        group = q.shape[2] // k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k.repeat(1, 1, group, 1), v.repeat(1, 1, group, 1)))
        causal = mask is None and q.shape[2] > 1
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2)
"""
SUITE = """
import pytest
import minizaya as mz

@mz.laws.holds("router.biased_choice", "router.unbiased_gate", examples=5)
def route(probs, bias):
    scores = probs + bias
    return scores.argmax(-1), scores.amax(-1)

@mz.laws.holds("pack.best_fit", "pack.fits")
@pytest.fixture(params=["one", "many"])
def packer(request):
    return mz.pack if request.param == "many" else lambda lengths, capacity: [[i] for i in range(len(lengths))]

@pytest.fixture(name="packs")
@mz.laws.holds("pack")
def named_otherwise():
    return mz.pack

class TestInside:
    @mz.laws.holds("pack.fits", "router.bias_no_gradient", examples=3)
    @pytest.fixture
    def inner(self):
        return mz.laws.adapt.numpy(lambda lengths, capacity: mz.pack(lengths, capacity))

    @staticmethod
    @mz.laws.holds("pack.fits")
    def static(lengths, capacity):
        raise NotImplementedError

the_same = route     # under a second name it is not tested twice

@pytest.mark.xfail
@mz.laws.holds("pack.few")
def alone(lengths, capacity):
    return [[i] for i in range(len(lengths))]

def test_of_another_kind():
    pass
"""
PROFILE = """
from hypothesis import settings
settings.register_profile("mine", max_examples=7, derandomize=False)
settings.load_profile("mine")
"""
COUNTED = """
import minizaya as mz
calls = []

@mz.laws.holds("pack.fits")
def packer(lengths, capacity):
    calls.append(list(lengths))
    return mz.pack(lengths, capacity)

@mz.laws.holds("pack.fits", examples=3)
def fewer(lengths, capacity):
    return [list(range(len(lengths)))]

def test_the_profile_said_how_many():
    assert len(calls) == 7
"""
IDLE = """
import sys

def test_nothing_heavy_was_imported():
    assert "minizaya.pytest_plugin" in sys.modules
    assert not {"torch", "hypothesis", "numpy", "minizaya.laws"} & set(sys.modules)
"""


def run(folder, files, *words, plugins=("minizaya.pytest_plugin", "_hypothesis_pytestplugin")):
    """Exit code, {test: outcome} and output of a suite that lies in `folder`; warnings are errors there, too."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-v", "-W", "error", "-p", "no:cacheprovider",
               *(word for plugin in plugins for word in ("-p", plugin)), *words]
    path = os.pathsep.join([str(ROOT), str(folder)])
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {
        "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "CI": ""})
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("%]") and "::" in line]
    return done.returncode, {row[0]: row[1] for row in rows}, done.stdout + done.stderr


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return run(tmp_path_factory.mktemp("suite"), {"test_mine.py": SUITE, "mypkg/attention.py": PACKAGE},
               "--laws", "mypkg.attention:Attention=cca", "--laws", "minizaya:pack=pack.few", "--color=no")


def test_each_law_is_a_test_of_its_own(suite):
    code, found, out = suite
    mine = {name.removeprefix("test_mine.py::"): outcome for name, outcome in found.items() if name[:5] == "test_"}
    pack = ("each_once", "fits", "best_fit", "names", "few")
    assert code == 1 and mine == {
        "laws_of_route[router.biased_choice]": "PASSED", "laws_of_route[router.unbiased_gate]": "FAILED",
        "laws_of_packer[one-pack.best_fit]": "FAILED", "laws_of_packer[one-pack.fits]": "PASSED",
        "laws_of_packer[many-pack.best_fit]": "PASSED", "laws_of_packer[many-pack.fits]": "PASSED",
        **{f"laws_of_named_otherwise[pack.{name}]": "PASSED" for name in pack},
        "TestInside::laws_of_inner[pack.fits]": "PASSED",
        "TestInside::laws_of_inner[router.bias_no_gradient]": "SKIPPED",
        "TestInside::laws_of_static[pack.fits]": "FAILED",
        "laws_of_alone[pack.few]": "XFAIL", "test_of_another_kind": "PASSED"}, out


def test_the_failure_is_the_counterexample(suite):
    _, _, out = suite
    assert "✘ router.unbiased_gate: the gate is the chosen expert's own probability, whatever the bias\n  with" in out
    assert "with lengths = [1, 1], capacity = 2: you gave [[0], [1]], the law wants [[0, 1]]" in out
    assert "○ pack.fits: not attempted yet" in out
    assert "Traceback" not in out and "def judge" not in out


def test_functions_named_on_the_command_line(suite):
    _, found, out = suite
    assert {name: outcome for name, outcome in found.items() if name[:5] != "test_"} == {
        "mypkg.attention:Attention=cca::cca.attention": "FAILED",
        "mypkg.attention:Attention=cca::cca.gqa_contiguous": "FAILED",
        "mypkg.attention:Attention=cca::cca.attention_hidden": "PASSED",
        "minizaya:pack=pack.few::pack.few": "PASSED"}
    assert "after adding 1 to the values of KV head 0" in out


def test_profiles_and_seeds_of_hypothesis(tmp_path):
    files = {"conftest.py": PROFILE, "test_mine.py": COUNTED}
    code, found, out = run(tmp_path, files, "--hypothesis-seed=11")
    assert code == 1 and found == {"test_mine.py::laws_of_packer[pack.fits]": "PASSED",
                                   "test_mine.py::laws_of_fewer[pack.fits]": "FAILED",
                                   "test_mine.py::test_the_profile_said_how_many": "PASSED"}, out
    assert "--hypothesis-seed=11 draws these inputs again" in out


def test_it_costs_nothing_until_it_is_used(tmp_path):
    code, _, out = run(tmp_path, {"test_idle.py": IDLE}, plugins=["minizaya.pytest_plugin"])
    assert code == 0, out


@pytest.mark.parametrize("words, said", [
    ("mypkg.attention:Attention", "--laws wants package.module:function=name, got 'mypkg.attention:Attention'"),
    ("minizaya:pick=pack", "--laws minizaya:pick=pack: minizaya has no 'pick'; did you mean pack"),
], ids=str)
def test_wrong_words_are_a_usage_error(words, said, tmp_path):
    code, _, out = run(tmp_path, {"test_idle.py": IDLE}, "--laws", words, plugins=["minizaya.pytest_plugin"])
    assert code == 4 and said in out and "INTERNALERROR" not in out, out


def test_holds_refuses_what_it_cannot_mark():
    import minizaya as mz

    for call, words in ((lambda: mz.laws.holds(), "names must be at least one"),
                        (lambda: mz.laws.holds("pack", guard=True), "options must be among examples, .*, got guard"),
                        (lambda: mz.laws.holds("pack")(len), "over a function or a fixture, got a builtin_function"),
                        (lambda: mz.laws.holds("pick")(lambda: 0), "no law, component or protocol is called 'pick'")):
        with pytest.raises(ValueError, match=words):
            call()


def test_pytest_finds_it_by_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"] == {"pytest11": {"minizaya": "minizaya.pytest_plugin"}}
