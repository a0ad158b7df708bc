"""Laws of any causal language model, or any layer of one, as a black box: nothing is known of what is inside.

The judged function takes nothing and gives a `BlackBox`: forward(tokens) -> logits, and what else the model can do. A
BlackBox is such a function itself, so `judge("lm.causal", BlackBox(forward, vocab=1000))` is enough, and
`laws.causal_lm(forward, vocab=1000)` asks every law that what was given can answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from . import strategies as draw_a
from .core import Refused, expect, finite, law, require

PARTS = ("step", "padded", "packed", "routes", "replay", "counts")     # what a model may leave out


@dataclass(frozen=True)
class BlackBox:
    """A model, or with `width` a layer, by what can be asked of it. b batch, t tokens.

    forward: int64 (b, t) -> float (b, t, vocab); of a layer, float (b, t, width) -> float (b, t, any).
    vocab: token ids run from 0 up to it. width: channels of a layer's input. Exactly one of the two.
    step: (tokens, state) -> (logits, state): the next tokens, any number of them; state is None before the first.
    padded: (tokens, mask) -> logits, mask bool (b, t), False on padding, which stands on the left.
    packed: (tokens, doc_ids) -> logits, doc_ids int64 (b, t): another id, another document, a returning one too.
    routes: tokens -> int (b, t, layers) or (b, t, layers, k): the experts that each token went to.
    replay: (tokens, routes) -> logits, with the experts of the routes, as `routes` gave them.
    counts: tokens -> int (layers, experts): how many tokens each expert got.
    longest: tokens in the longest sequence that is drawn; more than a sliding window has, or it is not seen.
    dtype, device: of a layer's input, and where tokens go. Not given: float64, and the CPU.
    """

    forward: Callable[[Tensor], Tensor]
    vocab: int | None = None
    width: int | None = None
    step: Callable | None = None
    padded: Callable | None = None
    packed: Callable | None = None
    routes: Callable | None = None
    replay: Callable | None = None
    counts: Callable | None = None
    longest: int = 8
    dtype: torch.dtype = torch.float64
    device: str | torch.device = "cpu"

    def __post_init__(self):
        if (self.vocab is None) == (self.width is None):
            raise ValueError(f"give either vocab or width, got vocab={self.vocab!r}, width={self.width!r}")
        for name, least in (("vocab", 2), ("width", 1), ("longest", 2)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
        for name in ("forward", *PARTS):
            value = getattr(self, name)
            if not callable(value) and not (value is None and name in PARTS):
                raise ValueError(f"{name} must be a function, got {value!r}")

    def __call__(self) -> "BlackBox":
        return self

    @torch.no_grad()
    def ask(self, part: str, *args: Any) -> Any:
        """What one of the model's functions gives; Refused if it has none of that name."""
        if getattr(self, part) is None:
            raise Refused(f"it needs `{part}`, which was not given")
        return getattr(self, part)(*(x.to(self.device) if isinstance(x, Tensor) else x for x in args))

    def other(self, tokens: Tensor) -> Tensor:
        """Other tokens, every one of them."""
        return (tokens + 1) % self.vocab if self.vocab else tokens + 1


def draw(more: Callable = lambda draw, case, box: {}, least: int = 1) -> Callable:
    """The strategy of a law, which hangs on the model: tokens of its vocabulary, or numbers of its width."""
    def cases(fn):
        box = fn() if isinstance(fn, BlackBox) else known(fn)

        def fill(draw):
            b, t = draw_a.size(draw, 1, 3), draw_a.size(draw, least, box.longest)
            tokens = (draw_a.integers(draw, b, t, low=0, high=box.vocab - 1) if box.vocab
                      else draw_a.tensor(draw, b, t, box.width, dtype=box.dtype))
            return (case := dict(tokens=tokens)) | more(draw, case, box)

        return draw_a.cases(fill)
    return cases


def known(fn: Callable) -> BlackBox:
    """The model that `fn` makes, to know what to draw for it; what is wrong with it the law says later."""
    try:
        box = fn()
    except Exception:
        box = None
    return box if isinstance(box, BlackBox) else BlackBox(lambda x: x, vocab=8)


# ---- the library's own model as a black box --------------------------------------------------------------------------


def zaya(**changes) -> Callable[[], BlackBox]:
    """A small Zaya with every weight drawn, as others would hand it over."""
    @cache
    def make() -> BlackBox:
        config = ZayaConfig(**SMALL | changes)
        model = draw_a.randomise(Zaya(config), 3).eval()

        def step(tokens, cache):
            cache = model.new_cache(len(tokens)) if cache is None else cache
            return model(tokens, cache=cache).logits, cache

        def counts(tokens):
            routes = model(tokens).routes.flatten(0, 1)
            return torch.stack([row.bincount(minlength=config.num_experts + 1) for row in routes.T])

        return BlackBox(lambda tokens: model(tokens).logits, vocab=config.vocab_size, step=step,
                        padded=lambda tokens, mask: model(tokens, mask=mask).logits,
                        packed=lambda tokens, ids: model(tokens, doc_ids=ids).logits,
                        routes=lambda tokens: model(tokens).routes,
                        replay=lambda tokens, routes: model(tokens, routes=routes).logits, counts=counts)
    return make


