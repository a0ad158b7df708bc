"""Recorded studies: they resume, refuse to mix settings, and what is kept is what the code makes."""

import json

import pytest
import torch

from minizaya import studies
from minizaya.studies import STUDIES, cca_ablation, phone_book


class Toy:
    SETTING = {"steps": 2}
    done = []

    @staticmethod
    def runs():
        return [{"seed": 0}, {"seed": 1}]

    @staticmethod
    def one(seed):
        Toy.done.append(seed)
        if seed == 1 and len(Toy.done) == 2:
            raise KeyboardInterrupt
        return {"loss": seed + 0.5}


def test_a_stopped_study_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "study", lambda name: Toy)
    with pytest.raises(KeyboardInterrupt):
        studies.record("toy", tmp_path, bar=False)
    assert studies.recorded("toy", tmp_path)["runs"] == [{"seed": 0, "loss": 0.5}]
    whole = studies.record("toy", tmp_path, bar=False)
    assert Toy.done == [0, 1, 1] and whole == studies.recorded("toy", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.json"]

    monkeypatch.setattr(Toy, "SETTING", {"steps": 3})
    with pytest.raises(ValueError, match="setting"):
        studies.record("toy", tmp_path, bar=False)


def test_unknown_missing_and_damaged_records(tmp_path):
    with pytest.raises(ValueError, match="cca_ablation"):
        studies.recorded("nothing")
    with pytest.raises(FileNotFoundError, match="python -m minizaya.studies cca_ablation"):
        studies.recorded("cca_ablation", tmp_path)
    (tmp_path / "cca_ablation.json").write_text("{")
    with pytest.raises(ValueError, match="not a record"):
        studies.recorded("cca_ablation", tmp_path)


@pytest.mark.parametrize("name", STUDIES)
def test_the_kept_records_are_whole_and_of_this_setting(name):
    kept, module = studies.recorded(name), studies.study(name)
    assert kept["setting"] == json.loads(json.dumps(module.SETTING))
    assert all(any(run.items() <= done.items() for done in kept["runs"]) for run in module.runs())
    assert kept["command"] == studies.command(name)


def test_the_ablations_first_steps_are_the_recorded_ones():
    runs = studies.recorded("cca_ablation")["runs"]
    if runs[0]["text"] != cca_ablation.fingerprint():
        pytest.skip("this Python has another text than the recorded runs")
    for variant in ("no convolution", "+ q-k mean"):
        kept = next(run for run in runs if (run["initial"], run["variant"], run["seed"]) == (0.08, variant, 1))
        live = cca_ablation.first_steps(0.08, variant, 1, 3)
        assert live == pytest.approx(kept["losses"][:3], abs=1e-3)


def test_variants_of_a_seed_start_from_the_same_weights():
    bare, whole = (cca_ablation.prepare(0.02, variant, 0)[0].model for variant in ("no convolution", "+ q-k mean"))
    ours = whole.state_dict()
    assert all((value == ours[name]).all() for name, value in bare.state_dict().items())
    assert set(ours) - set(bare.state_dict())


def test_the_sign_of_a_paired_comparison():
    runs = [dict(variant=v, seed=s, held_out=x)
            for v, s, x in (("a", 0, 2.0), ("b", 0, 1.9), ("a", 1, 3.0), ("b", 1, 2.7))]
    mean, error = cca_ablation.paired(runs, "a", "b")
    assert mean == pytest.approx(-0.2) and error == pytest.approx(0.1)
    with pytest.raises(ValueError, match="two seeds"):
        cca_ablation.paired(runs[:2], "a", "b")


@pytest.mark.parametrize("number_first", [False, True])
def test_a_book_answers_its_own_questions(number_first):
    tokens, numbers = phone_book.books(50, torch.Generator().manual_seed(1), number_first)
    for row, right in zip(tokens.tolist(), numbers.tolist()):
        book, asked = row[:8], row[8:]
        assert [book[book.index(name) + (-1 if number_first else 1)] for name in asked] == right
        assert sorted(asked) == sorted(book[1 if number_first else 0:: 2]) and len(set(asked)) == 4
    with pytest.raises(ValueError, match="Zoe"):
        phone_book.encode("Zoe 3")
