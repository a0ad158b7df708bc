"""Laws of sampling and of `generate`. Names start with "decoding."."""

import torch

from ..arch.model import Zaya
from ..infer import generate as lib
from ..infer import sample
from . import strategies as draw_a
from . import textbook
from .core import expect, law, require
from .model import build


def draw_request(draw):
    count = draw_a.size(draw, 1, 3)
    prompts = [draw_a.integers(draw, draw_a.size(draw, 1, 5), low=0, high=10).tolist() for _ in range(count)]
    return dict(config=draw_a.config(draw), weights=draw_a.size(draw, 0, 9999), prompts=prompts,
                budget=draw_a.size(draw, 1, 5), seed=draw_a.size(draw, 0, 99))


GENERATE = dict(cases=draw_a.cases(draw_request), examples=8, guards=[lib.generate, lib.generate_reference],
                subjects={"generate": lib.generate, "generate_reference": lib.generate_reference})


def answers(fn, model, prompts, budget, **options) -> list[list[int]]:
    """The judged function's answers, after checking their form."""
    handed = [list(p) for p in prompts]
    got = fn(model, handed, budget, **options)
    require(isinstance(got, list) and len(got) == len(prompts), f"one list of tokens is wanted for each of "
            f"{len(prompts)} prompts")
    for answer in got:
        require(isinstance(answer, list) and all_ids(answer, model.config.vocab_size),
                f"an answer must be a list of token ids, got {answer!r}")
        require(len(answer) <= budget, f"an answer has {len(answer)} tokens, the budget is {budget}")
    return got


def all_ids(answer, vocab) -> bool:
    return set(map(type, answer)) <= {int} and set(answer) <= set(range(vocab))


@law("decoding.greedy", "at temperature 0 each new token is the argmax after the whole text so far", **GENERATE)
@torch.no_grad()
def greedy(fn, config, weights, prompts, budget, seed):
    """fn(model, prompts, max_new_tokens, temperature=, top_p=, min_p=, stop=, seed=): a Zaya, lists of token ids ->
    the new tokens of each prompt, a list of lists of int."""
    model = build(Zaya, config, weights)
    got = answers(fn, model, prompts, budget, temperature=0.0, seed=seed)
    for prompt, answer in zip(prompts, got):
        require(len(answer) == budget, f"without stop tokens an answer has {budget} tokens, you gave {len(answer)}")
        text = list(prompt)
        for token in answer:
            logits = textbook.model(model, torch.tensor([text]))[0][0, -1]
            best = int(logits.argmax())
            require(token == best or logits[token] > logits[best] - 1e-9,
                    f"after {text} you gave {token}, the law wants {best}")
            text.append(token)


@law("decoding.batch_mates", "with a seed, a prompt's answer is the same alone, in company, and at any place",
     **GENERATE)
@torch.no_grad()
def batch_mates(fn, config, weights, prompts, budget, seed):
    """fn(model, prompts, max_new_tokens, temperature=1.0, seed=): as in decoding.greedy. Prompts are made different,
    since copies of a prompt shall get different answers."""
    model = build(Zaya, config, weights)
    prompts = [[i, *p] for i, p in enumerate(prompts)]
    together = answers(fn, model, prompts, budget, temperature=1.0, seed=seed)
    for prompt, answer in zip(prompts, together):
        alone = answers(fn, model, [prompt], budget, temperature=1.0, seed=seed)[0]
        require(alone == answer, f"the prompt {prompt} gives {alone} alone and {answer} in company")
    turned = answers(fn, model, prompts[::-1], budget, temperature=1.0, seed=seed)
    require(turned[::-1] == together, f"prompts in reverse give {turned[::-1]}, in order {together}")
    flat = build(Zaya, config, weights)
    for value in (flat.head.weight, flat.norm.weight):
        value.data.zero_()                                   # all tokens equally likely
    copies = answers(fn, flat, [[1]] * 2, 9, temperature=1.0, seed=seed)
    require(copies[0] != copies[1], "two copies of a prompt got the same 9 random tokens")
    require(answers(fn, flat, [[1]] * 2, 9, temperature=1.0, seed=seed + 1) != copies, "another seed, the same answers")


