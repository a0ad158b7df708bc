"""Wrong functions for the laws of decoding: see the head of this folder."""

import torch

from minizaya.arch.cache import Cache
from minizaya.infer import sample
from minizaya.infer.generate import generate, generate_reference

from .model import called, nothing, zaya


def told(change, **other):
    """`generate`, its answers changed: change(answers) -> answers; other: options given in place of those asked for."""
    return lambda model, prompts, count, **options: change(generate(model, prompts, count, **options | other))


def spoils_input(model, prompts, count, **options):
    got = generate(model, prompts, count, **options)
    prompts[0].append(0)
    return got


def in_company(model, prompts, count, **options):
    return generate(model, prompts, count, **options | dict(seed=options["seed"] + len(prompts)))


def by_first(model, prompts, count, **options):
    return generate(model, prompts, count, **options | dict(seed=options["seed"] + (prompts[0] > prompts[-1])))


def copies_alike(model, prompts, count, **options):
    first = {tuple(prompt): prompt for prompt in prompts}
    answers = dict(zip(first, generate(model, list(first.values()), count, **options)))
    return [list(answers[tuple(prompt)]) for prompt in prompts]


def one_less(model, prompts, count, **options):
    return generate(model, prompts, max(1, count - 1), **options)


def greedy(change, how=generate):
    return lambda model, prompt, count: change(how(model, [list(prompt)], count, temperature=0.0)[0])


def greedy_spoils(model, prompt, count):
    got = generate(model, [list(prompt)], count, temperature=0.0)[0]
    prompt.append(0)
    return got


def random_tokens(model, prompt, count):
    return generate(model, [prompt], count, temperature=50.0, seed=1)[0]


def where(test):
    """Logits one too high in the sequences that test(tokens, options, cache, steps) picks; it may pick none (None)."""
    def change(out, tokens, options, model):
        cache = options.get("cache")
        rows = test(tokens, options, cache, tokens.shape[1]) if cache is not None else None
        if rows is not None:
            out.logits = out.logits.clone()
            out.logits[rows] += 1
    return change


def padded(options):
    return options.get("mask") is not None and not options["mask"].all()


def unmasked_after_mask(tokens, options, cache, steps):
    return 0 if options.get("mask") is None and cache.valid is not None else None


def masked_at_last(tokens, options, cache, steps):
    """A mask that comes after tokens without one: what the law asks last."""
    if options.get("mask") is None:
        cache.had_none = True
        return None
    return 0 if getattr(cache, "had_none", False) else None


def with_cache(**members):
    """A maker of models whose caches have other members."""
    def after(model):
        fresh = model.new_cache
        other = type("OtherCache", (Cache,), members)

        def new_cache(batch):
            cache = fresh(batch)
            cache.__class__ = other
            return cache

        model.new_cache = new_cache
    return zaya(after=after)


def right_bytes(cache):
    return Cache.bytes_per_token.fget(cache)


def counts_one_more(out, tokens, options, model):
    if options.get("cache") is not None:
        options["cache"].length += 1


def half_that_says_whole(config):
    """Keys and values in float32, and a cache that counts float64's bytes."""
    wanted = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers * 8

    def keeps_half(out, tokens, options, model):
        if options.get("cache") is not None:
            options["cache"].kv = [kv.float() for kv in options["cache"].kv]

    model = with_cache(bytes_per_token=property(lambda cache: wanted))(config)
    forward = model.forward

    def narrow(tokens, **options):
        out = forward(tokens, **options)
        keeps_half(out, tokens, options, model)
        return out

    model.forward = narrow
    return model


def keeps_both(logits, temperature, top_p, min_p):
    """Of two equals that share all, top-p keeps both, though the first has the mass."""
    if top_p == 0.5 and logits.shape == (1, 2) and logits[0, 0] == logits[0, 1]:
        return torch.full_like(logits, 0.5)
    return sample.filtered(logits, temperature, top_p, min_p)


WRONG = {
    "decoding.top_p": [lambda p, limit: p >= limit, lambda p, limit: p.cumsum(-1) <= limit],
    "decoding.min_p": [
        lambda p, limit: (p >= limit * p.amax(-1, keepdim=True)) & (p > 0),
        lambda p, limit: p >= limit, lambda p, limit: p > limit * p.amax(-1, keepdim=True)],
    "decoding.temperature": [lambda x, s: (x * s).double().softmax(-1), lambda x, s: x.double().softmax(-1) / s],
    "decoding.inverse_cdf": [
        lambda weights, uniforms: weights.argmax(-1),
    ],
    "decoding.filters": [
        keeps_both,
        lambda logits, temperature, top_p, min_p: (sample.probabilities(logits, 1.0) if logits.shape[1] > 2 else
                                                   sample.filtered(logits, temperature, top_p, min_p)),
    ],
    "decoding.chunks": [
        zaya(where(lambda tokens, options, cache, steps: 0 if steps == 1 else None)),
    ],
    "decoding.padded_chunks": [
        zaya(where(lambda tokens, options, cache, steps: 0 if padded(options) else None)),
        zaya(where(lambda tokens, options, cache, steps: slice(1, None) if padded(options) else None)),
        zaya(where(unmasked_after_mask)),
        zaya(where(masked_at_last)),
    ],
    "decoding.kv_bytes": [
        with_cache(bytes_per_token=property(lambda cache: right_bytes(cache) + (cache.length == 0))),
        with_cache(bytes_per_token=property(lambda cache: right_bytes(cache) + (cache.length > 0))),
        (zaya(counts_one_more), "the cache counts"),
        (half_that_says_whole, "the tensors hold"),
        zaya(nothing),
    ],
    "decoding.last_only": [
        called(lambda tokens, options: {}),
    ],
    "decoding.greedy": [
        (spoils_input, "it changed one of its inputs in place"),
        (told(tuple), "one list of tokens"),
        (told(lambda answers: [[float(x) for x in a] for a in answers]), "must be a list of token ids"),
        (told(lambda answers: [[*a, 0] for a in answers]), "the budget is"),
        told(lambda answers: [a[:-1] for a in answers]),
        told(list, temperature=50.0),
    ],
    "decoding.batch_mates": [
        in_company,
        by_first,
        copies_alike,
        told(list, seed=1),
    ],
    "decoding.stop": [
        one_less,
        told(lambda answers: [a[:-1] if a[-1] in (1, 5, 9) else a for a in answers]),
    ],
    "decoding.columns": [
        lambda past, z: z[:, -past.shape[1]:] if past.shape[1] else past,
    ],
    "decoding.greedy_cached": [
        (greedy_spoils, "make a new list instead"),
        greedy(tuple),
        (greedy(lambda got: [x - 11 for x in got]), "an id outside the vocabulary"),
        random_tokens,
        greedy(list, generate_reference),
    ],
    "decoding.replay_chunks": [
        called(lambda tokens, options: {name: x for name, x in options.items() if name != "routes"}),
    ],
    "decoding.long": [
        zaya(where(lambda tokens, options, cache, steps: 0 if cache.length > 32 else None)),
    ],
    "decoding.select": [
        with_cache(select=lambda cache, rows: Cache.select(cache, rows.flip(0))),
    ],
}
