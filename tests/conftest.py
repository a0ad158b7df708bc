"""Hypothesis profiles for the whole suite.

No deadline: the first call of a torch operator can be a hundred times slower than the second, and that
is not a bug. In CI the examples are derived from the test alone, so that a red run can be run again.
"""

import os
import signal
import sys

import pytest
from hypothesis import settings

import tidy

settings.register_profile("minizaya", deadline=None)
settings.register_profile("minizaya-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("minizaya-ci" if os.environ.get("CI") else "minizaya")

# trap: a shell starts `make test &` with Ctrl-C ignored, and so would be every program that the tests start and
# interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_outlives_its_test(request):
    """Settings of the whole process are what they were before the test. `tests/alone.py` is told of those that were
    not; here they are only put back. Random numbers begin anew."""
    before = tidy.state()
    tidy.same_chances()
    yield
    tidy.same_chances()       # for the next file's fixtures
    if (left := tidy.put_back(before)) and hasattr(request.config, "left_behind"):
        request.config.left_behind[request.node.nodeid] = left


@pytest.fixture(autouse=True)
def no_module_outlives_its_test(request):
    """A module that a test imported from a temporary folder is forgotten with it, so that the next test to call
    one by the same name imports its own, in whatever order they run."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]   # no file: a bare folder
        if any(place.startswith(str(request.config._tmp_path_factory.getbasetemp())) for place in places):
            del sys.modules[name]
