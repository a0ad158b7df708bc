"""Laws of the whole model, continued: replay, skipping, types, and what every switch switches. Names: "model.".

As in `model.py` the judged function makes a model: fn(config) -> an nn.Module like `Zaya`.
"""

from dataclasses import replace

import torch

from . import strategies as draw_a
from . import textbook
from .core import expect, finite, law, require
from .model import FACTORY, alive, ask, build, draw_ablated, draw_model, pulls, same, same_slopes, slopes

# ---- replay ----------------------------------------------------------------------------------------------------------


@law("model.replay_identity", "replaying your own routes changes nothing, bit for bit; -1 everywhere is no replay",
     cases=draw_a.cases(draw_model), examples=10, **FACTORY)
@torch.no_grad()
def replay_identity(fn, config, seed, tokens):
    """fn(config): the maker of a model, called with routes, int (b, t, layers)."""
    model = build(fn, config, seed)
    first = ask(fn, model, tokens)
    same(ask(fn, model, tokens, routes=first[1]), first, "on replaying its own routes", exact=True)
    same(ask(fn, model, tokens, routes=torch.full_like(first[1], -1)), first, "with -1 everywhere", exact=True)
    alive(fn, model, tokens)


def draw_pinned(draw):
    case = draw_model(draw, low=1)
    shape, cfg = (*case["tokens"].shape, case["config"].num_hidden_layers), case["config"]
    return case | dict(pinned=draw_a.integers(draw, *shape, low=-1, high=cfg.num_experts))


@law("model.replay", "recorded routes are taken, the rest is chosen anew, and gates come from today's router",
     cases=draw_a.cases(draw_pinned), examples=12, **FACTORY)
@torch.no_grad()
def replay(fn, config, seed, tokens, pinned):
    """fn(config): the maker of a model, called with routes, -1 where nothing was recorded."""
    model = build(fn, config, seed)
    same(ask(fn, model, tokens, routes=pinned), textbook.model(model, tokens, pinned), "on replay")


@law("model.gradients", "every gradient, under replay too, is that of the definition",
     cases=draw_a.cases(draw_pinned), examples=10, **FACTORY)
def gradients(fn, config, seed, tokens, pinned):
    """fn(config): the maker of a model. No token is the pad token, which learns nothing from being looked up."""
    model, pull = build(fn, config, seed), pulls(tokens, config.vocab_size)
    logits, _ = ask(fn, model, tokens, routes=pinned)
    require(logits.requires_grad, "the logits carry no gradient")
    right = textbook.model(model, tokens, pinned)[0]
    same_slopes(model, slopes(logits, model, pull), slopes(right, model, pull), "under replay")


# ---- the router in the model -----------------------------------------------------------------------------------------


@law("model.expert_order", "experts in another order, their router rows and biases with them, change nothing",
     cases=draw_a.cases(draw_model), examples=12, **FACTORY)
@torch.no_grad()
def expert_order(fn, config, seed, tokens):
    """fn(config): the maker of a model."""
    model, experts = build(fn, config, seed), config.num_experts
    logits, routes = ask(fn, model, tokens)
    order = torch.arange(experts).roll(1)
    rows = torch.cat([order, torch.tensor([experts])])          # the skip route keeps its row
    for block in model.layers:
        for value in (block.experts.gate_up_proj, block.experts.down_proj):
            value.copy_(value[order])
        for value in (block.router.mlp.out_proj.weight, block.router.balancing_bias):
            value.copy_(value[rows])
    same(ask(fn, model, tokens), (logits, rows.argsort()[routes]), "with the experts in another order")
    alive(fn, model, tokens)


@law("model.fresh_never_skips", "a fresh model skips no token; a skip bias above one makes it skip them all",
     cases=draw_a.cases(draw_model), examples=10, **FACTORY)
@torch.no_grad()
def fresh_never_skips(fn, config, seed, tokens):
    """fn(config): the maker of a model; its own initial weights stay, but for routers made confident."""
    torch.manual_seed(seed)
    model = fn(config).double()
    for block in model.layers:
        block.router.mlp.out_proj.weight.mul_(1e4)
    require((ask(fn, model, tokens)[1] != config.skip_route).all(), "a fresh model skipped a token")
    for block in model.layers:
        block.router.balancing_bias[-1] = 1.01
    logits, routes = ask(fn, model, tokens)
    require((routes == config.skip_route).all(), "with a skip bias above one a token still went to an expert")
    same((logits, routes), textbook.model(model, tokens), "with every token skipped")


