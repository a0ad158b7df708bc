"""Every number and switch of the public configurations: what it cannot be is refused in one line that names it.

By the type of a field's default, so that a field that comes later is held to it, too.
"""

import contextlib
import inspect
import math
from functools import partial

import pytest

from minizaya.config import check_settings
from minizaya.data.tokenizer import ByteTokenizer
from minizaya.grading.judge import Limits
from minizaya.infer.endpoint.client import Endpoint
from minizaya.infer.rsa import RSAConfig
from minizaya.rl.cascade import Stage
from minizaya.rl.curriculum import Scheduler
from minizaya.rl.learner import LearnerConfig
from minizaya.rl.processes import Job
from minizaya.train.loop import Recipe

CONFIGS = {
    "Endpoint": partial(Endpoint, "http://x/v1", "m", ByteTokenizer()), "LearnerConfig": LearnerConfig,
    "Job": partial(Job, 1, Scheduler({"copy": 1}, {"copy": 3}), LearnerConfig()), "Recipe": partial(Recipe, 9),
    "Stage": partial(Stage, "name", 2), "RSAConfig": RSAConfig,
    "Scheduler": partial(Scheduler, {"copy": 1}, {"copy": 3}), "Limits": Limits}
BAD = {int: (True, 1.0, 2.5, "1", None, math.nan, -2), float: (True, "1", None, math.nan, math.inf, -1.0, 1j),
       bool: (0, 1, "false", None)}
FREE = {"seed": (-2,)}      # a seed may be negative


def numbers(make):
    """(name, bad value) of each parameter whose default is a number or a switch."""
    for name, parameter in inspect.signature(make).parameters.items():
        kind = type(parameter.default)
        for value in BAD.get(kind, ()):
            if value not in FREE.get(name, ()):
                yield name, value


@pytest.mark.parametrize("config", CONFIGS)
def test_no_number_is_taken_that_is_none(config):
    make, tried = CONFIGS[config], list(numbers(CONFIGS[config]))
    assert len(tried) > 4
    make()      # and the defaults are taken
    for name, value in tried:
        with pytest.raises(ValueError) as error:
            make(**{name: value})
        assert str(error.value).startswith(name) and repr(value) in str(error.value), (name, value, error.value)


# which numbers may be zero; which may not be one: shares below it, and those that another default or setting forbids
ZERO = {"Endpoint": "temperature seed retries pause", "LearnerConfig": "adam_share delta brevity", "Scheduler": "up",
        "Job": "aggregation min_p threshold seed", "Stage": "aggregation brevity", "RSAConfig": "T", "Limits": "",
        "Recipe": "warmup weight_decay beta1 beta2 balance_lr seed final_share"}
NOT_ONE = {"Recipe": "beta1 beta2 momentum", "RSAConfig": "N beta"}


@pytest.mark.parametrize("config", CONFIGS)
def test_zero_and_one_are_taken_where_they_mean_something(config):
    found = {0: [], 1: []}
    kinds = {name: type(each.default) for name, each in inspect.signature(CONFIGS[config]).parameters.items()}
    numbers = {name: kind for name, kind in kinds.items() if kind in (int, float)}
    for name, kind in numbers.items():
        for value in found:
            with contextlib.suppress(ValueError):
                CONFIGS[config](**{name: kind(value)})
                found[value].append(name)
    assert found[0] == ZERO[config].split()
    assert found[1] == [name for name in numbers if name not in NOT_ONE.get(config, "").split()]


@pytest.mark.parametrize("wanted, taken, refused", [
    ("(0, 1]", (1e-300, 1, 1.0), (0, 0.0, 1.0000001, -1, math.nan, 10**400)), ("[0, 1)", (0, 0.999), (1, 1.0, -1e-9)),
    ("[0, inf)", (0, 10**400, 1e308), (math.inf, -1, True, "1", None)), (1, (1, 10**400), (0, 1.0, True, "1")),
    (int, (0, -5), (0.0, True, None)), (bool, (True, False), (0, 1, "false"))])
def test_borders(wanted, taken, refused):
    for value in taken:
        check_settings({"x": value, "y": "other"}, x=wanted)
    words = {1: "an integer of at least 1", int: "an integer", bool: "True or False"}
    for value in refused:
        with pytest.raises(ValueError) as error:
            check_settings({"x": value}, x=wanted)
        assert str(error.value) == f"x must be {words.get(wanted, f'a finite number in {wanted}')}, got {value!r}"


@pytest.mark.parametrize("settings, says", [
    (dict(end="$"), "end must be a text, and needs raw, got '\\$'"), (dict(end=3, raw=True), "end must be a text"),
    (dict(top_k=1.5), "top_k must be an integer"), (dict(top_k=-2), "top_k must be an integer of at least -1, got -2"),
    (dict(top_p=0), "top_p must be a finite number in .0, 1., got 0"), (dict(timeout=0), "timeout must be"),
    (dict(api_key="a\nb"), "api_key must be a text of printable ASCII"), (dict(api_key=3), "api_key must be a text")])
def test_an_endpoints_other_settings(settings, says):
    with pytest.raises(ValueError, match=says) as error:
        CONFIGS["Endpoint"](**settings)
    assert "api_key" not in settings or repr(settings["api_key"]) not in str(error.value)     # a key is never shown
    for url, model in ((3, "m"), ("localhost", "m"), ("http://x", ""), ("http://x", None)):
        with pytest.raises(ValueError, match="^(url|model) must"):
            Endpoint(url, model, ByteTokenizer())


@pytest.mark.parametrize("budget", [0, -1, True, 2.0])
def test_an_endpoints_budget(budget):
    """trap: the last 0 tokens of a trace are `trace[-0:]`, which is all of them."""
    with pytest.raises(ValueError, match=f"^max_new_tokens must be an integer of at least 1, got {budget!r}"):
        CONFIGS["Endpoint"]()([[1]], budget)
