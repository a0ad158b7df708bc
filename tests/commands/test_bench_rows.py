"""Rows of `bench`: memory that one call adds, and answering with and without `step.cpp`."""

from dataclasses import replace

import pytest
import torch

from minizaya.commands.bench import answers, timing
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
    rows = answers.rows(1)
    assert [row["name"] for row in rows] == ["rsa_16_4_2", "cascade_update"]
    assert all(row["ours"] > 0 and row["peer_path"] == "plain" for row in rows)
    assert set(ways) == {None, False}
