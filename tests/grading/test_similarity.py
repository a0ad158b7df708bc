"""Answers that are alike are reported: of two students, and of a student and the library."""

import inspect
from pathlib import Path

from minizaya.arch import experts
from minizaya.grading import similarity
from minizaya.grading.submissions import Submission

LOOP = '''def mixture_of_experts(x, routes, gates, gate_up, down):
    """A docstring of any length, which does not count."""
    out = torch.zeros_like(x)
    for expert in range(len(gate_up)):
        mine = routes == expert
        gate, up = (x[mine] @ gate_up[expert].T).chunk(2, dim=-1)
        out[mine] = (F.silu(gate) * up) @ down[expert].T * gates[mine][:, None]
    return out
'''
OTHER = '''def mixture_of_experts(x, routes, gates, gate_up, down):
    rows = []
    for token, route, weight in zip(x, routes.tolist(), gates):
        if route == len(down):
            rows.append(token * 0)
            continue
        both = gate_up[route] @ token
        half = len(both) // 2
        rows.append(weight * (down[route] @ (F.silu(both[:half]) * both[half:])))
    return torch.stack(rows)
'''
SHORT = "def swiglu(x, gate_up, down):\n    return x"


def handed_in(**answers):
    return [(Submission(student, "01_moe", Path(student)), {"exercises": {
        "mixture": {"source": source}, "swiglu": {"source": SHORT}}}) for student, source in answers.items()]


def test_copies_are_reported_and_others_are_not():
    copied = LOOP.replace("    out = ", "    # all mine\n    out  =  ").replace("of any length", "of mine")
    copied = copied.replace("return out", "return (out)")
    found = similarity.alike(handed_in(anna=LOOP, ben=OTHER, carl=copied, dora="def broken(x:\n  '''"))
    students = [row for row in found if row["like"] in ("anna", "ben", "carl", "dora")]
    assert [(row["exercise"], row["student"], row["like"]) for row in students] == [("mixture", "anna", "carl")]
    assert 0.8 <= students[0]["share"] < 1 and not any(row["student"] == "ben" for row in found)


def test_the_librarys_text_is_recognised():
    source = inspect.getsource(experts.experts_loop).replace("experts_loop", "mixture_of_experts")
    found = similarity.alike(handed_in(anna=source))
    assert "the library's experts_loop" in [row["like"] for row in found]
