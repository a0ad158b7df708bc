"""Compressed convolutional attention (CCA): queries, keys and values live, meet and are cached in a narrow latent.

    x_t --down--> q, k, v_now, v_then         one packed matrix; widths E/2, E/8 and twice E/16 at 8B
    q, k --convolve--> s_q, s_k               two short causal convolutions over time, no activation
    q, k --mean path--> m_q, m_k              from the values *before* the convolutions
    q = norm(s_q + m_q), k = norm(s_k + m_k) * temperature, then RoPE on half of each head
    v_t = [v_now_t ; v_then_{t-1}]            half of the value channels come from the previous token
    attention(q, k, v) --up--> y_t

Source: the CCA paper (arXiv 2510.04476), equations 8-11 and Listing 1; ZAYA1-8B report, appendix C.
Shapes: b batch, t time, h query heads, j KV heads, g = h / j, d channels of a head, c = (h + j) d packed channels.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from ..config import ZayaConfig
from .attention import Place, attend, attend_reference, rope
from .cache import Cache


def convolve(z: Tensor, depthwise: nn.Conv1d | None, grouped: nn.Conv1d | None) -> Tensor:
    """The reference: both convolutions over packed q and k that already carry their past on the left.

    Args:
        z: (b, lag + t, c); the first `lag` columns are the past (zeros at the start of a sequence).
        depthwise: one filter a channel (equation 8, first half). grouped: mixes the channels of one head.
    Returns:
        (b, t, c).

    trap: pad once, before the first convolution. Padding each convolution on its own hides the first one's bias from
    the second at t = 0, and the numbers there change (`cca.padding`).
    """
    z = rearrange(z, "b t c -> b c t")
    for conv in (depthwise, grouped):
        z = z if conv is None else conv(z)
    return rearrange(z, "b c t -> b t c")


def convolve_taps(z: Tensor, depthwise: nn.Conv1d | None, grouped: nn.Conv1d | None,
                  position: Tensor | None = None) -> Tensor:
    """The fast path, equal to `convolve`: each tap is a shifted copy; the grouped taps are matrix products per head.

    Args:
        position: int (b, t), each token's place in its own document, or None when every row is one document. A tap
            that would reach over the start of the document reads zeros, as if the document stood alone.
    """
    lag = sum(conv.kernel_size[0] - 1 for conv in (depthwise, grouped) if conv is not None)
    steps = z.shape[1] - lag

    def starts_before(tokens: Tensor, tap: int) -> Tensor:
        """(b, n, 1), True where the tap `tap` tokens back still lies in the same document (past columns: True)."""
        own = F.pad(position, (tokens.shape[1] - steps, 0), value=lag)
        return (own >= tap)[..., None]

    if depthwise is not None:
        taps = rearrange(depthwise.weight, "c 1 k -> k c")
        back = len(taps) - 1
        u = torch.addcmul(depthwise.bias, z[:, back:], taps[back])
        for tap in range(1, back + 1):
            past = z[:, back - tap: -tap]
            if position is not None:
                past = past * starts_before(past, tap)
            u = torch.addcmul(u, past, taps[back - tap])
        z = u
    if grouped is not None:
        heads = grouped.groups
        weight = rearrange(grouped.weight, "(n o) i k -> n (k i) o", n=heads)
        back = grouped.kernel_size[0] - 1
        empty = z.new_zeros(z.shape[-1]) if depthwise is None else depthwise.bias  # u where its own taps saw nothing
        columns = []
        for tap in range(back, -1, -1):
            past = z[:, back - tap: z.shape[1] - tap]
            if position is not None and tap:
                past = torch.where(starts_before(past, tap), past, empty)
            columns.append(rearrange(past, "b t (n i) -> n (b t) i", n=heads))
        mixed = torch.cat(columns, dim=-1) @ weight
        z = rearrange(mixed, "n (b t) o -> b t (n o)", t=steps) + grouped.bias
    return z


def qk_mean(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The mean path: each query averaged with its key, and each key with the mean of its queries.

    q: (b, t, h, d), k: (b, t, j, d), both from *before* the convolutions (the paper's text says "pre and post", its
    listing and the released weights say pre: `test_qk_mean_reads_pre_convolution_values`). Query head h belongs to KV
    head h // g. Returns m_q (b, t, h, d) and m_k (b, t, j, d).
    """
    group = q.shape[2] // k.shape[2]
    mean_q = (q + repeat(k, "b t j d -> b t (j g) d", g=group)) / 2
    mean_k = reduce(mean_q, "b t (j g) d -> b t j d", "mean", g=group)
    return mean_q, mean_k