SMALL = dict(vocab_size=13, hidden_size=6, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             head_dim=4, num_experts=3, moe_intermediate_size=3, router_hidden_size=3,
             layer_types=("hybrid", "hybrid_sliding"), sliding_window=3, rope_theta=100.0, rope_theta_sliding=10.0)
MODEL = dict(subjects={"Zaya": zaya()}, guards=[Zaya.forward], axes=dict(tokens="b t"), examples=12)


# ---- laws ------------------------------------------------------------------------------------------------------------


def made(fn) -> BlackBox:
    box = fn()
    require(isinstance(box, BlackBox), f"you gave a {type(box).__name__}, the law wants a laws.BlackBox")
    return box


def given(fn, box: BlackBox, part: str, *args) -> Tensor:
    """What a part of the model answers: one row of finite numbers a token, on the CPU, in float32 or wider."""
    got = fn.run(box.ask, part, *args)
    finite(got, f"what {part} gave")
    require(got.dim() == 3 and got.shape[:2] == args[0].shape[:2],
            f"{part} gave shape {tuple(got.shape)} for {tuple(args[0].shape[:2])}, the law wants one row a token")
    return got.cpu()


def plain(fn, box: BlackBox, tokens: Tensor) -> Tensor:
    """The model's uncached answer. A constant is causal, independent of its mates, and useless: tokens must count."""
    logits = given(fn, box, "forward", tokens)
    moved = (given(fn, box, "forward", box.other(tokens)) - logits).abs().amax(-1)
    require((moved > 0).all(), "other tokens get the same logits")
    return logits


def same(got: Tensor, wanted: Tensor, what: str) -> None:
    expect(got, wanted, "b t v", f"logits {what}")


@law("lm.deterministic", "asked twice, it answers the same to the last bit, and differently to different tokens",
     cases=draw(), **MODEL)
def deterministic(fn, tokens):
    """fn(): gives a `laws.BlackBox` (its docstring has the shapes), and a BlackBox is such a function itself."""
    box = made(fn)
    first, again = plain(fn, box, tokens), given(fn, box, "forward", tokens)
    expect(again, first, "b t v", "logits of the second time", exact=True)


def cut(draw, case, box) -> dict:
    return dict(cut=draw_a.size(draw, 1, case["tokens"].shape[1] - 1))


@law("lm.causal", "a later token never changes an earlier token's logits", cases=draw(cut, least=2), **MODEL)
def causal(fn, tokens, cut):
    """fn(): as in lm.deterministic. The tokens from `cut` on are replaced."""
    box, other = made(fn), tokens.clone()
    other[:, cut:] = box.other(other[:, cut:])
    first, second = given(fn, box, "forward", tokens), given(fn, box, "forward", other)
    same(second[:, :cut], first[:, :cut], "before the changed tokens")
    require((second[:, cut:] != first[:, cut:]).any(-1).all(), "the changed tokens kept their own logits")


@law("lm.batch", "a sequence gets the same logits alone as with batch mates", cases=draw(), **MODEL)
def batch(fn, tokens):
    """fn(): as in lm.deterministic."""
    box = made(fn)
    together = plain(fn, box, tokens)
    for row in range(len(tokens)):
        alone = given(fn, box, "forward", tokens[row: row + 1])
        same(alone, together[row: row + 1], f"of sequence {row} alone")


def pieces(draw, case, box) -> dict:
    return dict(chunks=draw_a.lengths(draw, case["tokens"].shape[1]))


def one_by_one(draw, case, box) -> dict:
    return dict(chunks=[1] * case["tokens"].shape[1])


def stepped(fn, tokens, chunks):
    box, state, got = made(fn), None, []
    for piece in tokens.split(chunks, 1):
        logits, state = fn.run(box.ask, "step", piece, state)
        got.append(given(fn, BlackBox(lambda x, out=logits: out, vocab=box.vocab, width=box.width), "forward", piece))
    whole = plain(fn, box, tokens)
    same(torch.cat(got, 1), whole, f"in chunks of {chunks}")


@law("lm.chunks", "with a cache the logits are those without, however the sequence is cut", cases=draw(pieces), **MODEL)
def chunks(fn, tokens, chunks):
    """fn(): as in lm.deterministic, with `step`. `chunks` are the lengths of the pieces."""
    stepped(fn, tokens, chunks)


