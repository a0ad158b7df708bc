"""Wrong answers to the exercises of lesson 09: exercise id -> what is wrong -> source."""

WRONG = {
    "temperature": {
        "multiplied by the temperature": '''
def my_probabilities(logits, temperature):
    return (logits.double() * temperature).softmax(-1)
''',
        "divided after the softmax": '''
def my_probabilities(logits, temperature):
    return logits.double().softmax(-1) / temperature
''',
        "the maximum is not subtracted": '''
def my_probabilities(logits, temperature):
    return (logits.double() / temperature).softmax(-1)
''',
        "in the logits' own type": '''
def my_probabilities(logits, temperature):
    return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
''',
        "multiplied": '''
def my_probabilities(logits, temperature):
    logits = logits.double()
    return ((logits - logits.amax(-1, keepdim=True)) * temperature).softmax(-1)
''',
        "after the softmax": '''
def my_probabilities(logits, temperature):
    logits = logits.double()
    return (logits - logits.amax(-1, keepdim=True)).softmax(-1) / temperature
''',
        "a bound on the temperature": '''
def my_probabilities(logits, temperature):
    logits = logits.double()
    return ((logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-3)).softmax(-1)
''',
        "over the wrong axis": '''
def my_probabilities(logits, temperature):
    logits = logits.double()
    return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(0)
''',
    },
    "top_p": {
        "the mass of the rest": '''
def my_top_p(probs, top_p):
    ranked, order = probs.sort(dim=-1, stable=True)
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, ranked.cumsum(-1) >= top_p)
''',
        "keeps up to, not over": '''
def my_top_p(probs, top_p):
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, ranked.cumsum(-1) <= top_p)
''',
        "one more where the mass is just reached": '''
def my_top_p(probs, top_p):
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, (before <= top_p) | (top_p == 1))
''',
        "the token itself counts": '''
def my_top_p(probs, top_p):
    if top_p == 1:
        return torch.ones_like(probs, dtype=torch.bool)
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1)
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before < top_p)
''',
        "not put back in order": '''
def my_top_p(probs, top_p):
    if top_p == 1:
        return torch.ones_like(probs, dtype=torch.bool)
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    return torch.zeros_like(probs, dtype=torch.bool)| (before < top_p)
''',
        "least probable first": '''
def my_top_p(probs, top_p):
    if top_p == 1:
        return torch.ones_like(probs, dtype=torch.bool)
    ranked, order = probs.sort(dim=-1, descending=False, stable=True)
    before = ranked.cumsum(-1) - ranked
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before < top_p)
''',
        "a bound on each token": '''
def my_top_p(probs, top_p):
    if top_p == 1:
        return torch.ones_like(probs, dtype=torch.bool)
    return probs >= 1 - top_p
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before < top_p)
''',
    },
    "min_p": {
        "what is cut, not what is kept": '''
def my_min_p(probs, min_p):
    return probs < min_p * probs.amax(-1, keepdim=True)
''',
        "of what the best leaves": '''
def my_min_p(probs, min_p):
    return probs >= min_p * (1 - probs.amax(-1, keepdim=True))
''',
        "of the best of all rows": '''
def my_min_p(probs, min_p):
    return probs >= min_p * probs.max()
''',
        "an absolute bound": '''
def my_min_p(probs, min_p):
    return probs >= min_p
''',
        "more than, not at least": '''
def my_min_p(probs, min_p):
    return probs > min_p * probs.amax(-1, keepdim=True)
''',
        "of all rows": '''
def my_min_p(probs, min_p):
    return probs >= min_p * probs.max()
''',
        "of the mean": '''
def my_min_p(probs, min_p):
    return probs >= min_p * probs.mean(-1, keepdim=True)
''',
    },
    "inverse_cdf": {
        "from the last token on": '''
def my_choice(weights, uniforms):
    cumulated = weights.flip(-1).cumsum(-1)
    return weights.shape[-1] - 1 - (cumulated > uniforms[:, None] * cumulated[:, -1:]).int().argmax(-1)
''',
        "weight zero can be chosen": '''
def my_choice(weights, uniforms):
    cumulated = weights.cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cumulated.amax(-1, keepdim=True)
    return (cumulated >= uniforms[:, None] * total).int().argmax(-1)
''',
        "one uniform for all rows": '''
def my_choice(weights, uniforms):
    cumulated = weights.cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cumulated.amax(-1, keepdim=True)
    return (cumulated > uniforms[0] * total).int().argmax(-1)
''',
        "not normalised": '''
def my_choice(weights, uniforms):
    cumulated = weights.cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cumulated.amax(-1, keepdim=True)
    return (cumulated > uniforms[:, None]).int().argmax(-1)
''',
        "the token before": '''
def my_choice(weights, uniforms):
    cumulated = weights.cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cumulated.amax(-1, keepdim=True)
    return (cumulated > uniforms[:, None] * total).int().argmax(-1) - 1
''',
        "always the best": '''
def my_choice(weights, uniforms):
    cumulated = weights.cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cumulated.amax(-1, keepdim=True)
    return weights.argmax(-1)
''',
        "counts from the end": '''
def my_choice(weights, uniforms):
    cumulated = weights.flip(-1).cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cumulated.amax(-1, keepdim=True)
    return (cumulated > uniforms[:, None] * total).int().argmax(-1)
''',
    },
}
