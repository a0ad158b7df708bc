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
