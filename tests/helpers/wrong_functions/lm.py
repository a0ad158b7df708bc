"""Wrong black boxes for the laws of lm: see the head of this folder. A model of a table, right but for one part."""

import itertools
from dataclasses import replace

import torch

from minizaya.laws import BlackBox

DRAW = torch.Generator().manual_seed(5)
ROWS, EXPERTS = (torch.randn(n, 4, generator=DRAW, dtype=torch.float64) for n in (13, 3))
CALLS = itertools.count()


def routes(tokens):
    return torch.stack([tokens % 3, tokens // 3 % 3], -1)


def replay(tokens, routes):
    return ROWS[tokens].cumsum(1) + (EXPERTS[routes] * torch.tensor([1.0, 0.5])[:, None]).sum(2)


def forward(tokens):
    return replay(tokens, routes(tokens))


def step(tokens, before):
    """The state is the tokens so far."""
    tokens_so_far = tokens if before is None else torch.cat([before, tokens], 1)
    return forward(tokens_so_far)[:, -tokens.shape[1]:], tokens_so_far


def padded(tokens, mask):
    return (ROWS[tokens] * mask[..., None]).cumsum(1) + forward(tokens) - ROWS[tokens].cumsum(1)


def packed(tokens, ids):
    cuts = (1 + (ids[0].diff() != 0).nonzero().flatten()).tolist()
    return torch.cat([forward(piece) for piece in tokens.tensor_split(cuts, 1)], 1)


def counts(tokens):
    return torch.stack([layer.flatten().bincount(minlength=3) for layer in routes(tokens).unbind(2)])


RIGHT = BlackBox(forward, vocab=13, step=step, padded=padded, packed=packed, routes=routes, replay=replay,
                 counts=counts)


def wrong(**parts) -> BlackBox:
    return replace(RIGHT, **parts)


def off_where(condition):
    """`padded` that is off by one where the mask meets the condition."""
    return wrong(padded=lambda tokens, mask: padded(tokens, mask) + bool(condition(mask)))


def twice(tokens):
    """Two experts a layer, and both the same."""
    return routes(tokens)[..., None].repeat(1, 1, 1, 2)


NOT_A_BOX = (lambda: 3, "the law wants a laws.BlackBox")
NAN = (wrong(forward=lambda x: forward(x) * float("nan")), "forward gave holds NaN")
LAST_ROW = (wrong(forward=lambda x: forward(x)[:, -1]), "the law wants one row a token")
LISTED = (wrong(routes=lambda x: routes(x).tolist()), "what routes gave is a list")
SHARES = (wrong(routes=lambda x: routes(x) / 2), "the law wants whole numbers")

WRONG = {
    "lm.deterministic": [wrong(forward=lambda x: forward(x) + 1e-12 * next(CALLS)),
                         wrong(forward=lambda x: forward(torch.zeros_like(x))), NOT_A_BOX, NAN, LAST_ROW],
    "lm.causal": [wrong(forward=lambda x: forward(x.flip(1)).flip(1)),
                  wrong(forward=lambda x: torch.cat([0 * forward(x)[:, :1], forward(x)[:, :-1]], 1)), NOT_A_BOX],
    "lm.batch": [wrong(forward=lambda x: forward(x) + forward(x).mean(0))],
    "lm.chunks": [wrong(step=lambda x, before: (forward(x), None)),
                  wrong(step=lambda x, before: step(x, None if before is None else before[:, -2:])),
                  (wrong(step=lambda x, before: (step(x, before)[0][:, -1], None)), "one row a token")],
    "lm.token_by_token": [wrong(step=lambda x, before: (forward(x), None))],
    "lm.padding": [wrong(padded=lambda x, mask: forward(x)), off_where(lambda mask: not mask.all(1).any()),
                   off_where(lambda mask: mask.all(1).any() and not mask.all()),
                   off_where(lambda mask: mask.all() and len(mask) > 1)],
    "lm.documents": [wrong(packed=lambda x, ids: forward(x)),
                     wrong(packed=lambda x, ids: packed(x, ids.clamp_max(0)))],
    "lm.replay": [wrong(replay=lambda x, routes: replay(x, routes) + 1), wrong(replay=lambda x, routes: forward(x)),
                  LISTED, SHARES],
    "lm.counts": [wrong(counts=lambda x: counts(x) + 1), wrong(routes=twice, counts=lambda x: 2 * counts(x)),
                  (wrong(counts=lambda x: counts(x)[0]), "the counts must be (layers, experts) with 2 layers"),
                  (wrong(counts=lambda x: counts(x)[:, :2]), "experts from 0 to 1"), LISTED, SHARES],
}
