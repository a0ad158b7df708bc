"""Wrong functions for the laws of decoding: see the head of this folder."""


WRONG = {
    "decoding.top_p": [lambda p, limit: p >= limit, lambda p, limit: p.cumsum(-1) <= limit],
    "decoding.min_p": [lambda p, limit: p >= limit, lambda p, limit: p > limit * p.amax(-1, keepdim=True)],
    "decoding.temperature": [lambda x, s: (x * s).double().softmax(-1), lambda x, s: x.double().softmax(-1) / s],
}
