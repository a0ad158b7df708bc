"""One process a run folder: a second one is refused before it has touched anything, and a killed one leaves nothing."""

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import minizaya as mz
from minizaya.__main__ import main
from minizaya.data import text
from minizaya.data.tokenizer import CharTokenizer
from minizaya.parallel.trainer import ParallelTrainer
from minizaya.rl import cascade
from minizaya.train import stages
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.run_lock import RunLock, try_lock
from minizaya.train.sources import mixture, text_source

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
OTHER = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])  # trap: without a name it would be gone, and let go, at once
lock.acquire(timeout=float(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder):
    """It holds the folder, and is killed with -9 at the end."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", OTHER, str(folder / "run.lock"), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            yield
        finally:
            other.kill()


def free(folder):
    """Could another process have it now?"""
    done = subprocess.run([sys.executable, "-c", OTHER, str(folder / "run.lock"), "0"], input="", text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout == "held\n"


def trainer(run, resume=False, steps=4):
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig.preset("nano", hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                         num_key_value_heads=2, head_dim=4, num_experts=2, moe_intermediate_size=8,
                                         router_hidden_size=4))
    source = mixture(text_source(TOKENIZER.encode("to be or not to be " * 9), 2, 8, 0))
    return Trainer(model, Recipe(steps=steps), source, run=run, resume=resume)


def test_a_second_process_is_refused_and_a_killed_one_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    trainer(run).train(until=2, bar=False)
    log = (run / "log.jsonl").read_bytes() + b"half a li"  # as a process at work may have it
    (run / "log.jsonl").write_bytes(log)
    with another_process(run):
        with pytest.raises(ValueError, match="run: another process trains there; wait for it, or choose another"):
            trainer(run, resume=True)
        assert (run / "log.jsonl").read_bytes() == log
    assert trainer(run, resume=True).train(bar=False)


def test_a_folder_is_held_from_opening_to_the_end_of_training(tmp_path):
    mine = trainer(tmp_path)
    assert not free(tmp_path)
    seen = []
    assert mine.train(evaluate=lambda: seen.append(free(tmp_path)) or {}, bar=False)
    assert seen == [False] and free(tmp_path)
    forgotten = trainer(tmp_path, resume=True)
    assert not free(tmp_path)
    del forgotten
    assert free(tmp_path)


def test_this_process_may_open_a_run_twice_but_not_train_on_what_has_moved(tmp_path):
    first = trainer(tmp_path)
    first.train(until=1, bar=False)
    second = trainer(tmp_path, resume=True)
    second.train(until=3, bar=False)
    log = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match="trained on meanwhile: its newest checkpoint is .*-00000003; resume it"):
        first.train(bar=False)
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert second.train(bar=False) and len(second.records) == 4


def test_what_trains_in_several_folders_holds_the_outer_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "Trainer", None)      # nothing of a run is reached
    monkeypatch.setattr(cascade, "calibrate", None)
    monkeypatch.setattr("minizaya.commands.train.fresh_model", lambda args, tokenizer: trainer(None).model)
    parallel = object.__new__(ParallelTrainer)
    parallel.run_folder, parallel.grid, parallel.lock = tmp_path, SimpleNamespace(rank=0), RunLock(tmp_path)
    with another_process(tmp_path):
        for work in (lambda: stages.train(tmp_path), lambda: cascade.train(None, None, tmp_path),
                     lambda: parallel.open_run(resume=False)):
            with pytest.raises(ValueError, match="another process trains there"):
                work()
        assert main(["train", "--out", str(tmp_path), "--device", "cpu"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("minizaya train: ") and "another process trains there" in said[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["run.lock"])


def test_without_locks_everybody_goes_on(tmp_path, monkeypatch):
    """Some network file systems have none."""
    def none(self, *args, **kwargs):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("minizaya.train.run_lock.FileLock.acquire", none)
    assert try_lock(tmp_path / "x.lock") and trainer(tmp_path).train(bar=False)
