"""Laws of what a balancer remembers and hands out, of skipped tokens and of decay. Names start with "balance."."""

import torch
from torch import Tensor

from ..arch import balance as lib
from . import strategies as draw_a
from .balance import ANY, histories, shares, sizes
from .core import expect, finite, law, require


def kept_biases(make):
    def run(loads: Tensor) -> tuple[Tensor, Tensor]:
        """The first biases handed out and a loaded state's bias, both read after the balancer has gone on."""
        first, heir = make(loads.shape[-1]), make(loads.shape[-1])
        handed = first.update(loads[0])
        state = {name: value.clone() for name, value in first.state_dict().items()}
        heir.load_state_dict(state)
        for load in loads:
            first.update(load)
            heir.update(load)
        return handed, state["bias"]
    return run


@law("balance.keeps_still", "biases handed out and states loaded stay as they were when the balancer goes on",
     cases=draw_a.cases(histories), axes=dict(loads="k e"), guards=ANY["guards"],
     subjects={"SignBalancer": kept_biases(lib.SignBalancer), "AdamWBalancer": kept_biases(lib.AdamWBalancer)})
def keeps_still(fn, loads):
    """fn(loads): float32 (k, E) -> the first update's biases (E,) and the bias (E,) of a state taken then and loaded
    into another balancer, both as they are after all k updates of both."""
    got = fn(loads)
    require(len(got) == 2, "two biases are wanted")
    expect(got[0], finite(got[1]), "e", "bias handed out first", exact=True)
    expect(fn(loads[:1].repeat(3, 1))[0], fn(loads[:1])[0], "e", "bias handed out first, three updates later")
    require(fn(torch.tensor([[1.0, 0.0]]))[0].abs().sum() > 0, "the bias never moves")


def sign_after(load: Tensor) -> Tensor:
    return lib.SignBalancer(load.shape[-1], lr=0.25).update(load)


@law("balance.skipped",
     "an expert is measured against the mean load: when tokens are skipped, even experts are in balance",
     cases=draw_a.cases(sizes), subjects={"SignBalancer": sign_after}, guards=ANY["guards"])
def skipped(fn, experts, steps):
    """fn(load): float32 (E,) -> the biases after one update with step 0.25.
    Some tokens are skipped here, at last all."""
    for load in (torch.full((experts,), 1 / experts / 2 ** steps), torch.zeros(experts)):
        expect(fn(load), torch.zeros(experts), "e", "bias, all experts alike")
    load = torch.zeros(2 * experts)
    load[:experts] = 1 / experts / 2 ** steps
    expect(fn(load), torch.tensor([-0.25, 0.25]).repeat_interleave(experts), "e", "bias, the first half busy")


def decayed(bias: Tensor, load: Tensor, lr: float, decay: float) -> Tensor:
    balancer = lib.AdamWBalancer(len(bias), lr=lr, weight_decay=decay)
    balancer.bias = bias.clone()
    return balancer.update(load)


@law("balance.decay", "AdamW's decay shrinks a bias by the factor 1 - lr * decay, whatever the load",
     cases=draw_a.cases(sizes), guards=ANY["guards"], subjects={"AdamWBalancer": decayed})
def decay(fn, experts, steps):
    """fn(bias, load, lr, weight_decay): float32 (E,), (E,), two numbers -> the biases after one update from `bias`."""
    bias = steps * torch.tensor([1.0, -1.0]).repeat(experts)
    expect(fn(bias, torch.full((2 * experts,), 0.5 / experts), 0.5, 0.25), 0.875 * bias, "e",
           "bias under a uniform load")


def layered(draw):
    return dict(loads=shares(draw, draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 4)))


def every_layer(make):
    def run(loads: Tensor) -> Tensor:
        balancer = make(loads.shape[-1], num_layers=loads.shape[1])
        return torch.stack([balancer.update(load) for load in loads])
    return run


@law("balance.layers", "each layer is balanced by itself: many layers at once are one layer each time",
     cases=draw_a.cases(layered), axes=dict(loads="k l e"), guards=ANY["guards"],
     subjects={"SignBalancer": every_layer(lib.SignBalancer), "PIDBalancer": every_layer(lib.PIDBalancer),
               "AdamWBalancer": every_layer(lib.AdamWBalancer)})
def layers(fn, loads):
    """fn(loads): float32 (k, layers, E) -> the biases after each update, (k, layers, E), starting from zero."""
    got = finite(fn(loads))
    for layer in range(loads.shape[1]):
        expect(got[:, layer: layer + 1], fn(loads[:, layer: layer + 1]), "k l e", f"layer {layer} beside the others")
    moved = torch.zeros(1, 2, 2)
    moved[0, 1, 0] = 1.0
    require(finite(fn(moved))[0, 1].abs().sum() > 0, "the bias never moves")
