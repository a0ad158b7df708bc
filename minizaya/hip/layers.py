"""`Zaya(config, backend="hip")`: one layer whose parts are kernels, forward and training.

The modules and their weights are those of `arch/block.py`; only what runs is another. Whatever a kernel does not take
(a type, an ablation, padding, a machine without a compiler) goes to the fast path of PyTorch, and a warning says so
once.

The second merge of a layer is followed by the next layer's norm, which this layer does not know; it stays with PyTorch.
"""

from einops import rearrange
from torch import Tensor, nn

from ..arch.attention import Place
from ..arch.attention import attend as attend_by_torch
from ..arch.block import Block
from ..arch.cache import Cache
from ..arch.cca import CCA
from ..arch.experts import Experts
from ..arch.residual import ResidualScaling
from ..arch.router import Router
from . import ops
from .ops import usable


class HipBlock(Block):
    """norm -> CCA -> merge and norm -> router and experts -> merge, as `Block`, by kernels where they fit."""

    def forward(self, stream: Tensor, place: Place, below: Tensor | None, cache: Cache | None = None,
                pinned: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """As `Block.forward`."""
        out = attend(self.attention, self.attention_norm(stream), place, cache)
        stream, x = merge_and_norm(self.attention_merge, self.moe_norm, out, stream)
        routes, gates, probs, state = route(self.router, x, below, pinned)
        stream = self.moe_merge(visit(self.experts, x, routes, gates), stream)
        return stream, routes, probs, state


def merge_and_norm(merge: nn.Module, norm: nn.Module, output: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """The new stream, and its norm."""
    if isinstance(merge, ResidualScaling):
        vectors = merge.output_scale, merge.output_bias, merge.residual_scale, merge.residual_bias, norm.weight
        flat = output.flatten(0, 1), stream.flatten(0, 1)
        if usable("residual_norm", *flat, *vectors, norm.eps):
            stream, x = ops.residual_norm(*flat, *vectors, norm.eps)
            return stream.view_as(output), x.view_as(output)
    stream = merge(output, stream)
    return stream, norm(stream)


def attend(layer: CCA, x: Tensor, place: Place, cache: Cache | None) -> Tensor:
    """The CCA module `layer` on x (b, t, E)."""
    cfg = layer.config
    if place.valid is not None:
        x = x * place.valid[..., None]       # padding must not leak through the convolutions
    standard = cfg.num_convs == 2 and cfg.qk_mean and cfg.value_shift and not cfg.attention_bias
    weights = (layer.conv_depthwise.weight, layer.conv_depthwise.bias, layer.conv_grouped.weight,
               layer.conv_grouped.bias, layer.temperature) if standard else ()
    if not standard:
        ops.warn("cca_mix", "the config changes one of its parts (an ablation, or attention_bias)")
    if standard and usable("cca_mix", x, *weights):
        q, k, v = mixed(layer, x, weights, place, cache)
    else:
        q, k, v = layer.project(x, place, cache)
    if cache is not None:
        k, v = cache.extend(layer.layer, k, v)
    return layer.up_proj(rearrange(attention(layer, q, k, v, place), "b t h d -> b t (h d)"))


def mixed(layer: CCA, x: Tensor, weights: tuple[Tensor, ...], place: Place,
          cache: Cache | None) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of `CCA.project`, by the kernel `cca_mix`."""
    cfg = layer.config
    packed, past, before = layer.down_proj(x), None, None
    if cache is not None:
        z, _, then = packed.split((cfg.query_size + cfg.kv_size, cfg.kv_size // 2, cfg.kv_size // 2), dim=-1)
        past, before = cache.exchange(layer.layer, z, then)
    batch = len(x)
    cosine, sine = (angle.squeeze(-2).reshape(-1, x.shape[1], angle.shape[-1]) for angle in place.angles[layer.sliding])
    position = None if place.position is None else place.position.int()
    if past is not None and len(past) != batch:
        raise RuntimeError(f"the cache holds {len(past)} sequences, x has {batch}")
    return ops.cca_mix(packed, *weights, cosine, sine, position, past, before)


def attention(layer: CCA, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
    """Causal attention, (b, t, h, d): by the kernel where nothing is padded."""
    window = layer.config.sliding_window if layer.sliding else 0
    if not place.regular:
        ops.warn("cca_attention", "it takes no padding, and no sequences of different lengths side by side")
    if not place.regular or not usable("cca_attention", q, k, v):
        return attend_by_torch(q, k, v, place.masks[layer.sliding])
    documents = None
    if place.position is not None:      # a document begins wherever the place in it is 0
        documents = (place.position == 0).cumsum(1).int()
    return ops.cca_attention(q, k, v, documents, window)


def route(router: Router, x: Tensor, below: Tensor | None, pinned: Tensor | None) -> tuple[Tensor | None, ...]:
    """Routes, gates, probs and state of the Router module."""
    if router.linear:
        ops.warn("router", "the router is a single matrix")
        return router(x, below, pinned)
    mlp, flat = router.mlp, x.flatten(0, 1)
    scale = getattr(router, "eda_scale", None)
    state = None if scale is None or below is None else below.flatten(0, 1)
    args = (flat, state, None if state is None else scale, router.down_proj.weight, router.down_proj.bias,
            mlp.norm.weight, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, mlp.out_proj.weight,
            router.balancing_bias, mlp.norm.eps)
    if not usable("router", *args):
        return router(x, below, pinned)
    found = ops.router(*args, None if pinned is None else pinned.flatten().long())
    return tuple(part.unflatten(0, x.shape[:2]) for part in found)


def visit(experts: Experts, x: Tensor, routes: Tensor, gates: Tensor) -> Tensor:
    """The Experts module on x (b, t, D)."""
    args = x.flatten(0, 1), routes.flatten(), gates.flatten(), experts.gate_up_proj, experts.down_proj
    if not usable("moe", *args):
        return experts(x, routes, gates)
    return ops.moe(*args).view_as(x)
