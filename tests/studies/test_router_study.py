"""The measures of lesson 03: overlap of subspaces, what a character says about its route, routes thrown by a die."""

import pytest
import torch

from minizaya.studies import overlap, router_nano


def test_overlap_of_equal_orthogonal_and_random_subspaces():
    axes = torch.eye(6, dtype=torch.float64)
    assert float(overlap.overlap(axes[:, :2], axes[:, :2].flip(1))) == 1.0     # another basis of the same plane
    assert float(overlap.overlap(axes[:, :2], axes[:, 2:4])) == 0.0
    draws = torch.randn(400, 2, 32, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chance = torch.stack([overlap.overlap(*torch.linalg.qr(pair)[0]) for pair in draws])
    assert abs(chance.mean() - 4 / 32) < 5 * chance.std() / len(chance) ** 0.5  # the floor d / D


def test_top_subspace_takes_the_strongest_directions_of_the_named_side():
    matrix = torch.diag(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64))[:, [1, 2, 0]]   # maps axis 0 to axis 1
    assert overlap.top_subspace(matrix, 1, "input").abs().argmax() == 0
    assert overlap.top_subspace(matrix, 1, "output").abs().argmax() == 1
    with pytest.raises(ValueError, match="side must be"):
        overlap.top_subspace(matrix, 1, "both")
    for d in (0, 4):
        with pytest.raises(ValueError, match="d must be in 1..3"):
            overlap.top_subspace(matrix, d, "input")


def test_a_route_known_from_the_character():
    tokens = torch.arange(12) % 3
    assert router_nano.known_from(tokens, tokens, 3, 3) == pytest.approx(1.0)
    assert router_nano.known_from(tokens, torch.arange(12) // 6, 3, 3) == pytest.approx(0.0)    # independent
    assert router_nano.known_from(tokens, 0 * tokens, 3, 3) == 0.0                              # nothing to know


def test_every_character_of_the_alphabet_but_one_has_a_class():
    tokens = torch.tensor(router_nano.TOKENIZER.encode(router_nano.text.ALPHABET))
    assert int((router_nano.classify(tokens) == len(router_nano.CLASSES)).sum()) == 1           # the sharp s


def test_the_die_chooses_evenly_and_the_models_start_alike():
    linear, held_out = router_nano.prepare("linear", 0)
    dice, _ = router_nano.prepare("random routes", 0)
    assert torch.equal(linear.model.layers[0].attention.down_proj.weight,
                       dice.model.layers[0].attention.down_proj.weight)
    with torch.no_grad():
        routes = dice.model(held_out[:512].view(4, 128)).routes
    share = torch.bincount(routes.flatten(), minlength=5) / routes.numel()
    assert share[4] == 0 and (share[:4] - 0.25).abs().max() < 0.05


def test_figures_are_paired_by_seed():
    runs = [{"variant": "a", "seed": 0, "loss": [1.0, 3.0]}, {"variant": "b", "seed": 0, "loss": [2.0, 5.0]},
            {"variant": "a", "seed": 1, "loss": [9.0, 9.0]}]
    assert router_nano.paired(runs, "loss", "a", "b") == [1.5]
    assert router_nano.mean_and_error(runs, "a", "loss") == (5.5, pytest.approx(3.5))
