"""`--device`: the GPU where there is one, said in one line, refused where there is none; nothing stays on the CPU."""


import pytest
import torch

import minizaya as mz
from minizaya.__main__ import main
from minizaya.commands.bench import timing
from minizaya.commands.shared import device
from minizaya.data import text
from minizaya.data.tokenizer import CharTokenizer
from minizaya.rl import pipeline
from minizaya.rl.curriculum import Scheduler
from minizaya.rl.learner import Learner, LearnerConfig
from minizaya.rl.processes import Job
from minizaya.rl.rollout import Rollout
from minizaya.train.evaluate import held_out_loss
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.sources import mixture, packed_source, problem_documents

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")
TINY = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
            moe_intermediate_size=16, router_hidden_size=8, num_experts=3)


def gpus(monkeypatch, count):
    """A machine that says it has so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")


@pytest.mark.parametrize("count, name, found", [
    (0, "auto", "cpu"), (0, "cpu", "cpu"), (1, "auto", "cuda:0"), (1, "cpu", "cpu"), (1, "cuda", "cuda:0"),
    (1, "cuda:0", "cuda:0"), (4, "auto", "cuda:0"), (4, "cuda:3", "cuda:3")])
def test_the_device_is_chosen_and_said_in_one_line(monkeypatch, capsys, count, name, found):
    gpus(monkeypatch, count)
    assert device.choose(name) == torch.device(found)
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith(f"device: {found} (")
    assert ("GPU" in err) == (found != "cpu")


@pytest.mark.parametrize("count, name", [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (4, "cuda:4"), (4, "cuda:-1"),
                                         (1, ""), (1, "gpu"), (1, "cuda:"), (1, "cuda:x"), (1, "cuda:01"), (0, "meta"),
                                         (1, "cpu:0"), (1, "CUDA"), (1, "cuda\n")])
def test_what_is_not_there_is_refused(monkeypatch, count, name):
    gpus(monkeypatch, count)
    with pytest.raises(ValueError, match="device must be"):
        device.choose(name)


@pytest.mark.parametrize("command", ["train", "stages", "cascade", "solve", "bench"])
def test_every_command_that_computes_takes_the_flag(command, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--device" in capsys.readouterr().out
    flags = {"solve": ["--model", "nano-reasoner"], "bench": []}.get(command, ["--out", str(tmp_path / "run")])
    assert main([command, *flags, "--device", "tpu"]) == 2
    assert "device must be auto, cpu, cuda or cuda:N, got 'tpu'" in capsys.readouterr().err


class Recorded(Exception):
    pass


@pytest.fixture
def moves(monkeypatch):
    """A GPU that is only said to be there: the first model that is moved to it ends the command."""
    gpus(monkeypatch, 1)

    def to(self, *args, **settings):
        raise Recorded(str(args[0]))

    monkeypatch.setattr(mz.Zaya, "to", to)


@pytest.mark.parametrize("flags", [["train", "--preset", "nano"], ["stages", "--share", "0.001"],
                                   ["cascade", "--share", "0.01"], ["solve", "--model", "nano-reasoner"], ["bench"]])
def test_a_gpu_is_used_where_there_is_one(flags, moves, tmp_path, monkeypatch):
    out = ["--out", str(tmp_path / "run")] if flags[0] in ("train", "stages", "cascade") else []
    with pytest.raises(Recorded, match="cuda:0"):
        main([*flags, *out])


class Elsewhere(torch.nn.Module):
    """A model on another device, torch's `meta`: ends the test when all that it is given has come there."""

    def __init__(self):
        super().__init__()
        self.config, self.embed = mz.ZayaConfig.preset("nano", **TINY), torch.nn.Embedding(3, 3, device="meta")

    def forward(self, tokens, **others):
        given = [tokens, *(x for x in others.values() if isinstance(x, torch.Tensor))]
        raise Recorded({tensor.device.type for tensor in given})


def train_step():
    trainer = Trainer(mz.Zaya(mz.ZayaConfig.preset("nano", **TINY)), Recipe(steps=1), mixture(
        packed_source("p", problem_documents({"copy": (1, 3)}, TOKENIZER), 1, 30, TOKENIZER.pad_id, 0)))
    trainer.model = Elsewhere()
    trainer.train_step()


def learn():
    learner = Learner(mz.Zaya(mz.ZayaConfig.preset("nano", **TINY)), LearnerConfig())
    learner.model = Elsewhere()
    learner.forward([Rollout([1], [2, 3], [0.0, 0.0], [0, 0], torch.zeros(3, 2, dtype=torch.int16), {})])


@pytest.mark.parametrize("work", [train_step, learn, lambda: held_out_loss(Elsewhere(), torch.arange(9), 4)])
def test_batches_go_where_the_model_is(work):
    with pytest.raises(Recorded, match="^{'meta'}$"):
        work()


def test_the_generator_answers_where_the_model_is(tmp_path, monkeypatch):
    def side(job, model, tokenizer, shelf):
        raise Recorded(str(model.embed.weight.device))

    def process(job, config, tokenizer, folder, where):
        raise Recorded(where)

    monkeypatch.setattr(pipeline, "TrainerSide", lambda *args: None)
    monkeypatch.setattr(pipeline, "GeneratorSide", side)
    monkeypatch.setattr(pipeline, "GeneratorProcess", process)
    job = Job(2, Scheduler({"copy": 1}, {"copy": 3}), LearnerConfig())
    for processes in (1, 2):
        with pytest.raises(Recorded, match="meta"):
            pipeline.run(job, Elsewhere(), TOKENIZER, tmp_path / str(processes), processes=processes, bar=False)
    job.aggregation = 0.5
    with pytest.raises(ValueError, match="aggregation of 0.5 needs records"):
        pipeline.run(job, Elsewhere(), TOKENIZER, tmp_path / "x", bar=False)


def test_a_gpu_is_waited_for(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(str(device)))
    for where in ("cpu", torch.device("cpu")):
        timing.seconds(lambda: order.append("work"), device=where)
    assert order == ["work", "work"]
    order.clear()
    found = timing.compare("row", 8, lambda: order.append("ours"), {"a": lambda: order.append("peer")}, 1,
                           torch.device("cuda", 0))
    assert order == ["cuda:0", "ours", "cuda:0", "cuda:0", "peer", "cuda:0"] * 2 and found["name"] == "row"
