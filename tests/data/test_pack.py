"""Packing: the fast path against its definition, clear errors, and documents that do not notice their neighbours."""

import random
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya.data.pack import IGNORE, first_fit, lay_out, pack, pack_naive, wrapped
from minizaya.laws.strategies import randomise

shelves = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=80), st.just(capacity)))


# ---- bins ------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(shelves)
def test_fast_equals_naive_bin_for_bin(shelf):
    lengths, capacity = shelf
    assert pack(lengths, capacity) == pack_naive(lengths, capacity)


def test_an_example_by_hand():
    # 6 and 5 open a bin each; 4 fits both, and the fuller one exactly; 3 and 2 fill the other
    assert mz.pack([2, 5, 3, 6, 4], 10) == [[3, 4], [1, 2, 0]]
    assert pack([], 8) == []
    assert pack([8, 8], 8) == [[0], [1]]


@pytest.mark.parametrize("function", [pack, pack_naive])
@pytest.mark.parametrize("lengths, bins", [
    ([6, 6, 4], [[0, 2], [1]]),                      # two equally full bins: the older one
    ([6, 6, 6, 4, 4, 4], [[0, 3], [1, 4], [2, 5]]),
    ([7, 6, 6, 3, 4, 1], [[0, 3], [1, 4], [2, 5]]),
    ([5, 5, 5, 5], [[0, 1], [2, 3]]),                # two equal documents: the earlier one first
    ([4, 7, 4, 7, 3, 3], [[1, 4], [3, 5], [0, 2]]),
    ([10, 10, 10], [[0], [1], [2]]), ([1], [[0]]), ([1] * 11, [list(range(10)), [10]])])
def test_ties_go_to_the_earlier(function, lengths, bins):
    assert function(lengths, 10) == bins


def test_lengths_may_be_a_tensor():
    assert pack(torch.tensor([3, 4, 1]), 5) == pack([3, 4, 1], 5)


@pytest.mark.parametrize("function", [pack, pack_naive, first_fit])
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match=r"lengths\[2\] = 9; trim it first"):
        function([1, 8, 9], 8)
    with pytest.raises(ValueError, match=r"lengths\[0\] = 0"):
        function([0, 1], 8)
    with pytest.raises(ValueError, match=r"lengths\[1\] = 2.5"):
        function([1, 2.5], 8)
    for capacity in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="capacity"):
            function([1], capacity)


def heavy_tail(count, capacity, seed=0):
    draw = random.Random(seed)
    return [min(capacity, max(1, int(draw.lognormvariate(5.5, 1.2)))) for _ in range(count)]


def test_time_grows_like_n_log_n():
    """Twenty times the documents: 20 times the time if it grows like n log n, 400 times if like n^2.

    The limit of 60 leaves room for a busy machine; each time is the best of three.
    """
    def seconds(lengths):
        best = []
        for _ in range(3):
            start = time.perf_counter()
            pack(lengths, 4096)
            best.append(time.perf_counter() - start)
        return min(best)

    assert seconds(heavy_tail(40_000, 4096)) < 60 * seconds(heavy_tail(2_000, 4096))


def test_best_fit_fills_more_than_first_fit():
    """Order decides it: long documents first, short ones into the gaps they leave. Half of these documents are longer
    than half a row, so gaps there are. Five seeds, every one."""
    for seed in range(5):
        lengths = heavy_tail(1000, 512, seed)
        assert len(pack(lengths, 512)) < len(first_fit(lengths, 512))


@settings(deadline=None)
@given(shelves)
def test_wrapping_loses_no_token_but_cuts_documents(shelf):
    lengths, capacity = shelf
    lengths = [2 * n for n in lengths]  # longer than a row is allowed here
    rows = wrapped(lengths, capacity)
    assert len(rows) == -(-sum(lengths) // capacity)
    assert all(sum(stop - start for _, start, stop in row) == capacity for row in rows[:-1])
    tokens = [(i, t) for row in rows for i, start, stop in row for t in range(start, stop)]
    assert tokens == [(i, t) for i, n in enumerate(lengths) for t in range(n)]


def test_wrapping_by_hand():
    assert wrapped([3, 6], 4) == [[(0, 0, 3), (1, 0, 1)], [(1, 1, 5)], [(1, 5, 6)]]
    for bad in (0, 2.5):
        with pytest.raises(ValueError, match="capacity"):
            wrapped([3], bad)


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_ignore_is_the_number_that_losses_skip():
    assert IGNORE == -100
    assert F.cross_entropy(torch.randn(1, 4), torch.tensor([IGNORE])).isnan()  # the mean over no target


def test_rows_by_hand():
    rows = lay_out([[5, 6, 7], [8], [9, 4]], [[0, 2], [1]], 6, pad_id=1, loss_masks=[[1, 0, 1], [1], [0, 1]])
    assert rows.tokens.tolist() == [[5, 6, 7, 9, 4, 1], [8, 1, 1, 1, 1, 1]]
    assert rows.targets.tolist() == [[-100, 7, -100, 4, -100, -100], [-100] * 6]
    assert rows.doc_ids.tolist() == [[0, 0, 0, 2, 2, -1], [1, -1, -1, -1, -1, -1]]
    assert torch.equal(rows.mask, rows.doc_ids >= 0)


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match=r"bins\[1\].*capacity of 4"):
        lay_out([[1], [1, 2, 3], [1, 2]], [[0], [1, 2]], 4, 0)
    with pytest.raises(ValueError, match="document 0 twice"):
        lay_out([[1]], [[0], [0]], 4, 0)
    with pytest.raises(ValueError, match=r"loss_masks\[0\]"):
        lay_out([[1, 2]], [[0]], 4, 0, [[True]])


