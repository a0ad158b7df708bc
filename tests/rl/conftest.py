"""The model of these tests."""

import pytest

import minizaya as mz
from minizaya.laws.strategies import randomise
from rl_tools import CONFIG


@pytest.fixture
def model():
    return randomise(mz.Zaya(CONFIG), 5).float().eval()
