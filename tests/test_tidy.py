"""Nothing that a test sets for the whole process is there for the next one."""

import os
import random
import signal
import sys

import numpy
import torch

import tidy


def test_what_a_test_left_is_put_back_and_named(tmp_path):
    """Each setting of the table but figures, which need a library that draws."""
    before, handler = tidy.state(), signal.getsignal(signal.SIGTERM)
    os.chdir(tmp_path)
    os.environ["LEFT"], path = "1", os.environ.pop("PATH")
    sys.path.insert(0, "left")
    sys.argv.append("left")
    sys.setrecursionlimit(before["the recursion limit"] + 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(before["torch's threads"] + 1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    assert tidy.put_back(before) == [name for name in tidy.STATE if name != "open figures"]
    assert tidy.state() == before and tidy.put_back(before) == []
    assert os.environ["PATH"] == path and "LEFT" not in os.environ and sys.path[0] != "left"
    assert signal.getsignal(signal.SIGTERM) is handler and torch.zeros(1).device.type == "cpu"
    assert torch.zeros(1).dtype == torch.float32 and torch.is_grad_enabled()


SEEN, DRAWN = [], []


def test_one_leaves_something():
    SEEN.append(torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)
    os.environ["LEFT"] = "1"


def test_another_leaves_the_same_and_sees_nothing_of_it():
    """In either order: the fixture of `conftest.py` stands between them."""
    test_one_leaves_something()
    assert set(SEEN) == {torch.float32}


def test_one_draws():
    DRAWN.append((random.random(), numpy.random.random(), torch.rand(()).item()))


def test_another_draws_the_same():
    test_one_draws()
    assert len(set(DRAWN)) == 1