@law("model.fresh_scaling", "at initialisation residual scaling changes nothing, bit for bit",
     cases=draw_a.cases(draw_model), examples=10, **FACTORY)
@torch.no_grad()
def fresh_scaling(fn, config, seed, tokens):
    """fn(config): the maker of a model; here its own initial weights stay."""
    torch.manual_seed(seed)
    scaled = fn(config)
    torch.manual_seed(seed)
    plain = fn(replace(config, residual_scaling=False))
    require(any("residual_scale" in name for name, _ in scaled.named_parameters()), "the scaled model has no scales")
    same(ask(fn, scaled, tokens), ask(fn, plain, tokens), "with scaling", exact=True)
    alive(fn, scaled, tokens)


@law("model.fresh_weights", "fresh matrices have the spread initializer_range; biases are zero, all else is one",
     cases=draw_a.cases(draw_model), examples=5, **FACTORY)
@torch.no_grad()
def fresh_weights(fn, config, seed, tokens):
    """fn(config): the maker of a model; here its own initial weights stay. initializer_range is 0.5."""
    torch.manual_seed(seed)
    model = fn(replace(config, initializer_range=0.5, attention_bias=True, lm_head_bias=True))
    numbers = []
    for name, value in model.named_parameters():
        if value.dim() >= 2:
            numbers.append(value.flatten())
        else:
            start = 0.0 if name.endswith("bias") else 1.0
            require((value == start).all(), f"{name} starts at {value[0]:.3g}, the law wants {start}")
    spread = float(torch.cat(numbers).std())           # of 200 numbers or more: its own error is under 0.03
    require(0.35 < spread < 0.65, f"matrices have standard deviation {spread:.3g}, the law wants 0.5")
    alive(fn, build(fn, config, seed), tokens)


@law("model.probs", "every router's probabilities come back in layer order, and the routes can be read off them",
     cases=draw_a.cases(draw_model), examples=8, **FACTORY)
@torch.no_grad()
def probs(fn, config, seed, tokens):
    """fn(config): the maker of a model, whose output also has probs (layers, b, t, E + 1)."""
    model = build(fn, config, seed)
    out = fn.run(model, tokens)
    require(len(out.probs) == len(model.layers), f"probs of {len(out.probs)} layers, the model has {len(model.layers)}")
    for layer, block in enumerate(model.layers):
        wanted = textbook.chosen(finite(out.probs[layer]).float(), block.router.balancing_bias.float())
        expect(out.routes[..., layer], wanted, "b t", f"routes of layer {layer}, read off its probs")
    alive(fn, model, tokens)


@law("model.pad_gradient", "looking up the pad token teaches its row nothing; every other row learns",
     cases=draw_a.cases(draw_model), examples=5, **FACTORY)
def pad_gradient(fn, config, seed, tokens):
    """fn(config): the maker of a model; head and embedding are two tensors here, and every token is looked up."""
    model = build(fn, replace(config, tie_word_embeddings=False, pad_token_id=3), seed)
    logits, _ = ask(fn, model, torch.arange(config.vocab_size)[None])
    require(logits.requires_grad, "the logits carry no gradient")
    rows, = torch.autograd.grad((logits * pulls(torch.zeros(1, config.vocab_size), config.vocab_size)).sum(),
                                [model.embed.weight])
    for token, row in enumerate(rows):
        require((row == 0).all() == (token == 3),
                f"the embedding of token {token} has gradient {row.tolist()}, the pad "
                "token is 3")


# ---- types and switches ----------------------------------------------------------------------------------------------


@law("model.float32", "in bfloat16 the logits and the balancing bias stay float32, and routes are legal int64",
     cases=draw_a.cases(draw_model), examples=10, **FACTORY)
