"""The model of these tests."""

import pytest
from rl_tools import CONFIG

import minizaya as mz
from minizaya.laws.strategies import randomise


@pytest.fixture
def model():
    return randomise(mz.Zaya(CONFIG), 5).float().eval()
