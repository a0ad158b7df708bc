"""The compiled products read numbers, not tensors: no type or device of theirs comes from torch's defaults."""

from contextlib import contextmanager

import pytest
import torch

import minizaya as mz
from minizaya.hub import shards
from minizaya.hub.paging import PagedZaya
from minizaya.laws.strategies import randomise
from minizaya.native import matmul


@contextmanager
def default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_products_do_not_ask_for_the_default_type(kind, rows, other):
    random = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, 40, generator=random), torch.randn(24, 40, generator=random)
    for given in (x, x.bfloat16(), x.double()):
        args = matmul.quantise(weight) if kind == "int8" else (weight.to(getattr(torch, kind)), None)
        plain = matmul.matmul(given, *args)
        with default(other):
            again = matmul.quantise(weight) if kind == "int8" else args
            found = matmul.matmul(given, *again)
        assert found.dtype == given.dtype and torch.equal(found, plain)
        assert again[1] is None or again[1].dtype == torch.float32
        close = dict(rtol=0.05, atol=0.6) if given.dtype == torch.bfloat16 or kind != "float32" else {}
        torch.testing.assert_close(found.float(), x @ weight.T, **close)


@pytest.mark.parametrize("rows", [1, 9])
def test_a_scale_of_another_type_or_stride_is_read_right(rows):
    x, (small, scale) = torch.randn(rows, 16), matmul.quantise(torch.randn(6, 16))
    plain = matmul.matmul(x, small, scale)
    spread = torch.stack([scale, -scale], 1)[:, 0]
    assert torch.equal(matmul.matmul(x, small, spread), plain)
    torch.testing.assert_close(matmul.matmul(x, small, scale.double()), plain)


def test_tensors_elsewhere_are_not_read_by_address():
    x, weight = torch.empty(2, 8, device="meta"), torch.empty(5, 8, device="meta", dtype=torch.bfloat16)
    assert matmul.matmul(x, weight).shape == (2, 5)
    assert {part.device.type for part in matmul.quantise(weight)} == {"meta"}


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16])
def test_a_paged_model_does_not_ask_for_the_default_type(tmp_path, other):
    config = mz.ZayaConfig.preset("nano", hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                  num_key_value_heads=2, head_dim=8, num_experts=3, moe_intermediate_size=8,
                                  router_hidden_size=6)
    folder = shards.save(randomise(mz.Zaya(config), 3).float().to(torch.bfloat16), tmp_path / "w", "minizaya")
    tokens = torch.tensor([[4, 5, 6], [7, 8, 9]])

    def run():
        model = PagedZaya(folder)
        cache = model.new_cache(2)
        with torch.inference_mode():
            model(tokens, cache=cache)
            return [model(token, cache=cache).logits for token in (tokens[:, :1], tokens[:, 1:2])]

    plain = run()
    with default(other):
        again = run()
    for one, two in zip(plain, again):
        assert two.dtype == torch.float32 and torch.equal(one, two)
