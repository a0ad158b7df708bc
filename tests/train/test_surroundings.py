"""Nothing is taken from the surroundings: torch's default type and device, and the folder that one stands in."""

import json

import pytest
import torch

import minizaya as mz
from kill_pipeline import TOKENIZER, tiny_job, tiny_model
from minizaya.commands.materialize import random_tensor
from minizaya.commands.plan import plan
from minizaya.hub import zoo
from minizaya.hub.paging import PagedZaya
from minizaya.infer.engine import Engine
from minizaya.infer.generate import generate
from minizaya.rl import pipeline
from minizaya.rl.mismatch import low_precision
from minizaya.train import checkpoint
from minizaya.train.evaluate import held_out_loss
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.sources import mixture, text_source

CONFIG = mz.ZayaConfig.preset("nano", vocab_size=300, pad_token_id=0, hidden_size=32, num_hidden_layers=2,
                              num_attention_heads=2, head_dim=8, num_experts=3, moe_intermediate_size=16,
                              router_hidden_size=8)
CPU = torch.device("cpu")
ROW = torch.arange(3, 13)[None]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What was made before: a model's weights, a checkpoint folder, a run's folder."""
    around = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    model = mz.Zaya(CONFIG)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mz.hub.save(model, around / "hub")
    trained(model, "adamw", around / "run", {"tokenizer": mz.zoo.load("nano-reasoner")[1].to_dict()})
    return around, state


def tensor(values, dtype=None):
    return torch.tensor(values, dtype=dtype, device="cpu")


def model_of(state):
    with CPU:   # a new model goes where torch's default says, as any module
        model = mz.Zaya(CONFIG).float()
    model.load_state_dict(state)
    return model


def trained(model, optimizer, run=None, keep=None):
    batches = mixture(text_source(list(range(3, 200)) * 2, 2, 16, 0))
    trainer = Trainer(model, Recipe(steps=2, optimizer=optimizer), batches, run, keep)
    assert trainer.train(bar=False)
    return [*model.state_dict().values(), tensor([r["loss"] for r in trainer.records], torch.float64)]


def answered(model):
    engine = Engine(model, slots=2, size=20)
    number = engine.submit([3, 4], 5, record=True, top_p=0.9)
    while engine.busy:
        engine.step()
    done = engine.take(number)
    return [tensor([done.tokens, done.logprobs], torch.float64), done.routes, done.kept]


def paged(folder, int8):
    model = PagedZaya(folder, torch.float32, int8)
    cache = model.new_cache(1)
    return [model(ROW, cache=cache).logits, model(tensor([[5]]), cache=cache).logits]


def reinforced(folder):
    with CPU:
        model = tiny_model().float()
    state = {name: value.double().round(decimals=3).float() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert pipeline.run(tiny_job(2), model, TOKENIZER, folder, bar=False)
    return list(model.state_dict().values())


def zoos():
    model, tokenizer = zoo.load("nano-reasoner")
    return [model(tensor([tokenizer.encode("47+85?")])).logits]


WORK = {
    "forward": lambda around, state, new: [model_of(state)(ROW).logits, model_of(state)(ROW).routes],
    "generate": lambda around, state, new: [tensor(generate(model_of(state), [[3, 4], [5]], 6, top_p=0.9))],
    "engine": lambda around, state, new: answered(model_of(state)),
    "adamw": lambda around, state, new: trained(model_of(state), "adamw", new),
    "muon": lambda around, state, new: trained(model_of(state), "muon"),
    "held out": lambda around, state, new: [tensor(held_out_loss(model_of(state), ROW[0], 4), torch.float64)],
    "hub": lambda around, state, new: [mz.hub.load(around / "hub")(ROW).logits],
    "paged": lambda around, state, new: paged(around / "hub", False),
    "int8": lambda around, state, new: paged(around / "hub", True),
    "run": lambda around, state, new: [checkpoint.load_model(around / "run")[0](ROW).logits],
    "zoo": lambda around, state, new: zoos(),
    "low precision": lambda around, state, new: [low_precision(model_of(state), "int8")(ROW).logits],
    "balancers": lambda around, state, new: [kind(3).update(tensor([0.5, 0.3, 0.2], torch.float32))
                                             for kind in (mz.balance.SignBalancer, mz.balance.PIDBalancer,
                                                          mz.balance.AdamWBalancer)],
    "materialize": lambda around, state, new: [random_tensor(name, (4, 3)[: 2 - name.endswith("bias")], CONFIG, 0,
                                                             torch.float32)
                                               for name in ("x.weight", "x.balancing_bias", "x.bias")],
    "advantage": lambda around, state, new: [mz.rl.maxrl_advantage(tensor([[1, 0, 0, 1]], torch.float32))],
    "plan": lambda around, state, new: [tensor(list(json.dumps(plan("nano", device="mi300x")).encode()))],
}


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("name", WORK)
def test_torchs_default_type_changes_nothing(made, tmp_path, name):
    wanted = WORK[name](*made, tmp_path / "one")
    torch.set_default_dtype(torch.float64)
    try:
        found = WORK[name](*made, tmp_path / "two")
    finally:
        torch.set_default_dtype(torch.float32)
    same(found, wanted)


@pytest.mark.parametrize("name", [*WORK, "reinforced"])
def test_torchs_default_device_changes_nothing(made, tmp_path, name):
    """What is read, drawn or counted lies on the CPU, what is computed where the model is. On "meta" there are no
    numbers at all, so nothing may go there unasked."""
    work = WORK.get(name, lambda around, state, new: reinforced(new))
    wanted = work(*made, tmp_path / "one")
    torch.set_default_device("meta")
    try:
        found = work(*made, tmp_path / "two")
    finally:
        torch.set_default_device(None)
    same(found, wanted)


def test_reinforcement_learning_keeps_the_models_type(tmp_path):
    """Both sides compute in the model's type, also where new models have another."""
    torch.set_default_dtype(torch.float64)
    try:
        found = reinforced(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in found} == {torch.float32}


@pytest.mark.parametrize("name", ["engine", "adamw", "hub", "paged", "run", "zoo", "plan"])
def test_the_folder_that_one_stands_in_may_be_gone(made, tmp_path, name, monkeypatch):
    """Nothing is read or written there unless somebody names it by a relative path."""
    wanted = WORK[name](*made, tmp_path / "one")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    same(WORK[name](*made, tmp_path / "two"), wanted)
    monkeypatch.chdir(tmp_path)
