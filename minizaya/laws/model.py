"""Laws of the whole model: what one token may know of another, replay, and what every switch switches.

The judged function makes a model: fn(config) -> an nn.Module that is called as `Zaya` is (tokens, and optionally
routes, doc_ids, mask, cache) and names its parameters as `Zaya` does. A law then draws every weight itself, in float64.
"""

import torch
from torch import Tensor, nn

from ..arch.model import Zaya
from . import strategies as draw_a
from . import textbook
from .core import Broken, expect, finite, law, require, tolerance

FACTORY = dict(subjects={"fast": Zaya, "reference": lambda config: Zaya(config, backend="reference")},
               guards=[Zaya.forward], axes=dict(tokens="b t"))


def draw_model(draw, longest: int = 7, low: int = 0, **fixed) -> dict:
    cfg = draw_a.config(draw, **fixed)
    b, t = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, longest)
    return dict(config=cfg, seed=draw_a.size(draw, 0, 9999),
                tokens=draw_a.integers(draw, b, t, low=low, high=cfg.vocab_size - 1))


def draw_ablated(draw) -> dict:
    """Half of the time the released design, half of the time with parts switched off."""
    biases = dict(attention_bias=draw_a.flag(draw), lm_head_bias=draw_a.flag(draw))
    if draw_a.flag(draw):
        return draw_model(draw, **biases)
    on = {name: not draw_a.flag(draw) for name in ("qk_mean", "value_shift", "eda", "residual_scaling")}
    return draw_model(draw, num_convs=2 - draw_a.size(draw, 0, 2), tie_word_embeddings=not draw_a.flag(draw),
                      router="linear" if draw_a.size(draw, 0, 3) == 3 else "mlp", **on, **biases)


def build(fn, config, seed) -> nn.Module:
    model = fn(config)
    if not isinstance(model, nn.Module):
        raise Broken(f"you made a {type(model).__name__}, the law wants a torch.nn.Module")
    return draw_a.randomise(model, seed).eval()


def ask(fn, model, tokens, **options) -> tuple[Tensor, Tensor]:
    """Logits (b, t, vocab) and routes (b, t, layers) of the judged model."""
    out = fn.run(model, tokens, **options)
    require(hasattr(out, "logits") and hasattr(out, "routes"), "the output must have .logits and .routes")
    return finite(out.logits, "logits"), finite(out.routes, "routes")


def same(got: tuple, wanted: tuple, what: str, exact: bool = False) -> None:
    expect(got[1], wanted[1], "b t l", f"routes {what}")
    expect(got[0], wanted[0], "b t v", f"logits {what}", exact)


def alive(fn, model, tokens) -> None:
    """A constant is causal, independent of its batch mates, and useless. Two different tokens must differ."""
    two = torch.tensor([[1], [2]])
    logits, _ = ask(fn, model, two)
    require(logits.shape[0] == 2 and (logits[0] - logits[1]).abs().max() > 1e-9, "all tokens get the same logits")


def plain(fn, model, tokens, routes=None) -> tuple[Tensor, Tensor]:
    """What the whole sequence gives, uncached: by the definition, or by the judged model itself if it is to be its own
    measure (then it must not be a constant)."""
    if not fn.itself:
        return textbook.model(model, tokens, routes)
    alive(fn, model, tokens)
    return ask(fn, model, tokens, **({} if routes is None else {"routes": routes}))


@law("model.definition", "embed, then in every layer attend, merge, visit an expert, merge; then norm and head",
     cases=draw_a.cases(draw_ablated), examples=20, **FACTORY)
@torch.no_grad()
def definition(fn, config, seed, tokens):
    """fn(config): the maker of a model: a `ZayaConfig` -> an nn.Module that is called as `Zaya` is, with tokens int64
    (b, t) and optionally routes, doc_ids, mask, cache, returns .logits and .routes, and names its parameters so."""
    model = build(fn, config, seed)
    same(ask(fn, model, tokens), textbook.model(model, tokens), "of the whole model")


@law("model.causal", "a later token never changes an earlier token's logits or routes",
     cases=draw_a.cases(draw_model), examples=12, **FACTORY)
@torch.no_grad()
def causal(fn, config, seed, tokens):
    """fn(config): the maker of a model. The second half of the tokens is replaced."""
    model, cut = build(fn, config, seed), tokens.shape[1] // 2
    other = tokens.clone()
    other[:, cut:] = (other[:, cut:] + 1) % config.vocab_size
    first, second = ask(fn, model, tokens), ask(fn, model, other)
    same([x[:, :cut] for x in second], [x[:, :cut] for x in first], "before the changed tokens")
    moved = (first[0][:, cut:] - second[0][:, cut:]).abs().max()
    require(moved > 1e-9, "the changed tokens' own logits did not change")


