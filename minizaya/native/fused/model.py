"""The whole model by fused loops: its loss with gradients, and its answer to prompts. Plain: `arch/model.py`.

Between two layers only the residual stream and its norm are in memory, since a merge and the norm after it are one
loop, whichever layer they belong to.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...arch.attention import Place, attend, locate
from ...arch.block import Block
from ...arch.cache import Cache
from ...arch.cca import CCA
from ...arch.model import Zaya, ZayaOutput, check_inputs
from ...data.pack import IGNORE
from .. import known
from ..compiler import TROUBLE
from . import attend as causal
from .experts import visits
from .library import library
from .loss import SummedLoss
from .merge import merge_norm, rms_norm
from .mix import mixed, standard
from .route import routed


def obstacle(model: nn.Module) -> str | None:
    """Why the loops cannot run this model, or None."""
    why = known.obstacle(model)
    if why is None and model.embed.weight.dtype != torch.float32:
        why = "its weights are not float32"
    if why is None and torch.is_autocast_enabled("cpu"):
        why = "torch.autocast chooses other types"
    if why is None and model.recompute:
        why = "it computes activations twice"
    return why or (TROUBLE[-1] if library() is None else None)


def summed_loss(model: nn.Module, inputs: Tensor, targets: Tensor, doc_ids: Tensor | None = None,
                compiled: bool | None = None) -> tuple[Tensor, Tensor]:
    """Nats of all targets together, a scalar with gradients, and the routes, int64 (b, t, layers).

    Args:
        inputs, targets: int64 (b, t); IGNORE is no target. doc_ids: as in `Zaya.forward`.
        compiled: True: by fused loops; False: the plain way; None: by loops where that can be.
    Raises:
        ValueError: compiled is True and it cannot be; targets of another shape or type than the inputs, or, on a CPU,
            one outside the vocabulary; what `Zaya.forward` raises.
    """
    loops, flat = by_loops(model, compiled), targets.flatten()
    if targets.shape != inputs.shape or targets.dtype != torch.int64:  # the loops would read past the end
        raise ValueError(f"targets must be int64 {tuple(inputs.shape)}, as inputs, got {targets.dtype} "
                         f"{tuple(targets.shape)}")
    if flat.device.type == "cpu" and len(flat):     # elsewhere the loss itself refuses it; to look would be to wait
        low, high = (int(x) for x in torch.where(flat == IGNORE, 0, flat).aminmax())
        if low < 0 or high >= model.config.vocab_size:
            raise ValueError(f"targets must lie in 0..{model.config.vocab_size - 1} or be {IGNORE}, got {low}..{high}")
    if not loops or model.head.bias is not None:
        out = forward(model, inputs, doc_ids=doc_ids) if loops else model(inputs, doc_ids=doc_ids)
        loss = F.cross_entropy(out.logits.flatten(0, 1), flat, ignore_index=IGNORE, reduction="sum")
        return loss, out.routes
    x, routes, _ = hidden(model, inputs, doc_ids=doc_ids)
    return SummedLoss.apply(x.flatten(0, 1), model.head.weight, flat), routes


def logits_at(model: nn.Module, tokens: Tensor, places: Tensor, routes: Tensor | None = None,
              compiled: bool | None = None) -> tuple[Tensor, Tensor]:
    """Logits with gradients where `places`, bool (b, t), is True, (places, vocab), and routes, int64 (b, t, layers).

    routes: to replay, as in `Zaya.forward`; compiled and what is raised: as in `summed_loss`. By loops the head reads
    nothing else: of reinforcement learning's texts only the answers.
    """
    if not by_loops(model, compiled):
        out = model(tokens, routes=routes)
        return out.logits[places], out.routes
    x, routes, _ = hidden(model, tokens, routes=routes)
    return model.head(x[places]), routes


def by_loops(model: nn.Module, compiled: bool | None) -> bool:
    """Do the loops run it? Raises ValueError as `summed_loss` does."""
    if compiled not in (None, True, False):
        raise ValueError(f"compiled must be True, False or None (where it can be), got {compiled!r}")
    why = "it was not asked for" if compiled is False else obstacle(model)
    if compiled and why:
        raise ValueError(f"compiled: this model cannot be trained by fused loops: {why}")
    return why is None


def takes(cache: Cache | None) -> bool:
    """Nothing has been read yet."""
    return cache is None or type(cache) is Cache and cache.length == 0


def forward(model: Zaya, tokens: Tensor, cache: Cache | None = None, routes: Tensor | None = None,
            doc_ids: Tensor | None = None, mask: Tensor | None = None, last_only: bool = False) -> ZayaOutput:
    """As `Zaya.forward`, for a model without `obstacle` and a cache that it `takes`."""
    x, routes, probs = hidden(model, tokens, cache, routes, doc_ids, mask, last_only)
    return ZayaOutput(model.head(x), routes, probs)


def hidden(model: Zaya, tokens: Tensor, cache: Cache | None = None, routes: Tensor | None = None,
           doc_ids: Tensor | None = None, mask: Tensor | None = None,
           last_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """What the head reads, (b, t, E), of the last position alone (b, 1, E); and routes and probs of `ZayaOutput`."""
    check_inputs(model.config, tokens, cache, routes, doc_ids, mask)
    batch, steps = tokens.shape
    valid = mask if cache is None else cache.advance(steps, mask)
    # padding at the left needs no mask, which takes t bytes a token
    lean = causal.able(model.config.head_dim) and causal.at_left(valid)
    place = locate(model.config, batch, steps, 0, torch.float32, tokens.device, doc_ids, None if lean else valid)
    place.valid = valid
    stream = (model.embed(tokens) + model.embed_bias) * model.embed_scale
    after = [*(block.attention_norm for block in model.layers[1:]), model.norm]
    x, state, chosen, probs = rms_norm(model.layers[0].attention_norm, stream), None, [], []
    for layer, block in enumerate(model.layers):
        y = attention(block.attention, x, place, cache)
        stream, x = merge_norm(block.attention_merge, block.moe_norm, y, stream)
        route, gates, prob, state = routed(block.router, x, state, None if routes is None else routes[..., layer])
        chosen.append(route)
        probs.append(prob)
        if last_only and block is model.layers[-1]:   # nobody reads what other tokens' last experts say
            stream, x, route, gates = (part[:, -1:] for part in (stream, x, route, gates))
        stream, x = merge_norm(block.moe_merge, after[layer], visits(block.experts, x, route, gates), stream)
    if cache is not None:
        cache.length, cache.valid = steps, valid
    return x, torch.stack(chosen, -1), torch.stack(probs)


def layer(block: Block, stream: Tensor, place: Place, below: Tensor | None, cache: Cache | None = None,
          pinned: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """As `Block.forward` without a cache, for whoever must call layers one by one; other experts may stand in."""
    y = attention(block.attention, rms_norm(block.attention_norm, stream), place, None)
    stream, x = merge_norm(block.attention_merge, block.moe_norm, y, stream)
    routes, gates, probs, state = routed(block.router, x, below, pinned)
    return block.moe_merge(block.experts(x, routes, gates), stream), routes, probs, state


def attention(layer: CCA, x: Tensor, place: Place, cache: Cache | None) -> Tensor:
    """As `CCA.forward`: x (b, t, E) -> (b, t, E)."""
    if place.valid is not None:
        x = x * place.valid[..., None]   # padding must not leak through the convolutions
    q, k, v = (mixed if standard(layer.config) else CCA.project)(layer, x, place, cache)
    if cache is not None:
        cache.extend(layer.layer, k, v)   # it was empty: these are all keys and values
    if place.regular and causal.able(layer.config.head_dim):
        window = layer.config.sliding_window if layer.sliding else None
        y = causal.attend(q, k, v, causal.firsts(place, *x.shape[:2], window))
    else:
        y = attend(q, k, v, place.masks[layer.sliding])
    return layer.up_proj(rearrange(y, "b t h d -> b t (h d)"))