def draw_crowd(draw):
    """Four prompts at least, so that some go on while others have left the batch."""
    case = draw_request(draw)
    return case | dict(prompts=[[1, 2], [2], [4, 4, 4], [6]] + case["prompts"], budget=draw_a.size(draw, 3, 6))


@law("decoding.stop", "a stop token ends its answer and is its last token; other answers go on",
     **GENERATE | dict(cases=draw_a.cases(draw_crowd), examples=6))
@torch.no_grad()
def stop(fn, config, weights, prompts, budget, seed):
    """fn(model, prompts, max_new_tokens, temperature=, stop=, seed=): as in decoding.greedy."""
    model, ends = build(Zaya, config, weights), {1, 5, 9}
    full = answers(fn, model, prompts, budget, temperature=1.0, seed=seed)
    got = answers(fn, model, prompts, budget, temperature=1.0, seed=seed, stop=sorted(ends))
    for free, answer in zip(full, got):
        require(len(free) == budget, f"without stop tokens an answer has {budget} tokens, you gave {len(free)}")
        cut = next((i + 1 for i, token in enumerate(free) if token in ends), budget)
        require(answer == free[:cut], f"stopping at {sorted(ends)}, the answer {free} must become {free[:cut]}, you "
                f"gave {answer}")


def draw_probs(draw):
    n, v = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 6)
    share = draw_a.integers(draw, n, v, low=0, high=8).double()
    share[:, 0] += 1
    return dict(probs=share / share.sum(-1, keepdim=True), limit=draw_a.size(draw, 1, 20) / 20)


def ties():
    """Tokens that share a place, tokens of no probability at all, and one alone; limits at the border."""
    probs = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 0.25, 0.25, 0.5], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    return [dict(probs=probs, limit=limit) for limit in (0.05, 0.25, 0.5, 1.0)]


KEEP = dict(cases=draw_a.cases(draw_probs), always=ties, axes=dict(probs="b v"))


@law("decoding.top_p", "top-p keeps the fewest most probable tokens whose mass reaches p, the best one always",
     subjects={"top_p_mask": sample.top_p_mask}, guards=[sample.top_p_mask, sample.keep_mask], **KEEP)
def top_p(fn, probs, limit):
    """fn(probs, top_p): float64 (n, v), a number in (0, 1] -> bool (n, v), True: kept. Ties go to the lower id."""
    kept = torch.zeros_like(probs, dtype=torch.bool)
    for row, own in zip(probs.tolist(), kept):
        mass = 0.0
        for token in sorted(range(len(row)), key=lambda i: (-row[i], i)):
            if limit < 1 and mass > limit - 1e-12:      # sums of the same numbers in the same order, up to rounding
                break
            own[token] = True
            mass += row[token]
    masses = probs.sort(-1, descending=True).values.cumsum(-1).tolist()
    exact = bool((probs * 64 == (probs * 64).round()).all())
    if limit < 1 and not exact and any(abs(mass - limit) < 1e-12 for row in masses for mass in row):
        limit -= 1e-9                                    # a tie of mass and limit is a matter of rounding: step off it
        if limit <= 0:
            return
    expect(fn(probs, limit), kept, "b v", "kept")


@law("decoding.min_p", "min-p keeps what is at least min_p times as probable as the best token",
     subjects={"min_p_mask": sample.min_p_mask}, guards=[sample.min_p_mask, sample.keep_mask], **KEEP)
def min_p(fn, probs, limit):
    """fn(probs, min_p): float64 (n, v), a number in [0, 1] -> bool (n, v), True: kept."""
    limit = 2.0 ** -round(8 * limit)                     # a power of two, so that ties are exact
    for least in (limit, 0.0, 1.0):
        wanted = torch.tensor([[p >= least * max(row) for p in row] for row in probs.tolist()])
        expect(fn(probs, least), wanted, "b v", f"kept at min_p = {least:g}")