@torch.no_grad()
def float32(fn, config, seed, tokens):
    """fn(config): the maker of a model."""
    model = build(fn, config, seed)
    fine = [block.router.balancing_bias.float() for block in model.layers]
    for block, bias in zip(model.layers, fine):
        block.router.balancing_bias = bias
    model = model.bfloat16()
    logits, routes = ask(fn, model, tokens)
    require(logits.dtype == torch.float32, f"logits are {logits.dtype}, the law wants torch.float32")
    require(logits.shape == (*tokens.shape, config.vocab_size), f"logits have shape {tuple(logits.shape)}")
    require(routes.dtype == torch.int64 and routes.shape == (*tokens.shape, config.num_hidden_layers),
            f"routes are {routes.dtype} of shape {tuple(routes.shape)}")
    require((routes >= 0).all() and (routes <= config.num_experts).all(), "a route left the range from 0 to E")
    for block, bias in zip(model.layers, fine):
        expect(block.router.balancing_bias, bias, "e", "balancing bias after model.bfloat16()", exact=True)
    alive(fn, model, tokens)


@law("model.half_stream", "in bfloat16 the residual stream is float32: a tiny addition survives a large stream",
     cases=draw_a.cases(draw_model), examples=10, **FACTORY)
@torch.no_grad()
def half_stream(fn, config, seed, tokens):
    """fn(config): the maker of a model. All layers are silenced but for the bias 2^-12 that each merge adds to 1."""
    model = fn(config).bfloat16()
    for value in model.parameters():
        value.zero_()
    model.norm.weight.fill_(1.0)
    model.embed_scale.fill_(1.0)
    model.embed_bias.fill_(1.0)
    channel = 1.0 + 2.0 ** -12 * len(model.layers) * 2
    for block in model.layers:
        for merge in (block.attention_merge, block.moe_merge):
            merge.residual_scale.fill_(1.0)
            merge.residual_bias[1:] = 2.0 ** -12            # the first channel stays at one
    seen = []
    model.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    ask(fn, model, tokens)
    require(len(seen) == 1, "the last norm was not called once")
    wanted = torch.full((*tokens.shape, config.hidden_size), channel)
    wanted[..., 0] = 1.0
    expect(seen[0], wanted, "b t c", "the stream", exact=True)
    alive(fn, build(fn, config, seed), tokens)


SWITCHES = {"num_convs": (0, ("conv_",)), "residual_scaling": (False, ("_merge.",)), "eda": (False, ("eda_scale",)),
            "qk_mean": (False, ()), "value_shift": (False, ())}


def draw_switch(draw):
    return draw_model(draw) | dict(switch=draw_a.pick(draw, tuple(SWITCHES)))


@law("model.ablations", "a switch takes away its own part and nothing else", cases=draw_a.cases(draw_switch),
     examples=15, **FACTORY)
@torch.no_grad()
def ablations(fn, config, seed, tokens, switch):
    """fn(config): the maker of a model. `switch` is the field of the config that is turned off."""
    off, words = SWITCHES[switch]
    full, cut = build(fn, config, seed), build(fn, replace(config, **{switch: off}), seed)
    names, left = set(dict(full.named_parameters())), set(dict(cut.named_parameters()))
    heard = [f"layers.{i}.router.eda_scale" in names for i in range(config.num_hidden_layers)]
    require(heard == [i > 0 for i in range(len(heard))], "every router but the first has an eda_scale, and no other")
    gone = {name for name in names if any(word in name for word in words)}
    require(left == names - gone, f"{switch}={off} changed the wrong parameters: {sorted((names - gone) ^ left)}")
    cut.load_state_dict({k: v for k, v in full.state_dict().items() if k in cut.state_dict()})
    same(ask(fn, cut, tokens), textbook.model(cut, tokens), f"with {switch}={off}")


@law("model.tied", "with tied embeddings the head is the embedding itself, one tensor",
     cases=draw_a.cases(draw_ablated),
     examples=10, **FACTORY)
@torch.no_grad()
def tied(fn, config, seed, tokens):
    """fn(config): the maker of a model."""
    model = build(fn, config, seed)
    shared = model.head.weight is model.embed.weight
    require(shared == config.tie_word_embeddings, f"tie_word_embeddings is {config.tie_word_embeddings}, but head and "
            f"embedding are {'one tensor' if shared else 'two tensors'}")
    same(ask(fn, model, tokens), textbook.model(model, tokens), "of the whole model")
