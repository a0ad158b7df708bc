"""Laws of small steps that only the lessons' exercises ask for; their components have the general ones."""

import torch

from ..arch.attention import locate
from ..arch.block import Block
from ..arch.cache import Cache
from ..arch.model import Zaya
from ..infer import generate as lib
from ..plan import account
from . import strategies as draw_a
from . import textbook
from .core import Broken, expect, finite, law, parts, require

# ---- lesson 01 -------------------------------------------------------------------------------------------------------


@law("experts.active_parameters", "a token uses every parameter but the experts it does not visit",
     cases=draw_a.cases(lambda draw: dict(config=draw_a.config(draw))), axes={},
     subjects={"account": lambda model: account.active_parameters(model.config)},
     guards=[account.active_parameters, account.parameters])
def active_parameters(fn, config):
    """fn(model): a `Zaya` (on the meta device: shapes without numbers) -> int, parameters that one token uses."""
    with torch.device("meta"):
        model = Zaya(config)
    got = fn(model)
    require(isinstance(got, int) and not isinstance(got, bool), f"you gave {got!r}, the law wants a whole number (int)")
    # slice one expert out of each stack and count what is left
    wanted = sum(value[0].numel() if ".experts." in name else value.numel() for name, value in model.named_parameters())
    total = sum(value.numel() for value in model.parameters())
    require(got == wanted, f"of {total} parameters you count {got} for one token, the law wants {wanted}")


# ---- lesson 06 -------------------------------------------------------------------------------------------------------


def draw_block(draw):
    cfg = draw_a.config(draw, num_hidden_layers=2)
    b, t = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 5)
    return dict(config=cfg, seed=draw_a.size(draw, 0, 9999), stream=draw_a.tensor(draw, b, t, cfg.hidden_size),
                below=draw_a.tensor(draw, b, t, cfg.router_hidden_size))


@law("model.block", "a layer attends, merges, visits an expert and merges; each half reads the stream through its norm",
     cases=draw_a.cases(draw_block), axes=dict(stream="b t c"), examples=25,
     subjects={"Block": lambda block, stream, place, below: block(stream, place, below)}, guards=[Block.forward])
def block(fn, config, seed, stream, below):
    """fn(block, stream, place, below): a `Block` for its parts, float (b, t, D), a `Place`, float (b, t, R) ->
    the new stream (b, t, D), routes int64 (b, t), probs (b, t, E + 1) and the router's state (b, t, R)."""
    model = draw_a.randomise(Zaya(config), seed)
    layer, place = model.layers[1], locate(config, *stream.shape[:2], 0, stream.dtype, stream.device)
    names = "the stream, routes, probs and the router's state"
    got = parts(fn(layer, stream, place, below), 4, names)
    again = stream.clone().requires_grad_(True), below.clone().requires_grad_(True)
    learns = parts(fn(layer, again[0], place, again[1]), 4, names)[0]

    stream, below = stream.requires_grad_(True), below.requires_grad_(True)
    x = textbook.rms(stream, layer.attention_norm.weight, layer.attention_norm.eps)
    middle = textbook.joined(layer.attention_merge, textbook.cca(layer.attention, x), stream)
    x = textbook.rms(middle, layer.moe_norm.weight, layer.moe_norm.eps)
    probs, state = textbook.router(layer.router, x, below)
    routes = textbook.chosen(probs.float(), layer.router.balancing_bias.float())
    gates = probs.gather(-1, routes[..., None])[..., 0]
    done = textbook.dispatched(x.flatten(0, 1), routes.flatten(), gates.flatten(), layer.experts.gate_up_proj,
                               layer.experts.down_proj).view_as(x)
    expect(got[1], routes, "b t", "routes")
    expect(got[2], probs, "b t e", "probs")
    expect(got[3], state, "b t r", "the router's state")
    wanted = textbook.joined(layer.moe_merge, done, middle)
    expect(got[0], wanted, "b t c", "the new stream")
    require(learns.requires_grad, "the new stream carries no gradient, so nothing below it could learn")
    pull = (torch.arange(wanted.numel()) % 5 - 2.0).double().view_as(wanted)
    own = torch.autograd.grad((learns * pull).sum(), again, allow_unused=True)
    right = torch.autograd.grad((wanted * pull).sum(), (stream, below), allow_unused=True)
    for name, letters, tensor, mine, theirs in zip(("stream", "below"), ("b t c", "b t r"), again, own, right):
        mine, theirs = (torch.zeros_like(tensor) if x is None else x for x in (mine, theirs))
        expect(mine, theirs, letters, f"gradient of {name}")


