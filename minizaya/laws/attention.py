"""Laws of rotation, masks and attention: the parts of CCA that other transformers share. Names start with "cca."."""

import torch
from torch import Tensor

from ..arch import attention as lib
from . import strategies as draw_a
from . import textbook
from .core import expect, finite, law, parts, require

# ---- rotation --------------------------------------------------------------------------------------------------------


def rotations(draw):
    b, t, h, d = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 3), pick_even(draw)
    rotary = 2 * draw_a.size(draw, 1, d // 2)
    start = draw_a.size(draw, 0, 9)
    cos, sin = textbook.angles(torch.arange(start, start + t), rotary, 100.0)
    return dict(x=draw_a.tensor(draw, b, t, h, d), cos=cos, sin=sin)


def pick_even(draw) -> int:
    return draw_a.pick(draw, (2, 4, 8))


ROPE = dict(cases=draw_a.cases(rotations), axes=dict(x="b t h d"), subjects={"rope": lib.rope}, guards=[lib.rope])


@law("cca.rope", "channel i turns together with channel i + r/2, counter-clockwise; channels from r on stay", **ROPE)
def rope(fn, x, cos, sin):
    """fn(x, (cos, sin)): x float (b, t, h, d); cos and sin (t, 1, r / 2), of each token's angles -> (b, t, h, d)."""
    expect(fn(x, (cos, sin)), textbook.turned(x, cos, sin), "b t h d")


@law("cca.rope_length", "a rotation keeps lengths, and leaves the channels without position bit for bit alone", **ROPE)
def rope_length(fn, x, cos, sin):
    """fn(x, (cos, sin)): as in cca.rope."""
    out, rotary = finite(fn(x, (cos, sin))), 2 * cos.shape[-1]
    expect(out[..., rotary:], x[..., rotary:], "b t h d", "channels without position", exact=True)
    expect(out.norm(dim=-1), x.norm(dim=-1), "b t h", "length")
    unturned = fn(x, (torch.ones_like(cos), torch.zeros_like(sin)))
    expect(unturned, x, "b t h d", "turned by an angle of zero")
    quarter = fn(x, (torch.zeros_like(cos), torch.ones_like(sin)))
    require((quarter - x).abs().max() > 0 or (x == 0).all(), "a quarter turn left everything where it was")


@law("cca.rope_half", "a half-precision model gets the angles of float32, rounded once at the end",
     cases=draw_a.cases(lambda draw: dict(position=draw_a.size(draw, 300, 9999), rotary=2 * draw_a.size(draw, 1, 8))),
     subjects={"rope_angles": lib.rope_angles}, guards=[lib.rope_angles])
def rope_half(fn, position, rotary):
    """fn(positions, frequencies, dtype): int (t,), float32 (r / 2,), the type wanted -> cos and sin (t, 1, r / 2).
    trap: bfloat16 cannot even count to 300."""
    at, frequencies = torch.tensor([position]), 1 / 100.0 ** (torch.arange(0, rotary, 2) / rotary)
    got = parts(fn(at, frequencies, torch.bfloat16), 2, "cos and sin")
    turn = (at[:, None].float() * frequencies)[:, None]
    for name, own, wanted in zip(("cos", "sin"), got, (turn.cos(), turn.sin())):
        require(own.dtype == torch.bfloat16, f"{name} is {own.dtype}, the law wants torch.bfloat16")
        expect(own.float(), wanted.bfloat16().float(), "t h r", name, exact=True)


def distances(draw):
    d = pick_even(draw)
    return dict(q=draw_a.tensor(draw, d), k=draw_a.tensor(draw, d), rotary=2 * draw_a.size(draw, 1, d // 2),
                at=draw_a.size(draw, 0, 9), distance=draw_a.size(draw, 0, 9), later=draw_a.size(draw, 1, 30))


@law("cca.rope_distance", "a score depends on the distance of its two tokens, not on where they stand",
     cases=draw_a.cases(distances), axes=dict(q="d", k="d"), subjects={"rope": lib.rope}, guards=[lib.rope])
def rope_distance(fn, q, k, rotary, at, distance, later):
    """fn(x, (cos, sin)): as in cca.rope. The key stands at `at`, the query `distance` later; then both move on."""
    def score(position: int) -> Tensor:
        cos, sin = textbook.angles(torch.tensor([position, position + distance]), rotary, 10.0)
        new = finite(fn(torch.stack([k, q])[None, :, None], (cos, sin)))
        require(new.shape == (1, 2, 1, len(q)), f"you gave shape {tuple(new.shape)}, the law wants {(1, 2, 1, len(q))}")
        return new[0, 0, 0] @ new[0, 1, 0]
    cos, sin = textbook.angles(torch.tensor(distance), rotary, 10.0)
    wanted = textbook.turned(q, cos[0], sin[0]) @ k
    expect(score(at), wanted, "", f"score with the key at {at}")
    expect(score(at + later), wanted, "", f"score with the key at {at + later}")


def spectra(draw):
    return dict(rotary_dim=2 * draw_a.size(draw, 1, 8), theta=draw_a.pick(draw, (2.0, 10.0, 1e4, 5e6)))


@law("cca.rope_frequencies", "pair i turns by theta to the power -2i/r a token: the first by one radian, then slower",
     cases=draw_a.cases(spectra), subjects={"rope_frequencies": lib.rope_frequencies}, guards=[lib.rope_frequencies])
def rope_frequencies(fn, rotary_dim, theta):
    """fn(rotary_dim, theta): an even int and a float -> float32 (rotary_dim / 2,), radians a token."""
    wanted = torch.tensor([theta ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2)])
    expect(fn(rotary_dim, theta), wanted, "d")


# ---- who may see whom ------------------------------------------------------------------------------------------------


def windows(draw):
    past, steps = draw_a.size(draw, 0, 4), draw_a.size(draw, 1, 7)
    keys = torch.arange(past + steps)
    return dict(queries=keys[past:], keys=keys, window=draw_a.pick(draw, (None, 1, 2, 3, 5, 20)))


@law("cca.sliding_window", "a token sees exactly the last `window` tokens, itself included, and none that come later",
     cases=draw_a.cases(windows), subjects={"causal_mask": lib.causal_mask}, guards=[lib.causal_mask])
def sliding_window(fn, queries, keys, window):
    """fn(queries, keys, window): positions int (t,), (s,), and an int or None (no limit) -> bool (t, s), True: seen."""
    rows = [[k <= q and (window is None or q - k < window) for k in keys.tolist()] for q in queries.tolist()]
    expect(fn(queries, keys, window), torch.tensor(rows), "t s")


def documents(draw):
    b, t = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 7)
    return dict(doc_ids=draw_a.integers(draw, b, t, low=0, high=2))


