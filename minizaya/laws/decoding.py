"""Laws of the cache: decoding in pieces gives what one forward pass gives."""

import torch

from . import strategies as draw_a
from .core import law, require
from .model import FACTORY, alive, ask, build, draw_model, plain, same

# ---- the cache -------------------------------------------------------------------------------------------------------


def in_chunks(fn, model, tokens, chunks, mask=None, routes=None):
    """Logits and routes of a sequence that is handed over piece by piece, and the cache."""
    cache, start, pieces = fn.run(model.new_cache, len(tokens)), 0, []
    for n in chunks:
        piece = slice(start, start + n)
        options = dict(mask=None if mask is None else mask[:, piece])
        if routes is not None:
            options["routes"] = routes[:, piece]
        pieces.append(ask(fn, model, tokens[:, piece], cache=cache, **options))
        start += n
    return [torch.cat(x, dim=1) for x in zip(*pieces)], cache


def draw_chunks(draw, padded: bool = False):
    """trap: with attention_bias a padded token projects to the bias, here as in the released code, and is then seen by
    the convolutions; so the laws of padding leave it off."""
    case = draw_model(draw, attention_bias=not padded and draw_a.flag(draw))
    return case | dict(chunks=draw_a.lengths(draw, case["tokens"].shape[1]))


@law("decoding.chunks", "cached decoding equals the uncached forward, however the sequence is cut",
     cases=draw_a.cases(draw_chunks), examples=25, itself=True, **FACTORY)
@torch.no_grad()
def chunks(fn, config, seed, tokens, chunks):
    """fn(config): the maker of a model (see laws/model.py), with `new_cache(batch)`. `chunks` are the lengths."""
    model = build(fn, config, seed)
    got, _ = in_chunks(fn, model, tokens, chunks)
    same(got, plain(fn, model, tokens), f"in chunks of {chunks}")


@law("decoding.replay_chunks", "routes can be replayed through a cache", cases=draw_a.cases(draw_chunks), examples=8,
     itself=True, **FACTORY)
@torch.no_grad()
def replay_chunks(fn, config, seed, tokens, chunks):
    """fn(config): the maker of a model. Token t of layer l is pinned to route (t + l) mod (E + 1)."""
    model = build(fn, config, seed)
    t, layer = torch.arange(tokens.shape[1])[:, None], torch.arange(config.num_hidden_layers)
    pinned = ((t + layer) % (config.num_experts + 1)).expand(len(tokens), -1, -1).clone()
    got, _ = in_chunks(fn, model, tokens, chunks, routes=pinned)
    same(got, plain(fn, model, tokens, pinned), f"in chunks of {chunks}")


def draw_padded_chunks(draw):
    case = draw_chunks(draw, padded=True)
    return case | dict(padding=draw_a.size(draw, 0, case["tokens"].shape[1] - 1))


@law("decoding.padded_chunks", "left padding stays invisible when a cache is filled in pieces",
     cases=draw_a.cases(draw_padded_chunks), examples=12, itself=True, **FACTORY)
@torch.no_grad()
def padded_chunks(fn, config, seed, tokens, chunks, padding):
    """fn(config): the maker of a model. The first `padding` tokens of the first sequence are padding."""
    model = build(fn, config, seed)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :padding] = False
    got, _ = in_chunks(fn, model, tokens, chunks, mask)
    real = [x[:1, padding:] for x in got]
    same(real, plain(fn, model, tokens[:1, padding:]), "of the padded sequence")
    same([x[1:] for x in got], [x[1:] for x in plain(fn, model, tokens)], "of its batch mates")
    # what a pass without mask adds later is real: generation goes on like this
    _, cache = in_chunks(fn, model, tokens, chunks, mask)
    more = torch.full((len(tokens), 1), 3)
    after = ask(fn, model, more, cache=cache)
    whole = torch.cat([tokens[:1, padding:], more[:1]], dim=1)
    same([x[:1] for x in after], [x[:, -1:] for x in plain(fn, model, whole)], "of the next token")
    # and flags that come after a pass without any find a past of real tokens
    _, cache = in_chunks(fn, model, tokens, chunks)
    after = ask(fn, model, more, cache=cache, mask=torch.ones_like(more, dtype=torch.bool))
    wanted = plain(fn, model, torch.cat([tokens, more], dim=1))
    same(after, [x[:, -1:] for x in wanted], "of a token with a mask, after tokens without")