def draw_columns(draw):
    b, lag, steps, c = (draw_a.size(draw, low, high) for low, high in ((1, 2), (0, 3), (1, 5), (1, 3)))
    return dict(past=draw_a.tensor(draw, b, lag, c), z=draw_a.tensor(draw, b, steps, c))


def columns_of_cache(past, z):
    """The library's subject: what `Cache.exchange` keeps of one layer."""
    cache = Cache.__new__(Cache)
    cache.columns, cache.delayed = [past], [None]
    cache.exchange(0, z, z)
    return cache.columns[0]


@law("decoding.columns", "after each chunk, long or short, the cache holds the last columns of all tokens so far",
     cases=draw_a.cases(draw_columns), axes=dict(past="b k c", z="b t c"),
     subjects={"Cache.exchange": columns_of_cache},
     guards=[Cache.exchange])
def columns(fn, past, z):
    """fn(past, z): float (b, lag, c), the columns kept so far; (b, t, c), new ones -> (b, lag, c), what to keep now.
    There may be fewer new columns than are kept, and a model without convolutions keeps none (lag = 0)."""
    lag = past.shape[1]
    everything = [*past.unbind(1), *z.unbind(1)]
    kept = everything[len(everything) - lag:]
    expect(fn(past, z), torch.stack(kept, 1) if lag else past, "b k c")


def draw_prompt(draw):
    prompt = draw_a.integers(draw, draw_a.size(draw, 1, 5), low=0, high=10).tolist()
    return dict(config=draw_a.config(draw), seed=draw_a.size(draw, 0, 9999), prompt=prompt,
                count=draw_a.size(draw, 1, 5))


@law("decoding.greedy_cached", "each new token is the most likely one, and the model reads every token only once",
     cases=draw_a.cases(draw_prompt), axes={}, examples=20, guards=[lib.generate, lib.generate_reference],
     subjects={"generate": lambda model, prompt, count: lib.generate(model, [prompt], count, temperature=0.0)[0]})
@torch.no_grad()
def greedy_cached(fn, config, seed, prompt, count):
    """fn(model, prompt, count): a `Zaya`, a list of token ids, an int -> list of `count` new ids (int)."""
    model, read = draw_a.randomise(Zaya(config), seed).eval(), []
    model.register_forward_pre_hook(lambda module, args, kwargs: read.append(
        (args[0] if args else kwargs["tokens"]).shape), with_kwargs=True)
    got = fn(model, prompt, count)
    if not isinstance(got, list) or len(got) != count or set(map(type, got)) != {int}:
        raise Broken(f"you gave {got!r}, the law wants a list of {count} token ids (int)")
    require(all(0 <= token < config.vocab_size for token in got), f"{got} holds an id outside the vocabulary")
    text = list(prompt)
    for token in got:
        logits = finite(textbook.model(model, torch.tensor([text]))[0][0, -1])
        best = int(logits.argmax())
        require(logits[token] > logits[best] - 1e-9, f"after {text} you gave {token}, the law wants {best}")
        text.append(token)
    tokens = sum(shape.numel() for shape in read)
    most = len(prompt) + count      # the last new token need not be read, but may be
    require(len(prompt) + count - 1 <= tokens <= most, f"the model read {tokens} tokens in {len(read)} calls, for a "
            f"prompt of {len(prompt)} and {count} new tokens; with the cache, {most - 1} are enough")
