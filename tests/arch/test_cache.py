"""What a cache costs: it grows by doubling, keeps nothing else alive, and makes what it makes where its model is."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya.arch import balance
from minizaya.arch.attention import causal_mask, locate
from minizaya.arch.cache import Cache, moved

CONFIG = mz.ZayaConfig.preset("nano", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                              head_dim=8, moe_intermediate_size=16, router_hidden_size=8)


def model():
    torch.manual_seed(0)
    return mz.Zaya(CONFIG).eval()


@pytest.mark.parametrize("chunk", [1, 3, 16, 40])
@torch.no_grad()
def test_a_cache_doubles(chunk):
    """n tokens in chunks: as many allocations as n doubles, and never more than twice the room that was needed."""
    cache = Cache(CONFIG, 1, torch.float32)
    rooms, held = [], 0
    for _ in range(-(-400 // chunk)):
        k = torch.full((1, chunk, 2, 8), float(held))
        keys, values = cache.extend(0, k, -k)
        held += chunk
        cache.length = held
        room = cache.kv[0].shape[2]
        assert torch.equal(keys[0, ::chunk, 0, 0], torch.arange(0.0, held, chunk)) and torch.equal(values, -keys)
        assert held <= room <= max(16, 2 * held, chunk)
        if not rooms or rooms[-1] != room:
            rooms.append(room)
    assert rooms[0] == max(16, chunk)
    assert all(after == 2 * before for before, after in zip(rooms, rooms[1:])) and len(rooms) <= 6


@pytest.mark.parametrize("steps", [1, 2, 50])
@torch.no_grad()
def test_a_cache_keeps_only_its_own_ends_alive(steps):
    """The storage behind what is remembered is no larger than what is remembered, and is shared with no one."""
    cache = Cache(CONFIG, 2, torch.float32)
    z, then = torch.randn(2, steps, cache.columns[0].shape[2]), torch.randn(2, steps, 8)
    for _ in range(3):
        cache.exchange(0, z, then)
    for kept, came in ((cache.columns[0], z), (cache.delayed[0], then)):
        assert kept.is_contiguous() and kept.untyped_storage().nbytes() == kept.nbytes
        assert kept.untyped_storage().data_ptr() != came.untyped_storage().data_ptr()
    assert torch.equal(cache.columns[0], torch.cat([z, z, z], 1)[:, -CONFIG.conv_lag:])
    assert torch.equal(cache.delayed[0], then[:, -1])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=n + 2))))
@example((5, [0, 4, 2, 3]))          # one left, and the last one took its place
@example((6, [1, 0, 2, 3, 4, 5]))    # two changed places: read before either is written
@example((4, [0, 1]))                # half of the memory would lie idle
@example((3, [2, 1, 0, 0]))          # more than there were
@example((3, []))
@example((4, [3, 3, 2, 3]))          # the same one twice
@torch.no_grad()
def test_rows_move_in_place_or_not(case):
    """Twice in a row, whatever was asked for; at most half of the memory is idle, and it is copied only when it was."""
    n, rows = case
    kv, index = torch.randn(2, n, 3, 1, 2), torch.tensor(rows, dtype=torch.int64)
    want = kv.clone()[:, index]
    got = moved(kv, index)
    assert torch.equal(got, want)
    stay = sum(a == b for a, b in zip(rows, range(n)))
    in_place = n >= len(rows) > n / 2 and len(rows) - stay <= len(rows) / 2
    assert (got.untyped_storage().data_ptr() == kv.untyped_storage().data_ptr()) == in_place
    again = torch.arange(len(rows) // 2 + 1)[: len(rows)]
    want = got.clone()[:, again]
    got = moved(got, again)
    assert torch.equal(got, want) and (not rows or len(again) > got.untyped_storage().nbytes() / 2 / got[:, 0].nbytes)


def test_what_a_gradient_goes_through_is_not_written_over():
    """Attention's way back reads the keys that it saw, and they are these."""
    leaf = torch.randn(2, 4, 3, 1, 2, requires_grad=True)
    kv = leaf * 1.0
    seen = kv.square().sum()
    (seen + moved(kv, torch.tensor([0, 3, 2])).sum()).backward()
    left = torch.tensor([1.0, 0, 1, 1])[:, None, None, None]
    assert torch.equal(leaf.grad, 2 * leaf.detach() + left)


