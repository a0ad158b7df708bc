"""What each law was tested to catch, written down for who installs the package without its tests.

    python tests/helpers/caught.py     writes minizaya/laws/caught.json anew

A planted bug is claimed for a law only where its row names that law alone: then the tests have seen that law break.
"""

import json
from pathlib import Path

import wrong_functions
from minizaya import laws
from mutants import MUTANTS

FILE = Path(laws.__file__).with_name("caught.json")


def claims() -> dict:
    found = {law.name: {"bugs": [], "wrong_functions": len(wrong_functions.rows(law.name))} for law in laws.all()}
    for file, line, bug, why, names in MUTANTS:
        if len(names) == 1:
            found[names[0]]["bugs"].append({"file": file, "line": line, "bug": bug, "why": why})
    return found


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(claim, ensure_ascii=False)}" for name, claim in claims().items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")     # a law a line