def value_shift(now: Tensor, then: Tensor, before: Tensor | None = None, position: Tensor | None = None,
                nobody: Tensor | None = None) -> Tensor:
    """[now_t ; then_{t-1}]: the second half of the channels arrives one token late.

    now, then: (b, t, c / 2). before: (b, c / 2), `then` of the token before the first; None: zeros.
    position: int (b, t), place in the token's own document; a document's first token has nobody before it.
    nobody: (b, c / 2), what such a token gets; None: `before`, as where no row goes on from an earlier chunk.
    Returns (b, t, c). With two KV heads, head 0 is all present and head 1 is all past.
    """
    before = torch.zeros_like(then[:, :1]) if before is None else before[:, None]
    late = torch.cat([before, then[:, :-1]], dim=1)
    if position is not None:
        late = torch.where((position > 0)[..., None], late, before if nobody is None else nobody[:, None])
    return torch.cat([now, late], dim=-1)


def qk_norm(q: Tensor, k: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """q and k to length sqrt(d), keys times their head's temperature. No score can exceed temperature * sqrt(d).

    q: (b, t, h, d); k: (b, t, j, d); temperature: (j,), linear. The CCA paper multiplies by exp(temperature); ZAYA1
    does not, since exp can run away (`test_key_temperature_is_linear`).
    """
    def unit(x: Tensor) -> Tensor:
        norm = x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).eps)
        return x * (x.shape[-1] ** 0.5 / norm)

    return unit(q), unit(k) * temperature[:, None]


class CCA(nn.Module):
    """One attention layer. `fast=False` runs the reference convolutions.

    trap: the released code initialises the temperature to zero, which is right only before loading a checkpoint: from
    scratch it wipes out every key. Ours starts at one (`test_key_temperature_starts_at_one`).
    """

    def __init__(self, config: ZayaConfig, layer: int, fast: bool = True):
        super().__init__()
        self.config, self.layer, self.fast = config, layer, fast
        heads = config.num_attention_heads + config.num_key_value_heads
        packed = config.query_size + config.kv_size
        bias = config.attention_bias
        self.sliding = config.layer_types[layer] == "hybrid_sliding"
        # rows: queries, keys, v_now, v_then
        self.down_proj = nn.Linear(config.hidden_size, packed + config.kv_size, bias=bias)
        self.conv_depthwise = self.conv_grouped = None
        if config.num_convs >= 1:
            self.conv_depthwise = nn.Conv1d(packed, packed, config.cca_time0, groups=packed)
        if config.num_convs >= 2:
            self.conv_grouped = nn.Conv1d(packed, packed, config.cca_time1, groups=heads)
        self.temperature = nn.Parameter(torch.ones(config.num_key_value_heads))
        self.up_proj = nn.Linear(config.query_size, config.hidden_size, bias=bias)

    def project(self, x: Tensor, place: Place, cache: Cache | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """From x (b, t, E) to q (b, t, h, d), k and v (b, t, j, d), ready for attention."""
        cfg = self.config
        sizes = (cfg.query_size + cfg.kv_size, cfg.kv_size // 2, cfg.kv_size // 2)
        z, now, then = self.down_proj(x).split(sizes, dim=-1)
        past, before = z.new_zeros(len(x), cfg.conv_lag, z.shape[-1]), None
        if cache is not None:
            past, before = cache.exchange(self.layer, z, then)
        nobody = then.new_zeros(len(x), then.shape[-1])
        if cfg.attention_bias:  # "no token" is x = 0, whose projection is the bias
            nobody = self.down_proj.bias[-then.shape[-1]:].expand(len(x), -1)
        before = nobody if before is None else before

        mixed = self.mix(torch.cat([past, z], dim=1) if cfg.conv_lag else z, place)

        q0, k0 = self.heads(z)
        q, k = self.heads(mixed)
        if cfg.qk_mean:
            mean_q, mean_k = qk_mean(q0, k0)
            q, k = q + mean_q, k + mean_k
        q, k = qk_norm(q, k, self.temperature)
        q, k = rope(q, place.angles[self.sliding]), rope(k, place.angles[self.sliding])

        v = torch.cat([now, then], dim=-1)
        if cfg.value_shift:
            v = value_shift(now, then, before, place.position, nobody)
        return q, k, rearrange(v, "b t (j d) -> b t j d", d=cfg.head_dim)

    def mix(self, packed: Tensor, place: Place) -> Tensor:
        """Both convolutions over packed q and k with their past, (b, lag + t, c). Returns (b, t, c)."""
        if self.fast or place.position is not None:
            return convolve_taps(packed, self.conv_depthwise, self.conv_grouped, place.position)
        return convolve(packed, self.conv_depthwise, self.conv_grouped)

    def heads(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """(b, t, (h + j) d) -> queries (b, t, h, d) and keys (b, t, j, d)."""
        heads = rearrange(packed, "b t (n d) -> b t n d", d=self.config.head_dim)
        return heads.split((self.config.num_attention_heads, self.config.num_key_value_heads), dim=2)

    def forward(self, x: Tensor, place: Place, cache: Cache | None = None) -> Tensor:
        """x: (b, t, E), already normalised. Returns (b, t, E)."""
        if place.valid is not None:
            x = x * place.valid[..., None]  # padding must not leak through the convolutions
        q, k, v = self.project(x, place, cache)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = (attend if self.fast else attend_reference)(q, k, v, place.masks[self.sliding])
        return self.up_proj(rearrange(y, "b t h d -> b t (h d)"))