@law("lm.token_by_token", "with a cache the logits are those without, a token at a time", cases=draw(one_by_one),
     **MODEL)
def token_by_token(fn, tokens, chunks):
    """fn(): as in lm.deterministic, with `step`. How models are used; lm.chunks cuts in every way."""
    stepped(fn, tokens, chunks)


def filled(draw, case, box) -> dict:
    filler = draw_a.size(draw, 0, box.vocab - 1) if box.vocab else draw_a.pick(draw, (0.0, 1.5))
    return dict(padding=draw_a.size(draw, 1, 4), filler=filler)


@law("lm.padding", "padding on the left, any amount of any token, changes nothing for the real tokens",
     cases=draw(filled), **MODEL)
def padding(fn, tokens, padding, filler):
    """fn(): as in lm.deterministic, with `padded`. A mate in the batch has no padding."""
    box = made(fn)
    front = torch.full_like(tokens[:, :1], filler).repeat_interleave(padding, 1)
    wide = torch.cat([front, tokens], 1)
    mask = (torch.arange(wide.shape[1]) >= padding).expand(wide.shape[:2]).clone()
    alone = plain(fn, box, tokens)
    same(given(fn, box, "padded", wide, mask)[:, padding:], alone, "of the real tokens")
    mask[0] = True
    same(given(fn, box, "padded", wide, mask)[:1], given(fn, box, "forward", wide[:1]), "of a mate without padding")
    flags = torch.ones(tokens.shape[:2], dtype=torch.bool)
    same(given(fn, box, "padded", tokens, flags), alone, "of tokens without any padding")


@law("lm.documents", "packed documents do not see each other: each gets the logits that it has alone",
     cases=draw(pieces), **MODEL)
def documents(fn, tokens, chunks):
    """fn(): as in lm.deterministic, with `packed`. `chunks` are the lengths of the documents."""
    box = made(fn)
    ids = torch.cat([torch.full((n,), i % 2) for i, n in enumerate(chunks)]).expand(tokens.shape[:2]).clone()
    together = given(fn, box, "packed", tokens, ids)
    alone = torch.cat([plain(fn, box, document) for document in tokens.split(chunks, 1)], 1)
    same(together, alone, f"of documents of {chunks}")


def visits(fn, box, tokens) -> Tensor:
    """The routes, int64 (b, t, layers, k), each token's k in order, after a look at their shape and kind."""
    routes = fn.run(box.ask, "routes", tokens)
    finite(routes, "what routes gave")
    require(not routes.is_floating_point() and routes.dim() in (3, 4) and routes.shape[:2] == tokens.shape[:2],
            f"you gave routes of {routes.dtype} and shape {tuple(routes.shape)}, the law wants whole numbers (b, t, "
            "layers) or (b, t, layers, k)")
    routes = routes.cpu().long()
    return routes.sort(-1).values if routes.dim() == 4 else routes[..., None]


@law("lm.replay", "replaying a model's own routes changes nothing", cases=draw(), **MODEL)
def replay(fn, tokens):
    """fn(): as in lm.deterministic, with `routes` and `replay`. That the routes count, replaying others must show."""
    box = made(fn)
    own, others = visits(fn, box, tokens), visits(fn, box, box.other(tokens))
    uncached = plain(fn, box, tokens)
    same(given(fn, box, "replay", tokens, fn.run(box.ask, "routes", tokens)), uncached, "on replaying its own routes")
    turned = given(fn, box, "replay", tokens, fn.run(box.ask, "routes", box.other(tokens)))
    moved, changed = (turned - uncached).abs().amax(-1), (own != others).flatten(2).any(-1)
    require((moved[changed] > 0).all(), "a token replayed with other experts kept its logits: routes are not heard")


@law("lm.counts", "the counts of the experts are those of the routes, and no token is lost or counted twice",
     cases=draw(), **MODEL)
def counts(fn, tokens):
    """fn(): as in lm.deterministic, with `routes` and `counts`."""
    box = made(fn)
    routes, counted = visits(fn, box, tokens), fn.run(box.ask, "counts", tokens)
    layers, k = routes.shape[2:]
    require(isinstance(counted, Tensor) and counted.dim() == 2 and len(counted) == layers,
            f"the counts must be (layers, experts) with {layers} layers, you gave {counted!r}")
    require(routes.min() >= 0 and routes.max() < counted.shape[1],
            f"routes run from {int(routes.min())} to {int(routes.max())}, experts from 0 to {counted.shape[1] - 1}")
    require((routes.diff(dim=-1) > 0).all(), "a token went to the same expert twice in one layer")
    wanted = torch.stack([row.flatten().bincount(minlength=counted.shape[1]) for row in routes.unbind(2)])
    expect(counted.cpu().long(), wanted, "l e", "count")
