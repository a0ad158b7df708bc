"""The laws on public code: what docs/laws.md says holds, holds, and what it says does not, breaks in that way."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(ROOT / "examples"))
    yield
    sys.path.remove(str(ROOT / "examples"))


def broken(found):
    return {verdict.law: verdict for verdict in found if not verdict}


def test_zaya_as_released():
    import transformers_zaya as zaya

    found = zaya.whole(examples=4)
    assert set(found.left_out) == {"lm.replay", "lm.counts"}
    assert set(broken(found.verdicts)) == {"lm.documents"}       # convolutions and value shift run over the border
    assert found["lm.documents"].case["chunks"] == [1, 1]


@pytest.mark.parametrize("changes, name, words", [
    ({"attention_bias": True}, "lm.padding", "logits of the real tokens"),
    ({"sliding_window": 1}, "lm.chunks", "logits in chunks of [1, 1]: at token 1"),
], ids=str)
def test_zaya_in_other_settings(changes, name, words):
    import transformers_zaya as zaya

    from minizaya import laws

    box = laws.adapt.transformers(zaya.model(**changes))
    verdict = laws.judge(name, box, tol=zaya.TOL)
    assert not verdict and words in verdict.message and verdict.case["tokens"].numel() == 2
    assert laws.judge(name, laws.adapt.transformers(zaya.model()), tol=zaya.TOL, examples=6)


def test_the_parts_of_zaya():
    import transformers_zaya as zaya

    assert not broken(zaya.parts(examples=10).values())


def test_qwen3_moe():
    import transformers_qwen3_moe as qwen

    for dtype in (torch.float64, torch.bfloat16):
        found = qwen.whole(dtype, examples=4)
        assert found and set(found.left_out) == {"lm.replay", "lm.counts"}, str(found)
    strict = broken(qwen.whole(tol=1e-9, examples=12).verdicts)
    assert set(strict) == {"lm.padding"} and "they differ by" in strict["lm.padding"].message
    parts = broken(qwen.parts(examples=10).values())
    assert set(parts) == {"residual.rms_half"} and "you gave type torch.float32" in parts["residual.rms_half"].message


def test_packing_and_sampling():
    import transformers_packing as packing

    found = broken(packing.findings().values())
    assert set(found) == {"decoding.top_p"}
    row = found["decoding.top_p"].case["probs"][0]
    assert (row == row.max()).sum() > 1      # a tie: theirs keeps the later token, the law the earlier
