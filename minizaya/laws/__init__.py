"""What must hold for any right implementation; for tests, for kernels and for students.

    from minizaya import laws
    laws.check("cca.value_shift", my_value_shift)     # True, or a counterexample in words
"""

# `all()` keeps this order
from . import cca, layer, attention, router, balance, balance_memory, residual, experts, model, switches
from . import decoding, answering, trim, pack, optim, rsa, rl, kernels, parallel, scale
from . import exercises   # after the components: small steps that only lessons ask for
from . import lesson_residual, lesson_router
from .core import Law, Rejected, Verdict
from .judging import all, check, get, judge