@law("cca.document_starts", "a document is a run of equal ids; positions start at zero in each",
     cases=draw_a.cases(documents), axes=dict(doc_ids="b t"), subjects={"document_starts": lib.document_starts},
     guards=[lib.document_starts])
def document_starts(fn, doc_ids):
    """fn(doc_ids): int (b, t) -> document (b, t), different for different runs of a row, and position int (b, t)."""
    document, position = parts(fn(doc_ids), 2, "document and position")
    wanted, run = torch.zeros_like(doc_ids), torch.zeros_like(doc_ids)
    for b, row in enumerate(doc_ids.tolist()):
        for t in range(1, len(row)):
            same = row[t] == row[t - 1]
            wanted[b, t] = wanted[b, t - 1] + 1 if same else 0
            run[b, t] = run[b, t - 1] + (not same)
    expect(position, wanted, "b t", "position")
    require(finite(document).shape == doc_ids.shape, "one document number is wanted for each token")
    expect(document[:, :, None] == document[:, None, :], run[:, :, None] == run[:, None, :], "b t s",
           "whether two tokens share a document")


# ---- attention -------------------------------------------------------------------------------------------------------


def attentions(draw):
    h, j, d = draw_a.heads(draw)
    b, t = draw_a.size(draw, 1, 2), draw_a.size(draw, 1, 5)
    s = t + draw_a.size(draw, 0, 3)
    mask = None
    if t not in (1, s) or draw_a.flag(draw):
        mask = draw_a.integers(draw, b, 1, t, s, low=0, high=1).bool()
        mask = mask | (torch.arange(s) == torch.arange(s - t, s)[:, None])     # every query sees at least itself
    return dict(q=draw_a.tensor(draw, b, t, h, d), k=draw_a.tensor(draw, b, s, j, d),
                v=draw_a.tensor(draw, b, s, j, d), mask=mask)


ATTEND = dict(cases=draw_a.cases(attentions), axes=dict(q="b t h d", k="b s j d", v="b s j d"),
              subjects={"attend_reference": lib.attend_reference, "attend": lib.attend},
              guards=[lib.attend_reference, lib.attend])


def seen_by(q, k, mask):
    steps, keys = q.shape[1], k.shape[1]
    if mask is None:
        return (torch.arange(keys) <= torch.arange(keys - steps, keys)[:, None]).expand(len(q), -1, -1)
    return mask[:, 0]


@law("cca.attention", "attention is softmax(q k / sqrt(d)) v over the keys that may be seen, head by head", **ATTEND)
def attention(fn, q, k, v, mask):
    """fn(q, k, v, mask): q float (b, t, h, d); k, v (b, s, j, d); mask bool (b, 1, t, s), True where a key may be
    seen, or None for plain causal (then t is s or 1) -> (b, t, h, d). Query head i reads KV head i // (h / j)."""
    expect(fn(q, k, v, mask), textbook.attended(q, k, v, seen_by(q, k, mask)), "b t h d")


@law("cca.gqa_contiguous", "neighbouring query heads share a KV head: head i reads KV head i // group and no other",
     **ATTEND)
def gqa_contiguous(fn, q, k, v, mask):
    """fn(q, k, v, mask): as in cca.attention. The values of each KV head are replaced in turn."""
    group = q.shape[2] // k.shape[2]
    before = finite(fn(q, k, v, mask))
    for j in range(k.shape[2]):
        other = v.clone()
        other[:, :, j] += 1.0
        moved = finite(fn(q, k, other, mask)) - before
        wanted = torch.zeros_like(q)
        wanted[:, :, j * group: (j + 1) * group] = 1.0     # weights sum to one, so these heads move by exactly one
        expect(moved, wanted, "b t h d", f"change of the output after adding 1 to the values of KV head {j}")


@law("cca.attention_hidden", "what may not be seen has no say: masked keys and values can hold anything finite",
     **ATTEND)
def attention_hidden(fn, q, k, v, mask):
    """fn(q, k, v, mask): as in cca.attention."""
    seen = seen_by(q, k, mask)
    hidden = ~seen.any(dim=1)                     # (b, s), keys that no query sees
    bump = hidden[:, :, None, None] * 1e3
    expect(fn(q, k + bump, v - bump, mask), finite(fn(q, k, v, mask)).detach(), "b t h d", "with hidden keys changed")
    expect(fn(q, k, torch.ones_like(v), mask), torch.ones_like(q), "b t h d", "with all values one")
