"""The report's own figures, from `lessons/recorded/published.json`: a row a figure, with where it is printed.

    {"benchmark", "method": "single" | "markovian_rsa", "accuracy" in percent, "setting", "checkpoint", "source"}

What was not printed is not there: for IFEval, tau2 and BFCL-v4 there is no figure with Markovian RSA.
"""

import json

from .. import RECORDED


def rows() -> list[dict]:
    """All rows. Raises FileNotFoundError where the repository is not around the package."""
    path = RECORDED / "published.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; it comes with the repository")
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def benchmarks() -> list[str]:
    """Their names, in the file's order."""
    return list(dict.fromkeys(row["benchmark"] for row in rows()))
