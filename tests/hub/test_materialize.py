"""Random weights of any preset: whole or not there, the same for the same seed, one tensor in memory at a time."""

import json
import shutil

import pytest
import torch

import minizaya as mz
from minizaya import __main__ as cli
from minizaya.commands import materialize
from minizaya.hub import shards
from minizaya.hub.config_json import read_config
from minizaya.train.checkpoint import model_state

NANO = mz.ZayaConfig.preset("nano")


@pytest.mark.parametrize("layout", shards.LAYOUTS)
def test_it_loads_and_is_the_same_in_every_layout(tmp_path, layout):
    model = shards.load(materialize.materialize(NANO, tmp_path / layout, 5, layout, shard_bytes=300_000))
    for name, tensor in model_state(model).items():
        kept = torch.float32 if name.endswith("balancing_bias") else torch.bfloat16
        wanted = materialize.random_tensor(name, tuple(tensor.shape), NANO, 5, torch.bfloat16)
        assert tensor.dtype == kept and torch.equal(tensor, wanted)
    with torch.no_grad():
        out = model(torch.arange(3, 90)[None])
    assert out.logits.isfinite().all() and len(out.routes.unique()) == NANO.num_experts


def test_numbers_are_those_of_a_new_model():
    draw = materialize.random_tensor
    wide = draw("layers.0.experts.down_proj", (4, 128, 128), NANO, 0, torch.float32)
    assert abs(float(wide.std()) - NANO.initializer_range) < 0.001 and abs(float(wide.mean())) < 0.002
    assert abs(float(draw("layers.0.router.mlp.fc1.weight", (256, 256), NANO, 0, torch.float32).std()) - 1 / 16) < 0.001
    assert not torch.equal(wide, draw("layers.1.experts.down_proj", (4, 128, 128), NANO, 0, torch.float32))
    assert not torch.equal(wide, draw("layers.0.experts.down_proj", (4, 128, 128), NANO, 1, torch.float32))
    assert draw("norm.weight", (5,), NANO, 0, torch.float32).eq(1).all()
    assert draw("layers.0.attention.conv_depthwise.bias", (5,), NANO, 0, torch.float32).eq(0).all()
    assert draw("layers.0.router.balancing_bias", (5,), NANO, 0, torch.bfloat16).tolist() == [0, 0, 0, 0, -1]


def test_one_tensor_at_a_time(tmp_path, monkeypatch):
    """Each tensor is made once, and the last one is gone when the next is made."""
    import weakref

    draw, made = materialize.random_tensor, []

    def watched(name, *args):
        assert sum(reference() is not None for _, reference in made) <= 1, "the one before the last is still there"
        tensor = draw(name, *args)
        made.append((name, weakref.ref(tensor)))
        return tensor

    monkeypatch.setattr(materialize, "random_tensor", watched)
    materialize.materialize(NANO, tmp_path / "w", layout="original", shard_bytes=50_000)
    names = [name for name, _ in made]
    assert len(names) == len(set(names)) == len(model_state(mz.Zaya(NANO)))


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    assert cli.main(["materialize", "zaya1-8b", str(tmp_path / "a" / "b")]) == 2
    assert "needs 17.7 GB and 0.5 GB to spare" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_asked_for_its_own_room(tmp_path, monkeypatch):
    """It may be a disk of its own, mounted there."""
    asked, usage = [], shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(path))
    (tmp_path / "disk").mkdir()
    assert materialize.materialize(NANO, tmp_path / "disk") == tmp_path / "disk"
    assert materialize.materialize(NANO, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert asked == [tmp_path / "disk", tmp_path]


def test_stopped_half_way_leaves_nothing(tmp_path, monkeypatch):
    draw, calls = materialize.random_tensor, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(materialize, "random_tensor", stopped)
    with pytest.raises(KeyboardInterrupt):
        materialize.materialize(NANO, tmp_path / "w", shard_bytes=10_000)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    folder = tmp_path / "w"
    assert cli.main(["materialize", "micro", str(folder), "--layers", "2", "--layout", "transformers", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert read_config(folder) == mz.ZayaConfig.preset("micro", num_hidden_layers=2)
    assert cli.main(["materialize", "micro", str(folder)]) == 2
    assert "new or empty" in capsys.readouterr().err
    assert cli.main(["materialize", "micro", str(tmp_path / "x"), "--layers", "0"]) == 2
    assert cli.main(["materialize", "huge", str(tmp_path / "x")]) == 2
    with pytest.raises(ValueError, match="dtype must be one of"):
        materialize.materialize(NANO, tmp_path / "x", dtype=torch.int8)
    with pytest.raises(ValueError, match="layout must be one of"):
        materialize.materialize(NANO, tmp_path / "x", layout="zip")
