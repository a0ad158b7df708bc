"""The whole model: embedding, layers, norm, head."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import ZayaConfig
from .attention import locate
from .block import Block
from .cache import Cache
from .residual import RMSNorm, at_least_float32


@dataclass
class ZayaOutput:
    """What `Zaya` returns.

    logits: (b, t, vocab), at least float32. routes: int64 (b, t, layers), the expert each token went to; num_experts
    means skipped. probs: (layers, b, t, num_experts + 1), the unbiased softmax of every router.
    """

    logits: Tensor
    routes: Tensor
    probs: Tensor


class Zaya(nn.Module):
    """ZAYA1: a decoder whose layers are CCA and a top-1 mixture of experts.

    Args:
        config: sizes and switches. backend: "fast" (grouped experts, tapped convolutions, fused attention) or
            "reference" (the teaching text, slow), or "hip" (the kernels of `kernels/`, on a CPU by fibers, which is for
            learning, not for speed); equal within rounding.
    Raises:
        ValueError: unknown backend.

    Equal to `transformers.ZayaForCausalLM`; `minizaya.hub` copies weights both ways.
    """

    def __init__(self, config: ZayaConfig, backend: str = "fast"):
        super().__init__()
        if backend not in ("fast", "reference", "hip"):
            raise ValueError(f"backend must be 'fast', 'reference' or 'hip', got {backend!r}")
        block = Block
        if backend == "hip":
            from ..hip.layers import HipBlock as block  # here, not above: who does not use kernels need not have them
        self.config = config
        self.recompute = False  # activation checkpointing: keep a layer's input only, and run it again for its gradient
        # padding_idx: looking up the pad token sends no gradient to its row
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.embed_scale = nn.Parameter(torch.ones(config.hidden_size))
        self.embed_bias = nn.Parameter(torch.zeros(config.hidden_size))
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(block(config, layer, backend != "reference") for layer in layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        if config.tie_word_embeddings:
            self.head.weight = self.embed.weight
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Matrices and convolutions ~ N(0, initializer_range), biases zero; scales, norms and temperatures stay one."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, self.config.initializer_range)
            elif name.endswith("bias"):
                parameter.zero_()

    def new_cache(self, batch: int) -> Cache:
        """An empty `Cache` for `batch` sequences, in the model's type and place."""
        weight = self.embed.weight
        return Cache(self.config, batch, weight.dtype, weight.device)

    def forward(self, tokens: Tensor, cache: Cache | None = None, routes: Tensor | None = None,
                doc_ids: Tensor | None = None, mask: Tensor | None = None, last_only: bool = False) -> ZayaOutput:
        """tokens: int64 (b, t) -> `ZayaOutput`.

        Args:
            cache: from `new_cache`; holds the past and takes in these tokens. The outputs equal the uncached ones,
                whatever the chunks.
            routes: int (b, t, layers), experts to replay; -1 where nothing was recorded. Gates are computed anew and
                gradients flow through them.
            doc_ids: int (b, t); equal neighbours are one document and nothing crosses a border. Not with a cache.
            mask: bool (b, t); False is padding, which no other token sees. trap: with `attention_bias`, which no
                released model has, padding at the left is not quite nothing: its projection is the bias.
            last_only: logits of the last position only, (b, 1, vocab): all that decoding needs.
        Raises:
            ValueError: tokens outside the vocabulary, shapes that disagree, doc_ids together with a cache.
        """
        check_inputs(self.config, tokens, cache, routes, doc_ids, mask)
        batch, steps = tokens.shape
        valid, past = mask, 0
        if cache is not None:
            past, valid = cache.length, cache.advance(steps, mask)
        weight = self.embed.weight
        place = locate(self.config, batch, steps, past, weight.dtype, tokens.device, doc_ids, valid)
        if cache is not None:
            place = cache.placed(place)

        x = (self.embed(tokens) + self.embed_bias) * self.embed_scale
        stream = x.to(at_least_float32(x.dtype))
        state, chosen, probs = None, [], []
        for layer, block in enumerate(self.layers):
            pinned = None if routes is None else routes[..., layer]
            if self.recompute and torch.is_grad_enabled() and cache is None:
                # the same block with the same pinned routes, once more in the backward pass, instead of its activations
                stream, route, prob, state = checkpoint(block, stream, place, state, None, pinned, use_reentrant=False)
            else:
                stream, route, prob, state = block(stream, place, state, cache, pinned)
            chosen.append(route)
            probs.append(prob)
        if cache is not None:
            cache.length, cache.valid = past + steps, valid
        if last_only:
            stream = stream[:, -1:]
        logits = self.head(self.norm(stream))
        return ZayaOutput(logits.to(at_least_float32(logits.dtype)), torch.stack(chosen, -1), torch.stack(probs))


def check_inputs(config: ZayaConfig, tokens: Tensor, cache: Cache | None, routes: Tensor | None,
                 doc_ids: Tensor | None, mask: Tensor | None) -> None:
    """One clear ValueError for each way the inputs of `Zaya.forward` can be wrong."""
    if tokens.dtype != torch.int64 or tokens.dim() != 2 or tokens.numel() == 0:
        given = f"{tokens.dtype} {tuple(tokens.shape)}"
        raise ValueError(f"tokens must be int64 (batch, seq), both at least 1, got {given}")
    low, high = (int(x) for x in tokens.aminmax())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(f"tokens must lie in 0..{config.vocab_size - 1} (the vocabulary), got {low}..{high}")
    if cache is not None and cache.batch != len(tokens):
        raise ValueError(f"cache was made for batch {cache.batch}, tokens have batch {len(tokens)}")
    if cache is not None and cache.config is not config and cache.config != config:
        raise ValueError("cache was made for a model of another config; make one with model.new_cache(batch)")
    if cache is not None and doc_ids is not None:
        raise ValueError("doc_ids cannot be used with a cache: packed documents are for training")
    shape, layers = tuple(tokens.shape), config.num_hidden_layers
    for name, value, wanted in (("doc_ids", doc_ids, shape), ("mask", mask, shape),
                                ("routes", routes, (*shape, layers))):
        if value is not None and tuple(value.shape) != wanted:
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    for name, value in (("doc_ids", doc_ids), ("routes", routes)):
        if value is not None and (value.is_floating_point() or value.dtype == torch.bool):
            raise ValueError(f"{name} must be an integer tensor, got {value.dtype}")
    if routes is not None:
        low, high = (int(x) for x in routes.aminmax())
        if low < -1 or high > config.num_experts:
            raise ValueError(f"routes must lie in -1..{config.num_experts} (-1: not recorded, {config.num_experts}: "
                             f"skip), got {low}..{high}")