def draw_long(draw):
    return draw_model(draw, num_hidden_layers=2) | dict(steps=draw_a.size(draw, 34, 40))


@law("decoding.long", "a cache that has to grow, again and again, forgets nothing", cases=draw_a.cases(draw_long),
     examples=2, itself=True, **FACTORY)
@torch.no_grad()
def long(fn, config, seed, tokens, steps):
    """fn(config): the maker of a model. `steps` tokens are decoded one by one."""
    model = build(fn, config, seed)
    tokens = (torch.arange(2 * steps) * 7 % config.vocab_size).view(2, steps)
    got, _ = in_chunks(fn, model, tokens, [1] * steps)
    same(got, plain(fn, model, tokens), "token by token")


def draw_selected(draw):
    case = draw_chunks(draw, padded=True)
    b = len(case["tokens"])
    rows = draw_a.pick(draw, [[0], [b - 1], list(range(b))[::-1], list(range(b)), [b // 2]])
    return case | dict(rows=rows, padding=draw_a.size(draw, 0, case["tokens"].shape[1] - 1))


@law("decoding.select", "after cache.select(rows) those sequences go on as if the others had never been there",
     cases=draw_a.cases(draw_selected), examples=12, itself=True, **FACTORY)
@torch.no_grad()
def select(fn, config, seed, tokens, chunks, rows, padding):
    """fn(config): the maker of a model, whose cache has `select(rows)`, rows int64 in the order wanted."""
    model = build(fn, config, seed)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :padding] = False
    more = torch.arange(2 * len(rows)).view(len(rows), 2) % config.vocab_size
    _, cache = in_chunks(fn, model, tokens, chunks, mask)
    fn.run(lambda x: [cache.select(x)], torch.tensor(rows))
    got = ask(fn, model, more, cache=cache)
    for i, row in enumerate(rows):
        whole = torch.cat([tokens[row: row + 1, padding if row == 0 else 0:], more[i: i + 1]], dim=1)
        wanted = [x[:, -2:] for x in plain(fn, model, whole)]
        same([x[i: i + 1] for x in got], wanted, f"of sequence {row}")


@law("decoding.kv_bytes", "a token costs 2 * KV heads * head dim * layers numbers, and the cache holds exactly that",
     cases=draw_a.cases(draw_chunks), examples=8, **FACTORY)
@torch.no_grad()
def kv_bytes(fn, config, seed, tokens, chunks):
    """fn(config): the maker of a model; its cache has `bytes_per_token`, and `kv`, tensors (2, b, room, j, d)."""
    model = build(fn, config, seed)
    wanted = 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers * 8    # float64: 8 bytes
    fresh = fn.run(model.new_cache, len(tokens)).bytes_per_token
    require(fresh == wanted, f"an empty cache says {fresh} bytes a token, the formula {wanted}")
    _, cache = in_chunks(fn, model, tokens, chunks)
    require(cache.bytes_per_token == wanted, f"a filled cache says {cache.bytes_per_token} bytes a token, the formula "
            f"{wanted}")
    require(cache.length == tokens.shape[1], f"the cache counts {cache.length} tokens of {tokens.shape[1]}")
    held = sum(kv.nbytes for kv in cache.kv) / (len(tokens) * cache.kv[0].shape[2])
    require(held == wanted, f"the tensors hold {held} bytes a token, the formula says {wanted}")
    alive(fn, model, tokens)


@law("decoding.last_only", "last_only gives the last token's logits and nothing else", cases=draw_a.cases(draw_model),
     examples=8, itself=True, **FACTORY)
@torch.no_grad()
def last_only(fn, config, seed, tokens):
    """fn(config): the maker of a model, called with last_only=True."""
    model = build(fn, config, seed)
    whole, routes = plain(fn, model, tokens)
    same(ask(fn, model, tokens, last_only=True), (whole[:, -1:], routes), "of the last token")
