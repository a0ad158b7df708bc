"""minizaya: a modern Mixture-of-Experts reasoning model, ZAYA1-8B, built to be read.

    import minizaya as mz
    model = mz.Zaya(mz.ZayaConfig.preset("nano"))

Each name below is imported when it is first used, so `python -m minizaya doctor` runs, and says what is missing, even
where torch is not installed.
"""

import importlib

EXPORTS = {  # name -> where it lives: a module, or something in a module
    "ZayaConfig": "config:ZayaConfig",
    "Zaya": "arch.model:Zaya",
    "ZayaOutput": "arch.model:ZayaOutput",
    "balance": "arch.balance",
    "pack": "data.pack:pack",
    "tasks": "data.tasks",
    "ap_trim": "data.trim:ap_trim",
    "generate": "infer.generate:generate",
    "RSAConfig": "infer.rsa:RSAConfig",
    "markovian_rsa": "infer.rsa:markovian_rsa",
    "hub": "hub",
    "rl": "rl",
    "hip": "hip",
    "laws": "laws",
    "zoo": "hub.zoo",
}
__all__ = list(EXPORTS)


def __getattr__(name: str):
    if name not in EXPORTS:
        raise AttributeError(f"minizaya has no {name!r}; it has {', '.join(EXPORTS)}")
    module, _, inside = EXPORTS[name].partition(":")
    found = importlib.import_module(f"{__name__}.{module}")
    globals()[name] = found = getattr(found, inside) if inside else found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
