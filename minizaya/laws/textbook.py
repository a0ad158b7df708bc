"""What the laws expect, computed in the slowest and plainest way: one token, one head at a time.

Nothing here calls the library's own components, so these stay usable while `check` forbids them.
Shapes as everywhere: b batch, t time, h query heads, j KV heads, d channels of a head, c packed channels.
"""

import math

import torch
from torch import Tensor, nn


def shifted(now: Tensor, then: Tensor, before: Tensor | None = None, position: Tensor | None = None) -> Tensor:
    """Values: [now_t ; then_{t-1}], `before` (or zeros) where there is no earlier token in the document."""
    out = torch.zeros(*now.shape[:2], 2 * now.shape[2], dtype=now.dtype)
    for b in range(now.shape[0]):
        for t in range(now.shape[1]):
            first = t == 0 if position is None else position[b, t] == 0
            start = torch.zeros_like(then[b, 0]) if before is None else before[b]
            out[b, t] = torch.cat([now[b, t], start if first else then[b, t - 1]])
    return out


def convolved(z: Tensor, convs: list) -> Tensor:
    """z (b, past + t, c), past included, through every convolution in turn: tap k looks k tokens back."""
    for conv in convs:
        if conv is None:
            continue
        taps, size = conv.kernel_size[0], z.shape[2] // conv.groups
        rows = []
        for t in range(taps - 1, z.shape[1]):
            row = []
            for g in range(conv.groups):
                own = slice(g * size, (g + 1) * size)
                value = conv.bias[own]
                for back in range(taps):
                    value = value + z[:, t - back, own] @ conv.weight[own, :, taps - 1 - back].T
                row.append(value)
            rows.append(torch.cat(row, -1))
        z = torch.stack(rows, 1)
    return z


def lag(convs: list) -> int:
    return sum(conv.kernel_size[0] - 1 for conv in convs if conv is not None)


def pad(z: Tensor, count: int) -> Tensor:
    """`count` zero columns in front of z (b, t, c)."""
    return torch.cat([z.new_zeros(len(z), count, z.shape[2]), z], dim=1)


