"""`causal_lm`: any model, or a layer of one, as a black box. Its laws' wrong models: wrong_functions/lm.py."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from minizaya import laws
from wrong_functions.lm import RIGHT, WRONG, forward, step, wrong

ALL = [law.name for law in laws.all("lm")]


def test_a_right_model_passes_all_of_it():
    found = laws.causal_lm(RIGHT, examples=8)
    assert found and [verdict.law for verdict in found.verdicts] == ALL and not found.left_out, str(found)
    assert str(found).count("✔") == len(ALL)


@pytest.mark.parametrize("name, number", [("lm.padding", 0), ("lm.chunks", 0), ("lm.replay", 1)])
def test_a_model_wrong_in_one_part_breaks_the_laws_of_that_part(name, number):
    found = laws.causal_lm(WRONG[name][number], examples=6)
    broken = [verdict.law for verdict in found.verdicts if not verdict]
    assert not found and broken == ([name, "lm.token_by_token"] if name == "lm.chunks" else [name])
    assert found[name].case["tokens"].numel() >= 1


def test_forward_alone_is_enough_and_the_rest_is_said():
    found = laws.causal_lm(forward, vocab=13, examples=5)
    assert found and {verdict.law for verdict in found.verdicts} == {"lm.deterministic", "lm.causal", "lm.batch"}
    assert found.left_out["lm.chunks"] == "it needs `step`, which was not given"
    assert "– lm.replay: it needs `routes`" in str(found)
    with pytest.raises(KeyError, match="it needs `step`"):
        found["lm.chunks"]
    assert laws.causal_lm(forward, vocab=13, step=step, examples=5)["lm.chunks"]


def test_tokens_stay_in_the_vocabulary_and_sequences_as_short_as_asked():
    seen = []
    model = wrong(vocab=5, longest=3, forward=lambda tokens: seen.append(tokens) or forward(tokens))
    assert laws.judge("lm.causal", model) and max(int(x.max()) for x in seen) == 4
    assert {x.shape[1] for x in seen} == {2, 3}


class Layer(nn.Module):
    def __init__(self, leaks):
        super().__init__()
        self.mix, self.leaks = nn.Linear(4, 4), leaks

    def forward(self, x):
        seen = x.cumsum(1) if not self.leaks else x.cumsum(1) + x.flip(1)
        return self.mix(seen)


@torch.random.fork_rng(devices=())
def test_a_layer_is_judged_by_its_width():
    torch.manual_seed(0)
    right, leaks = Layer(False).double(), Layer(True).double()
    assert laws.causal_lm(right, width=4)
    found = laws.causal_lm(leaks, width=4)
    assert not found["lm.causal"] and found["lm.batch"] and found["lm.causal"].case["tokens"].shape[2] == 4
    assert laws.causal_lm(right.float(), width=4, dtype=torch.float32)     # float32 has its own tolerance


def test_tolerances_seeds_and_examples_reach_the_laws():
    counted = iter(range(10**6))
    noisy = wrong(forward=lambda tokens: forward(tokens) * (1 + 1e-6 * next(counted) / 100))
    assert not laws.causal_lm(noisy, examples=4)["lm.batch"]
    found = laws.causal_lm(replace(noisy, step=None), examples=4, seed=3, tol=1e-2)
    assert found["lm.batch"] and not found["lm.deterministic"]             # bit for bit stays
    assert found["lm.batch"].seed == 3 and found["lm.batch"].tried == 4


@pytest.mark.parametrize("dtype, off, right", [
    (torch.float64, 1e-13, True), (torch.float64, 1e-7, False),
    (torch.float32, 1e-6, True), (torch.float32, 1e-3, False),
    (torch.bfloat16, 2 ** -8, True), (torch.bfloat16, 2 ** -1, False)], ids=str)
def test_the_type_of_the_logits_sets_the_tolerance(dtype, off, right):
    """Of a model whose logits are slightly others in company."""
    model = wrong(forward=lambda tokens: (forward(tokens) * (1 + off * (len(tokens) > 1))).to(dtype))
    assert laws.judge("lm.batch", model, shrink=False).passed is right


@pytest.mark.parametrize("parts, words", [
    (dict(), "give either vocab or width, got vocab=None, width=None"), (dict(vocab=3, width=3), "either vocab or"),
    (dict(vocab=1), "vocab must be a whole number from 2 on, got 1"), (dict(width=0), "width must be a whole number"),
    (dict(vocab=9, longest=1), "longest must be"), (dict(vocab=9, step=3), "step must be a function, got 3"),
], ids=str)
def test_wrong_parts_are_one_clear_error(parts, words):
    with pytest.raises(ValueError, match=words):
        laws.causal_lm(forward, **parts)


def test_a_black_box_says_all_by_itself():
    with pytest.raises(ValueError, match="a BlackBox says all by itself; got step, too"):
        laws.causal_lm(RIGHT, step=step)
    with pytest.raises(ValueError, match="forward must be a function, got 3"):
        laws.causal_lm(3, vocab=4)
