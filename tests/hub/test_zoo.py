"""The checkpoints that come with the package: how they are opened, and which of them has learned what."""

import pytest

from minizaya.hub import zoo


def test_what_is_opened_answers_and_does_not_train():
    for model, _ in (zoo.load("nano-reasoner"), zoo.open_model("nano-reasoner"),
                     zoo.open_model(str(zoo.folder("nano-reasoner")))):
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name, task, able", [
    ("nano-reasoner", "addition", "nano-reasoner"), ("nano-reasoner", "sheet", "nano-sheets"),
    ("nano-sheets", "sheet", "nano-sheets"), ("somewhere/else", "sheet", "somewhere/else")])
def test_who_has_learned_a_task(name, task, able):
    assert zoo.taught(name, task) == able


def test_nobody_has_learned_it(monkeypatch):
    cards = {"a": {"accuracy": {"copy": {}}, "stages": ["one"]}, "b": {"accuracy": {"sheet": {}}, "stages": ["two"]}}
    monkeypatch.setattr(zoo, "names", lambda: sorted(cards))
    monkeypatch.setattr(zoo, "card", cards.__getitem__)
    with pytest.raises(ValueError, match="model must have learned sheet, as b has, got 'a'"):
        zoo.taught("a", "sheet")
