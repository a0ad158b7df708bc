"""Hypothesis profiles for the whole suite.

No deadline: the first call of a torch operator can be a hundred times slower than the second, and that
is not a bug. In CI the examples are derived from the test alone, so that a red run can be run again.
"""

import os
import signal

from hypothesis import settings

settings.register_profile("minizaya", deadline=None)
settings.register_profile("minizaya-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("minizaya-ci" if os.environ.get("CI") else "minizaya")

# trap: a shell starts `make test &` with Ctrl-C ignored, and so would be every program that the tests start and
# interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
