"""The card that a notebook shows: the exercise's own letters, small matrices, the wrong entry, no markup of others."""

import re

import torch

import minizaya as mz
from minizaya.laws import card
from minizaya.laws.words import spelled


def swiglu(x, gate_up, down):
    """x: (n, D) tokens; gate_up: (2F, D); down: (D, F). Returns (n, D)."""
    return 0 * x


def drawn(law, fn):
    the_law = mz.laws.get(law)
    verdict = mz.laws.judge(law, fn, guard=True)
    return card.html(verdict, the_law, spelled(the_law.axes, fn.__doc__), fn.__name__), verdict


def test_letters_are_those_of_the_exercise():
    axes = {"x": "n c", "gate_up": "e o c", "bias": "e", "other": "t c"}
    told = "x: (n, D) tokens; gate_up: (E, 2F, D); bias: (E + 1,); other: a list (of several, different, things)."
    assert spelled(axes, told) == {"x": "n D", "gate_up": "E 2F D", "bias": "E+1", "other": "t c"}
    assert spelled(axes, None) == axes
    assert spelled({"now": "b t c", "then": "b t c"}, "now, then: (b, t, width).") == dict.fromkeys(
        ("now", "then"), "b t width")


def test_a_wrong_answer_is_laid_out_in_the_letters_of_the_exercise():
    shown, verdict = drawn("experts.swiglu", swiglu)
    assert "✘ experts.swiglu" in shown and card.COLOR["✘"] in shown
    assert "x (n=1, D=1)" in shown and "gate_up (2F=2, D=1)" in shown and "(n=1, D=1, 2F=2)" in verdict.message
    given, wanted = shown.split("you gave</div>")[1].split("the law wants</div>")
    assert re.findall(r"<td[^>]*>([^<]*)", given) == ["0.0"]
    assert re.findall(r"<td[^>]*>([^<]*)", wanted) == [re.search(r"wants ([\d.]+)", verdict.message)[1]]
    assert "with x =" not in shown      # the inputs are the matrices, not the sentence


def test_only_the_wrong_entry_is_red():
    shown, verdict = drawn("cca.value_shift", lambda now, then: torch.cat([now, then], -1))
    given = shown.split("you gave</div>")[1]
    cells = re.findall(r"<td style=\"([^\"]*)\">", given)
    assert len(cells) == 4 and [i % 2 for i, style in enumerate(cells) if "#D55E00" in style] == [1, 1]
    assert verdict.at == (0, 0, 1)


def test_right_and_open_cards_are_short():
    def half(now, then):
        raise NotImplementedError

    shown, _ = drawn("cca.value_shift", half)
    assert shown.count("○") == 1 and "write <code>half</code>" in shown and "<td" not in shown
    shown, _ = drawn("cca.value_shift", right)
    assert shown.count("✔") == 1 and "<td" not in shown


def right(now, then):
    return torch.cat([now, torch.cat([torch.zeros_like(then[:, :1]), then[:, :-1]], 1)], -1)


def test_matrices_of_more_axes_are_named_by_their_place():
    shown = card.laid_out("x", torch.arange(8.0).view(2, 2, 2), (1, 0, 1))
    assert "[0]" in shown and "[1]" in shown and shown.count("<table") == 2
    assert [cell for style, cell in re.findall(r"<td style=\"([^\"]*)\">([^<]*)", shown) if "bold" in style] == ["5.0"]
    vector = card.laid_out("x", torch.tensor([1.0, 2.0]), (1,))
    assert [cell for style, cell in re.findall(r"<td style=\"([^\"]*)\">([^<]*)", vector) if "bold" in style] == ["2.0"]


def test_what_is_large_or_no_matrix_stands_in_words():
    assert "<table" not in card.laid_out("x", torch.zeros(100, 100))
    assert "a tensor of shape (100, 100)" in card.laid_out("x", torch.zeros(100, 100))
    for value in (torch.tensor(1.0), torch.zeros(0, 2)):
        assert "<table" not in card.laid_out("x", value)


def test_text_of_a_student_is_escaped():
    shown, _ = drawn("cca.value_shift", lambda now, then: exec("raise ValueError('<script>')"))
    assert "&lt;script&gt;" in shown and "<script>" not in shown
    assert "<b>" not in card.laid_out("<b>", "<b>")


def test_names_are_code_and_minus_zero_is_zero():
    assert "is a <code>return</code> missing?" in drawn("cca.value_shift", lambda now, then: None)[0]
    assert card.prose("<i> `a<b`") == "&lt;i&gt; <code>a&lt;b</code>"
    assert "<td" in card.laid_out("x", torch.tensor([-0.0])) and "-0" not in card.laid_out("x", torch.tensor([-0.0]))
