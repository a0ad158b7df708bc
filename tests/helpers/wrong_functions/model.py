"""Wrong functions for the laws of model: see the head of this folder."""

import types
from dataclasses import replace

import torch
from torch import nn

from minizaya.arch.model import Zaya


def zaya(change=None, after=None, config=None):
    """A maker of models that are wrong in one place: change(out, tokens, options, model) spoils what forward gives;
    after(model) spoils what was made; config(config) makes another model than the one asked for."""
    def make(asked):
        model = Zaya(config(asked) if config else asked)
        if after:
            after(model)
        forward = model.forward

        def wrong(tokens, **options):
            out = forward(tokens, **options)
            if change:
                change(out, tokens, options, model)
            return out

        model.forward = wrong
        return model
    return make


def called(with_options):
    """A maker of models whose forward hears other options: with_options(tokens, options) -> options."""
    def make(config):
        model = Zaya(config)
        forward = model.forward
        model.forward = lambda tokens, **options: forward(tokens, **with_options(tokens, options))
        return model
    return make


def one(out, tokens, options, model):
    out.logits = out.logits + 1


def routed(out, tokens, options, model):
    out.routes = out.routes + 1


def nothing(out, tokens, options, model):
    out.logits = out.logits * 0


def routed_far(out, tokens, options, model):
    out.routes = out.routes + 100


def no_gradient(out, tokens, options, model):
    out.logits = out.logits.detach()


def twice_the_gradient(out, tokens, options, model):
    out.logits = 2 * out.logits - out.logits.detach()


def if_option(name, test, change=one):
    """`change` only where the option was given and fulfils `test`."""
    def run(out, tokens, options, model):
        if options.get(name) is not None and test(options[name]):
            change(out, tokens, options, model)
    return run


def company(axis):
    def run(out, tokens, options, model):
        out.logits = out.logits + out.logits.mean(axis, keepdim=True)
    return run


def no_routes(out, tokens, options, model):
    del out.routes


def by_route(out, tokens, options, model):
    out.logits = out.logits + out.routes.sum(-1, keepdim=True)


def last_mask(tokens, options):
    """The mask of the last sequence for all."""
    mask = options.get("mask")
    return options | dict(mask=None if mask is None else mask[-1:].expand(mask.shape))


def biased(value):
    def after(model):
        for block in model.layers:
            block.router.balancing_bias[-1] = value
    return after


def scales_of(value):
    def after(model):
        for block in model.layers:
            if hasattr(block.moe_merge, "output_scale"):
                block.moe_merge.output_scale.data.fill_(value)
    return after


def filled(name, value):
    def after(model):
        dict(model.named_parameters())[name].data.fill_(value)
    return after


def narrow(model):
    for value in model.parameters():
        if value.dim() > 1:
            value.data.mul_(0.1)


def layers_of_probs(change):
    def run(out, tokens, options, model):
        out.probs = change(out.probs)
    return run


def every_row_learns(model):
    model.embed.padding_idx = None


def bias_follows(model):
    for block in model.layers:
        block.router._apply = types.MethodType(nn.Module._apply, block.router)


def runs_twice(config):
    model = Zaya(config)
    forward = model.forward
    model.forward = lambda tokens, **options: (forward(tokens), forward(tokens, **options))[1]
    return model


def rounds_its_stream(model):
    model.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0].bfloat16().to(inputs[0].dtype),))


def first_router_listens(model):
    if model.config.eda:
        model.layers[0].router.eda_scale = nn.Parameter(torch.ones(model.config.router_hidden_size))


def untied(model):
    model.head.weight = nn.Parameter(model.embed.weight.data.clone())


def attr(name, change):
    def run(out, tokens, options, model):
        setattr(out, name, change(getattr(out, name)))
    return run


def block(index, change):
    """A block that is right but for one of its four results."""
    def run(layer, stream, place, below):
        got = list(layer(stream, place, below))
        got[index] = change(got[index])
        return tuple(got)
    return run


WRONG = {
    "model.definition": [
        (lambda config: config, "you made a ZayaConfig"),
        zaya(one),
        zaya(routed),
        (zaya(no_routes), "must have .logits and .routes"),
    ],
    "model.causal": [
        zaya(company(1)),
    ],
    "model.batch": [
        zaya(company(0)),
        zaya(nothing),
    ],
    "model.padding": [
        called(lambda tokens, options: {}),
        called(last_mask),
    ],
    "model.documents": [
        called(lambda tokens, options: {}),
    ],
    "model.document_gradients": [
        called(lambda tokens, options: {}),
        (zaya(no_gradient), "the logits carry no gradient"),
        zaya(nothing),
    ],
    "model.replay_identity": [
        zaya(if_option("routes", lambda routes: (routes >= 0).all())),
        zaya(if_option("routes", lambda routes: (routes < 0).all())),
        zaya(nothing),
    ],
    "model.replay": [
        called(lambda tokens, options: {}),
    ],
    "model.gradients": [
        (zaya(no_gradient), "the logits carry no gradient"),
        zaya(twice_the_gradient),
    ],
    "model.expert_order": [
        zaya(by_route),
        zaya(nothing),
    ],
    "model.fresh_never_skips": [
        zaya(after=biased(2.0)),
        (zaya(attr("routes", lambda routes: routes * 0)), "a token still went to an expert"),
        zaya(one),
    ],
    "model.fresh_scaling": [
        zaya(config=lambda config: replace(config, residual_scaling=False)),
        zaya(after=scales_of(2.0)),
    ],
    "model.fresh_weights": [
        zaya(after=filled("norm.weight", 2.0)),
        zaya(after=narrow),
    ],
    "model.probs": [
        zaya(layers_of_probs(lambda probs: torch.cat([probs, probs[:1]]))),
        zaya(layers_of_probs(lambda probs: probs.roll(1, -1))),
        zaya(nothing),
    ],
    "model.pad_gradient": [
        (zaya(no_gradient), "the logits carry no gradient"),
        zaya(after=every_row_learns),
    ],
    "model.float32": [
        zaya(attr("logits", lambda logits: logits.bfloat16())),
        zaya(attr("logits", lambda logits: logits[..., :-1])),
        zaya(attr("routes", lambda routes: routes.int())),
        zaya(routed_far),
        zaya(after=bias_follows),
        zaya(nothing),
    ],
    "model.half_stream": [
        runs_twice,
        zaya(after=rounds_its_stream),
        zaya(nothing),
    ],
    "model.ablations": [
        zaya(after=first_router_listens),
        zaya(config=lambda config: replace(config, residual_scaling=True)),
        zaya(one),
    ],
    "model.tied": [
        zaya(after=untied),
        zaya(one),
    ],
    "model.block": [
        block(0, lambda stream: stream + 1),
        block(1, lambda routes: routes + 1),
        block(2, lambda probs: probs * 2),
        block(3, lambda state: state + 1),
        (block(0, lambda stream: stream.detach()), "the new stream carries no gradient"),
        block(0, lambda stream: 2 * stream - stream.detach()),
    ],
}
