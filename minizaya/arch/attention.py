"""Rotation, masks and the attention itself: the parts of CCA that other transformers share.

Shapes: b batch, t query time, s key time, h query heads, j KV heads, d channels of a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..config import ZayaConfig
from .residual import at_least_float32


def rope_frequencies(rotary_dim: int, theta: float, device: torch.device | None = None) -> Tensor:
    """theta ** (-2i / rotary_dim) for i < rotary_dim / 2, float32, radians per token.

    trap: made in float32 even for a float64 model, because the released weights were trained with these roundings.
    """
    return 1.0 / theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim)


def rope_angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency: positions (..., t) -> two (..., t, 1, rotary_dim / 2) of type `dtype`."""
    wide = at_least_float32(dtype)
    angles = (positions[..., None].to(wide) * frequencies.to(wide))[..., None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rope(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turns channel i with channel i + r/2 by the token's angle; channels from r on carry no position.

    x: (b, t, h, d); angles: `rope_angles`, r = twice their last size. Returns (b, t, h, d). Lengths do not change, and
    a score depends only on the distance of its two tokens.
    """
    cos, sin = angles
    half = cos.shape[-1]
    first, second, still = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, still], dim=-1)


def attend_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as the textbook writes it: softmax(q k / sqrt(d)) v, each KV head serving h / j query heads.

    q: (b, t, h, d); k, v: (b, s, j, d); mask: bool, broadcastable to (b, 1, t, s), True where a key may be seen (every
    query must see one); None: plain causal, the queries being the last t keys. Returns (b, t, h, d).
    """
    if mask is None:
        keys = torch.arange(k.shape[1], device=k.device)
        mask = causal_mask(keys[-q.shape[1]:], keys)
    group = q.shape[2] // k.shape[2]
    k, v = (repeat(x, "b s j d -> b s (j g) d", g=group) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The fast path, equal to `attend_reference`; mask None only for one query, or for all tokens from the start."""
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    # trap: SDPA's is_causal counts from the top left, so it is right only when queries and keys are the same tokens
    causal = mask is None and q.shape[2] > 1
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
    return rearrange(out, "b h t d -> b t h d")


def causal_mask(queries: Tensor, keys: Tensor, window: int | None = None) -> Tensor:
    """bool (t, s): key position <= query position, and within the last `window` positions, the query's own included."""
    ahead = queries[:, None] - keys[None, :]
    return (ahead >= 0) & (ahead < window) if window else ahead >= 0


def document_starts(doc_ids: Tensor) -> tuple[Tensor, Tensor]:
    """From doc_ids int (b, t) to each token's document number in its row, and its place in that document, both (b, t).

    A document is a run of equal ids, so an id that comes back later is another document.
    """
    fresh = torch.ones_like(doc_ids, dtype=torch.bool)
    fresh[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    index = torch.arange(doc_ids.shape[1], device=doc_ids.device).expand_as(doc_ids)
    start = torch.where(fresh, index, 0).cummax(dim=1).values
    return fresh.cumsum(dim=1), index - start


@dataclass
class Place:
    """What every layer needs to know about where the tokens stand; made once a forward pass.

    `masks` and `angles` hold one entry for "hybrid" layers and one for "hybrid_sliding" ones (keys False and True).
    """

    angles: dict[bool, tuple[Tensor, Tensor]]
    masks: dict[bool, Tensor | None]   # bool, broadcastable to (b, 1, t, s); None: plain causal
    position: Tensor | None            # int (b, t), place in the token's own document; None: one document a row
    valid: Tensor | None               # bool (b, t), False is padding; None: no padding
    regular: bool = False              # True: the masks say no more than causal order, window and documents


def locate(config: ZayaConfig, batch: int, steps: int, past: int, dtype: torch.dtype, device: torch.device,
           doc_ids: Tensor | None = None, valid: Tensor | None = None) -> Place:
    """The `Place` of `steps` new tokens after `past` cached ones.

    doc_ids: int (b, t), only without a past. valid: bool (b, past + t), of cached and new tokens.
    """
    keys = torch.arange(past + steps, device=device)
    queries = keys[past:]
    document = position = None
    if doc_ids is not None:
        document, position = document_starts(doc_ids)
    masks, angles = {}, {}
    for sliding in {kind == "hybrid_sliding" for kind in config.layer_types}:
        window = config.sliding_window if sliding else None
        seen = None
        crops = window is not None and window < past + steps
        if crops or document is not None or valid is not None or (past and steps > 1):
            seen = causal_mask(queries, keys, window)[None, None]
            if document is not None:
                seen = seen & (document[:, None, :, None] == document[:, None, None, :])
            if valid is not None:  # a padded query sees itself: a row that sees nothing would be NaN
                seen = seen & (valid[:, None, None, :] | (queries[:, None] == keys))
        masks[sliding] = seen
        theta = config.rope_theta_sliding if sliding else config.rope_theta
        frequencies = rope_frequencies(config.rotary_dim, theta, device)
        angles[sliding] = rope_angles(queries if position is None else position, frequencies, dtype)
    return Place(angles, masks, position, None if valid is None else valid[:, past:], valid is None)
