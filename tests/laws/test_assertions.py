"""No assertion of a law is idle, and every law rejects a wrong function of its own.

An assertion that could be deleted without a test failing is none. So each statement by which a law complains must be
the only one that some wrong function of `wrong_functions` falls over, or the one that tells it what is wrong.
"""

from functools import cache

import pytest

import law_assertions
import wrong_functions
from minizaya import laws

NAMES = [law.name for law in laws.all()]
# spoken only where a model is judged against itself: test_judging.py
ELSEWHERE = {"model.plain: alive(fn, model, tokens)"}


@cache
def needed_by(name: str) -> frozenset[str]:
    """The assertions without which a wrong function would pass the law `name`, or not be told why."""
    with law_assertions.switchable():
        return frozenset().union(*(law_assertions.needed(name, *row) for row in wrong_functions.rows(name)))


def test_every_law_has_wrong_functions_of_its_own():
    assert sorted(wrong_functions.TABLE) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_functions_are_rejected(name):
    """Some of these lean on the library's own function to be wrong in just one place, so no guard here."""
    assert needed_by(name)


def test_no_assertion_is_idle():
    with law_assertions.switchable() as every:
        assert len(every) > 300
    busy = frozenset().union(*map(needed_by, NAMES))
    idle = [name for name in every if name not in busy | ELSEWHERE]
    assert not idle, "no wrong function needs these:\n" + "\n".join(idle)
