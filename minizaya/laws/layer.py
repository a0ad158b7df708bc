"""Laws of a whole CCA layer. Names start with "cca."."""

import torch
from torch import Tensor

from ..arch.attention import locate
from ..arch.cca import CCA
from . import strategies as draw_a
from . import textbook
from .core import expect, finite, law, require


def layers(draw, **fixed):
    cfg = draw_a.config(draw, num_hidden_layers=1, attention_bias=draw_a.flag(draw), **fixed)
    b, t = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 7)
    return dict(config=cfg, seed=draw_a.size(draw, 0, 9999), x=draw_a.tensor(draw, b, t, cfg.hidden_size))


def ablated(draw):
    switches = dict(num_convs=2 - draw_a.size(draw, 0, 2), qk_mean=not draw_a.flag(draw),
                    value_shift=not draw_a.flag(draw)) if draw_a.flag(draw) else {}
    return layers(draw, **switches)


def run_layer(fast: bool):
    def run(layer, x: Tensor) -> Tensor:
        layer.fast = fast
        return layer(x, locate(layer.config, *x.shape[:2], 0, x.dtype, x.device))
    return run


LAYER = dict(subjects={"fast": run_layer(True), "reference": run_layer(False)}, axes=dict(x="b t c"), examples=25,
             guards=[CCA.forward, CCA.project])


def make(config, seed):
    return draw_a.randomise(CCA(config, 0), seed)


@law("cca.layer", "project, convolve, add the mean path, norm, rotate, shift the values, attend, project",
     cases=draw_a.cases(ablated), **LAYER)
@torch.no_grad()
def layer(fn, config, seed, x):
    """fn(layer, x): a `minizaya.arch.cca.CCA` for its weights and config, x float (b, t, E) -> (b, t, E)."""
    module = make(config, seed)
    expect(fn(module, x), textbook.cca(module, x), "b t c")


@law("cca.layer_causal", "a later token never changes an earlier output of the layer",
     cases=draw_a.cases(layers), **LAYER)
@torch.no_grad()
def layer_causal(fn, config, seed, x):
    """fn(layer, x): as in cca.layer. The last token is replaced."""
    module, other = make(config, seed), x.clone()
    other[:, -1] = 1.0 - other[:, -1]
    first, second = finite(fn(module, x)), finite(fn(module, other))
    expect(second[:, :-1], first[:, :-1], "b t c", "after a change of the last token")
    require((second[:, -1] - first[:, -1]).abs().max() > 1e-9, "changing the last token did not change its own output")


@law("cca.layer_batch", "a sequence gets the same output alone as with batch mates", cases=draw_a.cases(layers),
     **LAYER)
@torch.no_grad()
def layer_batch(fn, config, seed, x):
    """fn(layer, x): as in cca.layer."""
    module = make(config, seed)
    together = finite(fn(module, x))
    for b in range(len(x)):
        expect(fn(module, x[b: b + 1]), together[b: b + 1], "b t c", f"sequence {b} alone")
    require(together.std() > 0 or together.numel() == 1, "a constant is not an attention layer")