def means(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Each query averaged with its key; each key with the mean of its queries."""
    group = q.shape[2] // k.shape[2]
    mean_q = torch.stack([(q[:, :, h] + k[:, :, h // group]) / 2 for h in range(q.shape[2])], 2)
    mean_k = torch.stack([sum(mean_q[:, :, j * group + i] for i in range(group)) / group
                          for j in range(k.shape[2])], 2)
    return mean_q, mean_k


def normed(x: Tensor, temperature: Tensor | None = None) -> Tensor:
    """Every head of x (b, t, h, d) stretched to length sqrt(d), times its temperature."""
    length = (x ** 2).sum(-1, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).eps)
    unit = x / length * math.sqrt(x.shape[-1])
    return unit if temperature is None else unit * temperature[None, None, :, None]


def angles(position: Tensor, rotary: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin, (..., t, 1, rotary / 2) for positions (..., t): position * theta^(-2i / rotary)."""
    power = torch.tensor([2 * i / rotary for i in range(rotary // 2)], dtype=torch.float32)
    turn = position[..., None].double() * (1.0 / theta ** power).double()
    return turn.cos()[..., None, :], turn.sin()[..., None, :]


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE: channel i and channel i + r/2 are the two coordinates of a point that is turned; the rest stays."""
    half = cos.shape[-1]
    out = x.clone()
    for i in range(half):
        out[..., i] = x[..., i] * cos[..., i] - x[..., half + i] * sin[..., i]
        out[..., half + i] = x[..., half + i] * cos[..., i] + x[..., i] * sin[..., i]
    return out


def attended(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v, token by token; allowed: bool (b, t, s)."""
    group, out = q.shape[2] // k.shape[2], torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            seen = allowed[b, t].nonzero()[:, 0]
            for h in range(q.shape[2]):
                scores = k[b, seen, h // group] @ q[b, t, h] / math.sqrt(q.shape[3])
                weights = (scores - scores.max()).exp()
                out[b, t, h] = weights @ v[b, seen, h // group] / weights.sum()
    return out


def gelu(x: Tensor) -> Tensor:
    """x times the probability that a standard normal lies below x (exact, no tanh)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / ((x ** 2).mean(-1, keepdim=True) + eps).sqrt() * weight


def softmax(x: Tensor) -> Tensor:
    e = (x - x.max(-1, keepdim=True).values).exp()
    return e / e.sum(-1, keepdim=True)


def chosen(probs: Tensor, bias: Tensor) -> Tensor:
    """The route with the highest probs + bias of every token; ties go to the lower number. int64 (...,)."""
    scores = (probs + bias).detach()
    rows = [max(range(len(row)), key=lambda e: (row[e], -e)) for row in scores.flatten(0, -2).tolist()]
    return torch.tensor(rows).reshape(scores.shape[:-1])


def router(module: nn.Module, x: Tensor, below: Tensor | None,
           eps: float | None = None) -> tuple[Tensor, Tensor | None]:
    """probs and state of a `minizaya.arch.router.Router`, from its weights; eps: of its norm, or None for its own."""
    if module.linear:
        return softmax(x @ module.out_proj.weight.T), None
    state = x @ module.down_proj.weight.T + module.down_proj.bias
    if below is not None and hasattr(module, "eda_scale"):
        state = state + module.eda_scale * below
    hidden = rms(state, module.mlp.norm.weight, module.mlp.norm.eps if eps is None else eps)
    for layer in (module.mlp.fc1, module.mlp.fc2):
        hidden = gelu(hidden @ layer.weight.T + layer.bias)
    return softmax(hidden @ module.mlp.out_proj.weight.T), state


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = x @ gate_up[: len(gate_up) // 2].T, x @ gate_up[len(gate_up) // 2:].T
    return (gate / (1 + (-gate).exp()) * up) @ down.T


def dispatched(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Each token through its own expert, times its gate; zero for the skip route."""
    rows = [swiglu(x[i: i + 1], gate_up[e], down[e])[0] * gates[i] if e < len(gate_up) else torch.zeros_like(x[i])
            for i, e in enumerate(routes.tolist())]
    return torch.stack(rows)


def cca(layer: nn.Module, x: Tensor) -> Tensor:
    """A whole `minizaya.arch.cca.CCA` on x (b, t, E), one document a row, from its weights."""
    cfg, steps = layer.config, x.shape[1]
    h, j, d = cfg.num_attention_heads, cfg.num_key_value_heads, cfg.head_dim
    widths = [(h + j) * d, j * d // 2, j * d // 2]
    rows, before = x @ layer.down_proj.weight.T, None
    if cfg.attention_bias:
        rows = rows + layer.down_proj.bias
        before = layer.down_proj.bias.split(widths)[2].expand(len(x), -1)       # what "no token" projects to
    z, now, then = rows.split(widths, -1)
    convs = [layer.conv_depthwise, layer.conv_grouped]
    mixed = convolved(pad(z, lag(convs)), convs)
    raw, mixed = z.unflatten(-1, (h + j, d)), mixed.unflatten(-1, (h + j, d))
    q, k = mixed[:, :, :h], mixed[:, :, h:]
    if cfg.qk_mean:
        mean_q, mean_k = means(raw[:, :, :h], raw[:, :, h:])
        q, k = q + mean_q, k + mean_k
    theta = cfg.rope_theta_sliding if layer.sliding else cfg.rope_theta
    turn = angles(torch.arange(steps), int(d * cfg.partial_rotary_factor), theta)
    q, k = turned(normed(q), *turn), turned(normed(k, layer.temperature), *turn)
    v = shifted(now, then, before) if cfg.value_shift else torch.cat([now, then], -1)
    ago = torch.arange(steps)[:, None] - torch.arange(steps)
    seen = (ago >= 0) & (ago < (cfg.sliding_window if layer.sliding else steps))
    y = attended(q, k, v.unflatten(-1, (j, d)), seen.expand(len(x), -1, -1))
    out = y.flatten(2) @ layer.up_proj.weight.T
    return out + layer.up_proj.bias if cfg.attention_bias else out


def joined(merge: nn.Module, output: Tensor, stream: Tensor) -> Tensor:
    """A residual merge from its four vectors, if it has any."""
    if not hasattr(merge, "output_scale"):
        return output + stream
    return ((output + merge.output_bias) * merge.output_scale
            + (stream + merge.residual_bias) * merge.residual_scale)


def model(zaya: nn.Module, tokens: Tensor, pinned: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits and routes of a whole `Zaya`, one document a row, from its weights.

    pinned: int (b, t, layers), routes to replay, -1 where the router chooses.
    """
    stream, state, routes = (zaya.embed.weight[tokens] + zaya.embed_bias) * zaya.embed_scale, None, []
    eps = zaya.config.rms_norm_eps
    for block in zaya.layers:
        x = rms(stream, block.attention_norm.weight, eps)
        stream = joined(block.attention_merge, cca(block.attention, x), stream)
        x = rms(stream, block.moe_norm.weight, eps)
        probs, state = router(block.router, x, state, eps)
        route = chosen(probs.float(), block.router.balancing_bias.float())
        if pinned is not None:
            recorded = pinned[..., len(routes)]
            route = torch.where(recorded < 0, route, recorded)
        routes.append(route)
        gates = probs.gather(-1, routes[-1][..., None])[..., 0]
        done = dispatched(x.flatten(0, 1), routes[-1].flatten(), gates.flatten(), block.experts.gate_up_proj,
                          block.experts.down_proj)
        stream = joined(block.moe_merge, done.view_as(x), stream)
    logits = rms(stream, zaya.norm.weight, eps) @ zaya.head.weight.T
    if zaya.config.lm_head_bias:
        logits = logits + zaya.head.bias
    return logits, torch.stack(routes, -1)
