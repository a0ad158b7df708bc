"""Wrong answers to the exercises of lesson 02, each with what is wrong about it. None may pass."""

CONVOLUTIONS = """
def causal_convolutions(z, depthwise, grouped):
    first, second = depthwise.kernel_size[0] - 1, grouped.kernel_size[0] - 1
    z = rearrange(z, "b t c -> b c t")
    {body}
    return rearrange(z, "b c t -> b t c")
"""

WRONG = {
    "convolutions": {
        "pads each on its own": CONVOLUTIONS.format(
            body="z = grouped(F.pad(depthwise(F.pad(z, (first, 0))), (second, 0)))"),
        "pads on the right, sees the future": CONVOLUTIONS.format(
            body="z = grouped(depthwise(F.pad(z, (0, first + second))))"
        ),
        "pads on both sides": CONVOLUTIONS.format(body="z = grouped(depthwise(F.pad(z, (first, second))))"),
        "pads one too many and cuts the end": CONVOLUTIONS.format(
            body="z = grouped(depthwise(F.pad(z, (first + second + 1, 0))))[..., :-1]"),
        "two zeros, whatever the taps": CONVOLUTIONS.format(body="z = grouped(depthwise(F.pad(z, (2, 0))))"),
        "an activation between": CONVOLUTIONS.format(
            body="z = grouped(F.silu(depthwise(F.pad(z, (first + second, 0)))))"),
        "the other order": CONVOLUTIONS.format(body="z = depthwise(grouped(F.pad(z, (first + second, 0))))"),
        "forgets the second": CONVOLUTIONS.format(body="z = depthwise(F.pad(z, (first, 0)))"),
        "repeats the first token instead of zeros": CONVOLUTIONS.format(
            body="z = grouped(depthwise(F.pad(z, (first + second, 0), mode='replicate')))"),
        "convolves behind the back of autograd": CONVOLUTIONS.format(
            body="z = grouped(depthwise(F.pad(z.detach(), (first + second, 0))))"),
    },
    "mean": {
        "heads interleaved": """
def mean_path(q, k):
    group = q.shape[2] // k.shape[2]
    mean_q = (q + repeat(k, "b t j d -> b t (g j) d", g=group)) / 2
    return mean_q, reduce(mean_q, "b t (g j) d -> b t j d", "mean", g=group)
""",
        "sum instead of mean": """
def mean_path(q, k):
    group = q.shape[2] // k.shape[2]
    mean_q = q + repeat(k, "b t j d -> b t (j g) d", g=group)
    return mean_q, reduce(mean_q, "b t (j g) d -> b t j d", "mean", g=group)
""",
        "the key's mean without the key": """
def mean_path(q, k):
    group = q.shape[2] // k.shape[2]
    mean_q = (q + repeat(k, "b t j d -> b t (j g) d", g=group)) / 2
    return mean_q, reduce(q, "b t (j g) d -> b t j d", "mean", g=group)
""",
        "one mean for all KV heads": """
def mean_path(q, k):
    group = q.shape[2] // k.shape[2]
    mean_q = (q + repeat(k, "b t j d -> b t (j g) d", g=group)) / 2
    return mean_q, mean_q.mean(2, keepdim=True).expand_as(k)
""",
        "averages the key twice": """
def mean_path(q, k):
    group = q.shape[2] // k.shape[2]
    mean_q = (q + repeat(k, "b t j d -> b t (j g) d", g=group)) / 2
    return mean_q, (k + reduce(mean_q, "b t (j g) d -> b t j d", "mean", g=group)) / 2
""",
        "no gradient through the key's mean": """
def mean_path(q, k):
    group = q.shape[2] // k.shape[2]
    mean_q = (q + repeat(k, "b t j d -> b t (j g) d", g=group)) / 2
    return mean_q, reduce(mean_q.detach(), "b t (j g) d -> b t j d", "mean", g=group)
""",
    },
    "norm": {
        "length one": """
def norm_and_temperature(q, k, temperature):
    return F.normalize(q, dim=-1), F.normalize(k, dim=-1) * temperature[:, None]
""",
        "exponential temperature": """
def norm_and_temperature(q, k, temperature):
    size = q.shape[-1] ** 0.5
    return F.normalize(q, dim=-1) * size, F.normalize(k, dim=-1) * size * temperature.exp()[:, None]
""",
        "temperature on queries too": """
def norm_and_temperature(q, k, temperature):
    size, group = q.shape[-1] ** 0.5, q.shape[2] // k.shape[2]
    q = F.normalize(q, dim=-1) * size * temperature.repeat_interleave(group)[:, None]
    return q, F.normalize(k, dim=-1) * size * temperature[:, None]
""",
        "normalises over heads": """
def norm_and_temperature(q, k, temperature):
    size = q.shape[-1] ** 0.5
    return F.normalize(q, dim=-2) * size, F.normalize(k, dim=-2) * size * temperature[:, None]
""",
        "a gradient of NaN for a zero vector": '''
def norm_and_temperature(q, k, temperature):
    def unit(x):
        return (x / x.norm(dim=-1, keepdim=True)).nan_to_num() * x.shape[-1] ** 0.5
    return unit(q), unit(k) * temperature[:, None]
''',
        "NaN for a zero vector": """
def norm_and_temperature(q, k, temperature):
    size = q.shape[-1] ** 0.5
    q, k = (x / x.norm(dim=-1, keepdim=True) * size for x in (q, k))
    return q, k * temperature[:, None]
""",
        "an epsilon inside that short vectors feel": """
def norm_and_temperature(q, k, temperature):
    q, k = (x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() for x in (q, k))
    return q, k * temperature[:, None]
""",
        "temperature before the norm, which removes it": """
def norm_and_temperature(q, k, temperature):
    size = q.shape[-1] ** 0.5
    return F.normalize(q, dim=-1) * size, F.normalize(k * temperature[:, None], dim=-1) * size
""",
        "the length is taken for a constant": """
def norm_and_temperature(q, k, temperature):
    def unit(x):
        length = x.detach().norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).eps)
        return x / length * x.shape[-1] ** 0.5
    return unit(q), unit(k) * temperature[:, None]
""",
    },
    "shift": {
        "not shifted": """
def late_values(now, then):
    return torch.cat([now, then], dim=-1)
""",
        "shifted the other way": """
def late_values(now, then):
    return torch.cat([now, F.pad(then, (0, 0, 0, 1))[:, 1:]], dim=-1)
""",
        "wraps round: the first token sees the last": """
def late_values(now, then):
    return torch.cat([now, then.roll(1, dims=1)], dim=-1)
""",
        "the first token repeats its own": """
def late_values(now, then):
    return torch.cat([now, torch.cat([then[:, :1], then[:, :-1]], dim=1)], dim=-1)
""",
        "the wrong half is late": """
def late_values(now, then):
    return torch.cat([F.pad(now, (0, 0, 1, 0))[:, :-1], then], dim=-1)
""",
        "shifts channels, not tokens": """
def late_values(now, then):
    return torch.cat([now, F.pad(then, (1, 0))[..., :-1]], dim=-1)
""",
        "two tokens late": """
def late_values(now, then):
    return torch.cat([now, F.pad(then, (0, 0, 2, 0))[:, :-2]], dim=-1)
""",
        "copies numbers, so no gradient passes": """
def late_values(now, then):
    late = torch.tensor([[[0.0] * then.shape[2]] + row[:-1] for row in then.tolist()], dtype=then.dtype)
    return torch.cat([now, late], dim=-1)
""",
        "float64 whatever comes in": """
def late_values(now, then):
    late = torch.zeros(then.shape, dtype=torch.float64)
    late[:, 1:] = then[:, :-1]
    return torch.cat([now, late], dim=-1)
""",
        "asks the laws' own textbook": """
def late_values(now, then):
    from minizaya.laws import textbook
    return textbook.shifted(now, then)
""",
    },
}
