"""The golden values judge what changes a logit, and nothing else that a config.json may say."""

import json

import pytest
import torch

import minizaya as mz
from minizaya.hub import golden, shards
from minizaya.hub.paging import PagedZaya
from minizaya.laws.strategies import randomise

CONFIG = mz.ZayaConfig.preset("nano", vocab_size=31, num_hidden_layers=2, hidden_size=32, num_experts=3, pad_token_id=0,
                              bos_token_id=1, eos_token_id=2)


@pytest.fixture
def folder(tmp_path):
    return shards.save(randomise(mz.Zaya(CONFIG), 3).float(), tmp_path / "w", "transformers", torch.bfloat16)


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_torchs_default_device_changes_nothing(folder):
    right = golden.record(PagedZaya(folder, torch.bfloat16), [1, 5, 9, 30])
    with torch.device("meta"):
        assert golden.examine(folder, right)["ok"]


def test_what_no_logit_depends_on_may_differ(folder):
    right = golden.record(PagedZaya(folder, torch.bfloat16), [1, 5, 9, 30])
    rewrite(folder, eos_token_id=[7, 2], pad_token_id=None, bos_token_id=4, initializer_range=0.5, sliding_window=9)
    assert golden.examine(folder, right, sums=False)["ok"]


@pytest.mark.parametrize("change", [dict(rms_norm_eps=1e-3),
                                    dict(layer_types=["hybrid", "hybrid_sliding"], sliding_window=9),
                                    dict(rope_parameters={"hybrid": {"rope_theta": 77.0,
                                                                  "partial_rotary_factor": 0.5}})])
def test_what_a_logit_depends_on_must_not(folder, change):
    right = golden.record(PagedZaya(folder, torch.bfloat16), [1, 5, 9, 30])
    rewrite(folder, **change)
    with pytest.raises(ValueError, match="the golden values are of a model with"):
        golden.examine(folder, right, sums=False)
    with pytest.raises(ValueError, match="config.json is damaged: its SHA-256"):
        PagedZaya(folder).mapped.verify()


def test_the_window_counts_where_a_layer_slides(tmp_path):
    slides = mz.ZayaConfig(**CONFIG.to_dict() | {"layer_types": ["hybrid", "hybrid_sliding"], "sliding_window": 3})
    folder = shards.save(randomise(mz.Zaya(slides), 3).float(), tmp_path / "w", dtype=torch.bfloat16)
    right = golden.record(PagedZaya(folder, torch.bfloat16), [1, 5, 9, 30, 4])
    assert golden.examine(folder, right)["ok"]
    rewrite(folder, sliding_window=2)
    with pytest.raises(ValueError, match="sliding_window is 2, the golden values are of a model with 3"):
        golden.examine(folder, right, sums=False)


def test_the_golden_values_are_those_of_the_port():
    """As the tests of `transformers`' ZAYA have them; the text begins with <bos>, and ends with its turn."""
    right = golden.RELEASED
    assert right.tokens == [2, 9259, 236888, 2088, 740, 564, 6361, 611, 3124, 236881, 106]
    assert right.argmax == [105, 9731, 107, 740, 564, 1601, 611, 236881, 236881, 107, 107]
    assert right.logits == [[0.0223, 0.0228, 0.0234], [-1.4297] * 3, [-3.0469] * 3]
    assert right.config == mz.ZayaConfig.preset("zaya1-8b") and golden.TOLERANCE == 1e-3


@pytest.mark.parametrize("off, near", [(0.0, True), (0.9e-3, True), (1.1e-3, False), (float("nan"), False)])
def test_how_far_a_logit_may_be_off(folder, monkeypatch, off, near):
    """A thousandth, and a thousandth of itself; the report says which of the two it was."""
    right = golden.Golden(CONFIG, [1, 5], [3, 4], [[1.0, 0.0], [0.0, 2.0]])
    said = golden.Golden(CONFIG, [1, 5], [3, 4], [[1.0 + 2 * off, off], [-off, 2.0 - 3 * off]])
    monkeypatch.setattr(golden, "record", lambda model, tokens, corner: said if corner == 2 else None)
    facts = golden.examine(folder, right)
    assert facts["ok"] == facts["logits_ok"] == near and facts["argmax_ok"] and facts["sums_checked"] == 2
    assert ("rounding in another order" in golden.report(facts)) != near
    assert golden.report(facts).splitlines()[0] == f"{folder}, layout transformers; 2 files have their SHA-256"
    assert golden.report(facts).endswith("the released weights, read rightly") == near
    wrong = golden.examine(folder, golden.Golden(CONFIG, [1, 5], [3, 9], right.logits), sums=False)
    assert not wrong["ok"] and not wrong["argmax_ok"] and "wanted                [3, 9]" in golden.report(wrong)
    assert "no sums beside the weights" in golden.report(wrong)
    both = golden.report(wrong | {"logits_ok": False})
    assert both.count("✘") == 2 and "the tokens are right" not in both
