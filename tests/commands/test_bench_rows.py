"""Rows of `bench`: memory that one call adds, and answering with and without `step.cpp`."""

from dataclasses import replace

import pytest
import torch

import minizaya as mz
from minizaya.__main__ import main
from minizaya.commands.bench import answers, command, growth, losses, timing
from minizaya.native import matmul, step


def test_the_peak_of_a_call_is_what_it_holds_at_once():
    def work():
        torch.ones(2**24)           # 64 MiB, given back
        torch.ones(2**23).add_(1)   # 32 MiB afterwards

    found = timing.peak_mib(work)
    if found is None:
        pytest.skip("this system does not count peaks")
    assert 56 < found < 90


@pytest.mark.skipif(matmul.library() is None, reason="no C++ compiler")
def test_rows_of_answers_compare_the_two_ways(monkeypatch):
    monkeypatch.setattr(answers, "QUESTIONS", 1)
    monkeypatch.setattr(answers, "GROUPS", 1)
    monkeypatch.setattr(answers, "GROUP", 2)
    setting = answers.SETTINGS["tight"]
    monkeypatch.setattr(answers, "SETTINGS", {"tight": replace(setting, rsa=replace(setting.rsa, N=2, C=1, beta=6,
                                                                                     tau=3))})
    read, ways = step.reader, []
    for module in (answers.generate.__globals__, answers.Generator.__init__.__globals__["Engine"].__init__.__globals__):
        monkeypatch.setitem(module, "reader", lambda model, compiled: ways.append(compiled) or read(model, compiled))
    learner, learners = answers.Learner, []
    monkeypatch.setattr(answers, "Learner", lambda *args: learners.append(args[2:]) or learner(*args))
    rows = answers.rows(1)
    assert [row["name"] for row in rows] == ["rsa_16_4_2", "cascade_update"]
    assert all(row["ours"] > 0 and row["peer_path"] == "plain" for row in rows)
    assert set(ways) == {None, False} and learners == [(None,), (False,)]


def test_growth_is_measured_and_drawn_beside_the_plan(monkeypatch, tmp_path, capsys):
    """The plan by hand: where reading costs all, a context's keys and values; where multiplying does, every sequence
    costs the same."""
    monkeypatch.setattr(growth, "GROWS", {"context": (8, 1032), "batch": (1, 3)})
    monkeypatch.setattr(growth, "BASE", {"context": 8, "batch": 1, "experts": 2})
    threads = torch.get_num_threads()
    slow_reading = growth.growth(lambda: {"read_gb_s": 1, "gemm_gflops": 1e9}, 1)
    slow_products = growth.growth(lambda: {"read_gb_s": 1e9, "gemm_gflops": 1}, 1)
    assert torch.get_num_threads() == threads
    short, long = slow_reading["rows"]["context"][:2]
    # 1,024 tokens, 6 layers, keys and values of 2 heads of 32 floats: 3.1 MB at 1 GB/s
    assert long["planned_ms"] - short["planned_ms"] == pytest.approx(1024 * 6 * 2 * 64 * 4 / 1e6)
    one, three = slow_products["rows"]["batch"][:2]
    assert one["planned_ms"] == pytest.approx(three["planned_ms"]) and three["batch"] == 3
    assert all(row["ms"] > 0 for rows in slow_reading["rows"].values() for row in rows)
    monkeypatch.setattr(command, "machine", lambda: {"read_gb_s": 1, "gemm_gflops": 1e9})
    assert main(["bench", "--growth", str(tmp_path / "growth.png")]) == 0
    assert (tmp_path / "growth.png").stat().st_size > 5000
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [row[-1] for row in table if row[:2] in (["context", "8"], ["context", "1032"])]
    assert [float(one) - float(two) for one, two in zip(shown[1::2], shown[::2])] == pytest.approx(
        [long["planned_ms"] - short["planned_ms"]] * (len(shown) // 2), abs=0.3)


def test_losses_are_the_peers(monkeypatch):
    """Float32 on both sides: over six steps losses differ by roundings, some 1e-7; another norm's weight shows."""
    monkeypatch.setattr(losses, "LENGTH", 16)
    torch.manual_seed(0)
    model = mz.Zaya(mz.ZayaConfig.preset("nano", num_hidden_layers=2))
    before = model.embed.weight.clone()
    peer = mz.hub.to_transformers(model)
    peer.set_experts_implementation("eager")
    found = losses.curves(model, peer, steps=6)
    assert len(found["ours"]) == len(found["peer"]) == 6 and found["gap"] < 1e-5
    assert found["ours"][4] < found["ours"][0] - 0.05   # the first batch again
    assert torch.equal(model.embed.weight, before)
    with torch.no_grad():
        peer.model.norm.weight.mul_(1.1)
    assert losses.curves(model, peer, steps=1)["gap"] > 1e-4


def test_losses_come_from_weights_that_no_row_has_trained(monkeypatch):
    """The row of training moves ours and the peer's, each its own way; whoever compares losses after it compares two
    models."""
    def train(model, theirs, *rest):
        with torch.no_grad():
            model.norm.weight.add_(0.1)
        return {}

    for name in ("prefill_row", "decode_row", "engine_row"):
        monkeypatch.setattr(command, name, lambda *rest: {})
    for rows in (command.data, answers):
        monkeypatch.setattr(rows, "rows", lambda *rest: [])
    monkeypatch.setattr(command, "machine", lambda device: {"read_gb_s": 1, "gemm_gflops": 1})
    monkeypatch.setattr(command, "train_row", train)
    monkeypatch.setattr(losses, "LENGTH", 8)
    monkeypatch.setattr(losses.curves, "__defaults__", (0, 2))
    assert command.bench(preset="nano")["losses"]["gap"] < 1e-5
