"""minizaya: a modern Mixture-of-Experts reasoning model, ZAYA1-8B, built to be read.

    import minizaya as mz
    model = mz.Zaya(mz.ZayaConfig.preset("nano"))
"""

from . import laws
from .arch import balance
from .arch.model import Zaya, ZayaOutput
from .config import ZayaConfig
from .infer.generate import generate
from .scale import hub