@law("model.batch", "a sequence gets the same logits and routes alone as with batch mates",
     cases=draw_a.cases(draw_model), examples=10, **FACTORY)
@torch.no_grad()
def batch(fn, config, seed, tokens):
    """fn(config): the maker of a model."""
    model = build(fn, config, seed)
    together = ask(fn, model, tokens)
    for b in range(len(tokens)):
        same(ask(fn, model, tokens[b: b + 1]), [x[b: b + 1] for x in together], f"of sequence {b} alone")
    alive(fn, model, tokens)


def draw_padded(draw):
    return draw_model(draw, longest=6) | dict(padding=draw_a.size(draw, 1, 4), filler=draw_a.size(draw, 0, 10))


@law("model.padding", "padding on the left, any amount of any token, changes nothing for the real tokens",
     cases=draw_a.cases(draw_padded), examples=12, **FACTORY)
@torch.no_grad()
def padding(fn, config, seed, tokens, padding, filler):
    """fn(config): the maker of a model, called with mask, bool (b, t), False on padding."""
    model = build(fn, config, seed)
    wide = torch.cat([torch.full((len(tokens), padding), filler), tokens], dim=1)
    mask = (torch.arange(wide.shape[1]) >= padding).expand(wide.shape).clone()
    got = ask(fn, model, wide, mask=mask)
    same([x[:, padding:] for x in got], ask(fn, model, tokens), "of the real tokens")
    mask[0] = True                                    # a mate without padding: its first tokens count
    mixed = ask(fn, model, wide, mask=mask)
    same([x[:1] for x in mixed], ask(fn, model, wide[:1]), "of a mate without padding")
    alive(fn, model, tokens)


def draw_packed(draw):
    case = draw_model(draw, attention_bias=draw_a.flag(draw))
    return case | dict(documents=draw_a.lengths(draw, case["tokens"].shape[1]))


def ids_of(documents: list[int], batch: int) -> Tensor:
    """Ids 5, 6, 5, 6, ... : an id that comes back is a new document."""
    return torch.cat([torch.full((n,), 5 + i % 2) for i, n in enumerate(documents)]).expand(batch, -1).clone()


@law("model.documents", "packed documents do not see each other: each gets the logits and routes it has alone",
     cases=draw_a.cases(draw_packed), examples=15, itself=True, **FACTORY)
@torch.no_grad()
def documents(fn, config, seed, tokens, documents):
    """fn(config): the maker of a model, called with doc_ids, int (b, t). `documents` are the lengths."""
    model = build(fn, config, seed)
    together = ask(fn, model, tokens, doc_ids=ids_of(documents, len(tokens)))
    start = 0
    for i, n in enumerate(documents):
        piece = slice(start, start + n)
        alone = plain(fn, model, tokens[:, piece])
        same([x[:, piece] for x in together], alone, f"of document {i}")
        start += n


def slopes(logits: Tensor, model: nn.Module, pull: Tensor) -> list[Tensor]:
    """Gradients of all parameters for one scalar made of every logit; zeros where nothing flows."""
    values = list(model.parameters())
    got = torch.autograd.grad((logits * pull).sum(), values, allow_unused=True)
    return [torch.zeros_like(v) if g is None else g for v, g in zip(values, got)]


def same_slopes(model, got, wanted, what: str) -> None:
    """Gradients are sums over all tokens and layers, so they are compared relative to the largest of their tensor."""
    for (name, _), own, right in zip(model.named_parameters(), got, wanted):
        error = float((own - right).abs().max() / (1 + right.abs().max()))
        require(error <= tolerance(torch.float64),
                f"the gradient of {name} {what} is off by {error:.2g} of its largest entry")


def pulls(tokens: Tensor, vocab: int) -> Tensor:
    """A fixed weight for each logit, so that no gradient cancels."""
    return (torch.arange(tokens.numel() * vocab) % 7 - 3.0).double().view(*tokens.shape, vocab) / 3


@law("model.document_gradients", "packed documents teach exactly what they teach alone: gradients add up",
     cases=draw_a.cases(draw_packed), examples=10, **FACTORY)
def document_gradients(fn, config, seed, tokens, documents):
    """fn(config): the maker of a model, called with doc_ids."""
    model, pull = build(fn, config, seed), pulls(tokens, config.vocab_size)
    logits, _ = ask(fn, model, tokens, doc_ids=ids_of(documents, len(tokens)))
    require(logits.requires_grad, "the logits carry no gradient")
    pieces = zip(tokens.split(documents, 1), pull.split(documents, 1))
    alone = [slopes(ask(fn, model, document)[0], model, part) for document, part in pieces]
    same_slopes(model, slopes(logits, model, pull), [sum(parts) for parts in zip(*alone)], "over packed documents")
    alive(fn, model, tokens)