def draw_logits(draw):
    n, v = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 5)
    return dict(logits=draw_a.tensor(draw, n, v), temperature=draw_a.pick(draw, (1.0, 0.5, 2.0, 1e-3)))


@law("decoding.temperature", "probabilities are softmax(logits / temperature); shifting all logits changes nothing",
     cases=draw_a.cases(draw_logits), axes=dict(logits="b v"), subjects={"probabilities": sample.probabilities},
     guards=[sample.probabilities])
def temperature(fn, logits, temperature):
    """fn(logits, temperature): float (n, v), a number over 0 -> float64 (n, v)."""
    wanted = textbook.softmax(logits / temperature)
    coldest = textbook.softmax((logits - logits.amax(-1, keepdim=True)) * 1e300)
    near = logits * 2.0 ** -20                   # trap: a bound on the temperature shows where logits lie close
    for given, at, right, what in ((logits, temperature, wanted, "probability"),
                                   (logits + 1024.0, temperature, wanted, "with all logits 1024 higher"),
                                   (logits.float(), temperature, wanted, "from float32 logits"),
                                   (near, 2.0 ** -20 * temperature, wanted, "of logits and temperature times 2^-20"),
                                   (logits, 1e-300, coldest, "at temperature 1e-300"),
                                   (logits + 1024.0, 1e-306, coldest, "at 1e-306, with all logits 1024 higher")):
        expect(fn(given, at), right, "b v", what)


def draw_weights(draw):
    n, v = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 6)
    weights = draw_a.integers(draw, n, v, low=0, high=3).double()
    weights[:, draw_a.size(draw, 0, v - 1)] += 1
    return dict(weights=weights, sixteenth=draw_a.size(draw, 0, 15))


@law("decoding.inverse_cdf", "a uniform number falls on each token in proportion to its weight, never on weight zero",
     cases=draw_a.cases(draw_weights), axes=dict(weights="b v"), subjects={"invert_cdf": sample.invert_cdf},
     guards=[sample.invert_cdf])
def inverse_cdf(fn, weights, sixteenth):
    """fn(weights, uniforms): float64 (n, v), not negative; float64 (n,) in [0, 1) -> int64 (n,). `uniforms` are
    sixteenths here, another one for each row, and then as near to one as a float64 comes."""
    for uniforms in ([(sixteenth + 5 * i) % 16 / 16 for i in range(len(weights))], [1 - 2.0 ** -53] * len(weights)):
        wanted = []
        for row, uniform in zip(weights.tolist(), uniforms):
            sums = [sum(row[: i + 1]) for i in range(len(row))]
            # uniform * total may round up to the total itself: then the last token that counts takes it
            wanted.append(next((i for i, s in enumerate(sums) if s > uniform * sums[-1]),
                               max(i for i, w in enumerate(row) if w > 0)))
        expect(fn(weights, torch.tensor(uniforms, dtype=torch.float64)), torch.tensor(wanted), "b",
               f"token at uniforms {uniforms}")


@law("decoding.filters", "what may be sampled is in the top-p set and in the min-p set, both read off all tokens",
     subjects={"filtered": sample.filtered}, guards=[sample.filtered], **KEEP)
def filters(fn, probs, limit):
    """fn(logits, temperature, top_p, min_p): float (n, v) and three numbers -> float64 (n, v), zero where left out."""
    for p, m in ((limit, 0.0), (1.0, limit), (0.5, 0.25)):
        shares = sample.probabilities(probs, 1.0)
        kept = sample.top_p_mask(shares, p) & sample.min_p_mask(shares, m)
        expect(fn(probs, 1.0, p, m), shares * kept, "b v", f"at top_p {p} and min_p {m}")
    halves = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    expect(fn(torch.zeros_like(halves), 1.0, 0.5, 0.0), halves, "b v", "of two halves at top_p 0.5")
