"""What must hold for any right implementation; for tests, for kernels and for students.

    from minizaya import laws
    laws.check("cca.value_shift", my_value_shift)     # shows the verdict: right, or a counterexample in words
    laws.judge("cca.value_shift", my_value_shift)     # the same verdict as a value, for tests; true if it passed

Laws overlap on purpose (`tests/overlap.py` shows where). A law that compares with the textbook rejects whatever its
narrower neighbours reject. They stay: each says which property is broken, in words a student can act on, and lessons
ask for it by its name.
"""

# `all()` keeps this order
from . import cca, layer, attention, router, balance, balance_memory, residual, experts, model, switches
from . import decoding, answering, trim, pack, optim, rsa, rl, kernels, parallel, scale
from . import exercises   # after the components: small steps that only lessons ask for
from . import lesson_residual, lesson_router
from . import lm   # any model, nothing known of its inside
from . import adapt
from .core import Law, Refused, Rejected, Verdict
from .judging import all, check, get, judge
from .lm import BlackBox
from .suite import Findings, causal_lm
from .protocols import Protocol, applying, caught, holds, load, protocol