@torch.no_grad()
def test_a_mask_of_rows_is_no_list_of_them():
    kv = torch.randn(2, 4, 3, 1, 2)
    mask = torch.tensor([True, True, False, True])
    assert torch.equal(moved(kv.clone(), mask), kv[:, mask])


@torch.no_grad()
def test_a_selected_cache_lets_the_others_go():
    whole = model().new_cache(4)
    model()(torch.arange(3, 23).view(4, 5), cache=whole)
    whole.select(torch.tensor([2]))
    for kept in (*whole.kv, *whole.columns, *whole.delayed):
        assert kept.untyped_storage().nbytes() == kept.nbytes
    assert whole.held().tolist() == [5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_bytes_per_token_before_and_after_the_first(dtype):
    cache = Cache(CONFIG, 3, dtype)
    empty = cache.bytes_per_token
    for layer in range(2):
        cache.extend(layer, *torch.zeros(2, 3, 7, 2, 8, dtype=dtype))
    # keys and values, two heads of eight numbers, two layers
    assert empty == cache.bytes_per_token == 2 * 2 * 8 * 2 * torch.empty(0, dtype=dtype).element_size()


def test_everything_is_made_where_the_model_is():
    cache = Cache(CONFIG, 2, torch.float16, torch.device("meta"))
    made = [*cache.kv, *cache.columns, cache.held(), cache.advance(3, torch.ones(2, 3, device="meta").bool())]
    assert {tensor.device.type for tensor in made} == {"meta"}


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
@torch.no_grad()
def test_loads_are_float32_whatever_the_default(default):
    routes, before = torch.randint(0, 4, (2, 9, 3)), torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        load, bias = mz.balance.load(routes, 3), mz.balance.SignBalancer(3).bias
    finally:
        torch.set_default_dtype(before)
    assert load.dtype == bias.dtype == torch.float32 and torch.equal(load, mz.balance.load(routes, 3))


@pytest.mark.parametrize("visits, load", [([0, 0, 0], [0, 0]), ([0, 0, 5], [0, 0]), ([1, 2, 1], [0.25, 0.5]),
                                          ([3, 0, 0], [1, 0])])
def test_load_of_any_visits(visits, load):
    found = mz.balance.fractions(torch.tensor(visits))
    assert found.tolist() == load
    assert mz.balance.entropy(found).isfinite() and mz.balance.max_violation(found).isfinite()
    if not any(load):
        assert (float(mz.balance.entropy(found)), float(mz.balance.max_violation(found))) == (1, 0)


def test_recomputation_keeps_a_cache_filled():
    """With gradients on, too: what runs again in the backward pass must not take a token in twice, or not at all."""
    own, tokens, found = model(), torch.tensor([[5, 6, 7]]), []
    for own.recompute in (False, True):
        cache = own.new_cache(1)
        own(tokens, cache=cache)
        found.append(own(torch.tensor([[8]]), cache=cache).logits)
        assert cache.length == 4 and cache.kv[0].shape[2] >= 4
    assert torch.equal(*found)


@pytest.mark.parametrize("window", [1, 3])
def test_a_row_one_longer_than_the_window_is_cropped(window):
    config = mz.ZayaConfig.preset("nano", layer_types=["hybrid_sliding"] * 4, sliding_window=window)
    for steps in (window, window + 1):
        mask = locate(config, 1, steps, 0, torch.float32, torch.device("cpu")).masks[True]
        seen = causal_mask(torch.arange(steps), torch.arange(steps), window)
        assert (mask is None) == (steps == window) and (mask is None or torch.equal(mask[0, 0], seen))


def test_evenness_where_nobody_is_visited_or_there_is_one_expert():
    nobody, all_to_one = torch.zeros(2, 4), torch.tensor([0.0, 0.7, 0, 0])
    assert balance.entropy(nobody).tolist() == [1.0, 1.0] and balance.max_violation(nobody).tolist() == [0.0, 0.0]
    assert balance.entropy(all_to_one) == 0 and balance.max_violation(all_to_one) == pytest.approx(3)
    assert balance.entropy(torch.ones(1)) == 1 and balance.entropy(torch.zeros(1)) == 1