# ---- the model on packed rows ----------------------------------------------------------------------------------------

VOCABULARY, CAPACITY = 23, 16


def packed_case(seed, backend, **changes):
    """A small model in float64 with every parameter drawn anew, documents, and the rows they are packed into."""
    cfg = mz.ZayaConfig.preset("nano", vocab_size=VOCABULARY, hidden_size=12, num_hidden_layers=3,
                               num_attention_heads=4, num_key_value_heads=2, head_dim=4, moe_intermediate_size=6,
                               router_hidden_size=5, pad_token_id=0, **changes)
    model = randomise(mz.Zaya(cfg, backend=backend), seed)
    draw = random.Random(seed)
    documents = [torch.tensor([draw.randrange(1, VOCABULARY) for _ in range(draw.randint(1, 9))]) for _ in range(9)]
    bins = pack([len(d) for d in documents], CAPACITY)
    assert max(map(len, bins)) >= 2 and min(sum(len(documents[i]) for i in b) for b in bins) < CAPACITY
    return model, documents, lay_out(documents, bins, CAPACITY, pad_id=0)


def loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def gradients(model):
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return grads


KINDS = [("fast", {}), ("reference", {}), ("fast", dict(layer_types=("hybrid", "hybrid_sliding", "hybrid"),
                                                        sliding_window=3))]


@pytest.mark.parametrize("backend, changes", KINDS, ids=["fast", "reference", "sliding"])
@pytest.mark.parametrize("seed", range(3))
def test_packed_loss_and_gradients_are_those_of_the_documents_alone(seed, backend, changes):
    """float64: the same sums in another order, which loses about 1e-14 of gradients of size up to a few hundred."""
    model, documents, rows = packed_case(seed, backend, **changes)
    together = loss(model(rows.tokens, doc_ids=rows.doc_ids, mask=rows.mask).logits, rows.targets)
    together.backward()
    packed_gradients = gradients(model)

    alone = sum(loss(model(d[None]).logits[:, :-1], d[None, 1:]) for d in documents if len(d) > 1)
    alone.backward()
    assert together.item() == pytest.approx(alone.item(), rel=1e-12)
    for name, wanted in gradients(model).items():
        assert wanted.abs().max() > 1e-3, f"the test needs a gradient of {name}"
        torch.testing.assert_close(packed_gradients[name], wanted, rtol=1e-9, atol=1e-9,
                                   msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("backend, changes", KINDS, ids=["fast", "reference", "sliding"])
def test_no_gradient_reaches_another_document(backend, changes):
    """Exactly zero, not small: a masked weight is exactly zero, and so is what flows back through it."""
    model, documents, rows = packed_case(5, backend, **changes)
    found = []

    def keep(module, args, out):
        out.retain_grad()
        found.append(out)

    handle = model.embed.register_forward_hook(keep)
    for mine in range(len(documents)):
        logits = model(rows.tokens, doc_ids=rows.doc_ids, mask=rows.mask).logits
        logits[rows.doc_ids == mine].square().sum().backward()
        reached = found.pop().grad.abs().sum(-1)
        assert (reached[rows.doc_ids == mine] > 0).all()
        assert (reached[rows.doc_ids != mine] == 0).all(), "a gradient crossed a border"
    handle.remove()


def test_changing_one_document_changes_no_other():
    """1e-12 in float64 is rounding: experts then work on other groups of tokens, in another order."""
    model, documents, rows = packed_case(7, "fast")
    other = rows.tokens.clone()
    mine = rows.doc_ids == 2
    other[mine] = other[mine] % (VOCABULARY - 1) + 1
    with torch.no_grad():
        before, after = (model(t, doc_ids=rows.doc_ids, mask=rows.mask).logits for t in (rows.tokens, other))
    assert (before - after)[mine].abs().max() > 1e-3
    assert (before - after)[rows.mask & ~mine].abs().max() < 1e-12


def test_without_document_ids_it_does_leak():
    """The control: the same rows as plain text give other numbers."""
    model, documents, rows = packed_case(7, "fast")
    with torch.no_grad():
        fenced = model(rows.tokens, doc_ids=rows.doc_ids, mask=rows.mask).logits
        plain = model(rows.tokens, mask=rows.mask).logits
    later = rows.mask & (rows.doc_ids != rows.doc_ids[:, :1])
    assert (fenced - plain)[later].abs().max() > 1e-3
    assert (fenced - plain)[rows.mask & ~later].abs().max() < 1e-12


def test_padding_is_left_out_of_the_load():
    model, documents, rows = packed_case(1, "fast")
    routes = model(rows.tokens, doc_ids=rows.doc_ids, mask=rows.mask).routes
    counts = mz.balance.counts(routes, model.config.num_experts, rows.mask)
    assert (counts.sum(-1) == sum(map(len, documents))).all()
