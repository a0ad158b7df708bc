"""Wrong functions for the laws of rsa: see the head of this folder."""

import random
from types import SimpleNamespace


def textbook(generator, question, rsa, aggregate=None, seed=0, *, tail=None, draw=None, first=0, extra_rounds=0,
             count=None, pool=None, copy=True):
    """Markovian RSA, written again with hooks for bugs."""
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    rng = random.Random(f"{seed}/{question}")
    tail = tail or (lambda trace, tau: trace[-tau:])
    rounds, prompts = [], []
    for t in range(rsa.T + 1 + extra_rounds):
        if t == 0:
            own = [list(question) for _ in range(rsa.N)]
        else:
            source = pool(rounds) if pool else rounds[-1]
            tails = [tail(trace, rsa.tau) for trace in source]
            own = []
            fixed = rng.sample(range(len(tails)), rsa.C)
            for n in range(rsa.N):
                chosen = draw(rng, len(tails), rsa, n, fixed) if draw else (
                    [n] if rsa.C == 1 else rng.sample(range(len(tails)), rsa.C))
                own.append(aggregate(question, [tails[i] for i in chosen]))
        prompts.append(own)
        rounds.append(generator(own, rsa.beta))
    spent = count(rounds, prompts) if count else sum(len(trace) for own in rounds for trace in own)
    return SimpleNamespace(rounds=rounds, prompts=prompts, generated_tokens=spent)


BUGS = {
    "the tail is the head": dict(tail=lambda trace, tau: trace[:tau]),
    "a tail one token short": dict(tail=lambda trace, tau: trace[len(trace) - tau + 1:] if tau > 1 else trace[-1:]),
    "a tail one token long": dict(tail=lambda trace, tau: trace[-tau - 1:]),
    "whole traces": dict(tail=lambda trace, tau: trace),
    "with replacement": dict(draw=lambda rng, n, rsa, i, fixed: [i] if rsa.C == 1
                             else [rng.randrange(n) for _ in range(rsa.C)]),
    "C = 1 drawn uniformly": dict(draw=lambda rng, n, rsa, i, fixed: rng.sample(range(n), rsa.C)),
    "the same subset for every trace": dict(draw=lambda rng, n, rsa, i, fixed: [i] if rsa.C == 1 else fixed),
    "always the first C": dict(draw=lambda rng, n, rsa, i, fixed: [i] if rsa.C == 1 else list(range(rsa.C))),
    "neighbours, not a draw": dict(draw=lambda rng, n, rsa, i, fixed: [(i + k) % n for k in range(rsa.C)]),
    "the last trace is never drawn": dict(draw=lambda rng, n, rsa, i, fixed: [i] if rsa.C == 1
                                          else rng.sample(range(max(rsa.C, n - 1)), rsa.C)),
    "one tail fewer": dict(draw=lambda rng, n, rsa, i, fixed: [i] if rsa.C == 1 else rng.sample(range(n), rsa.C - 1)),
    "sampling from all earlier rounds": dict(pool=lambda rounds: [trace for own in rounds for trace in own]),
    "always from round 0": dict(pool=lambda rounds: rounds[0]),
    "T counts all rounds": dict(extra_rounds=-1),
    "one round too many": dict(extra_rounds=1),
    "prompts are counted": dict(count=lambda rounds, prompts: sum(len(x) for own in rounds + prompts for x in own)),
    "the last round alone is counted": dict(count=lambda rounds, prompts: sum(map(len, rounds[-1]))),
    "beta is counted, not what was written": dict(count=lambda rounds, prompts: 10**6),
}


def with_bug(**bug):
    return lambda generator, question, rsa, aggregate=None, seed=0: textbook(generator, question, rsa, aggregate, seed,
                                                                             **bug)


WRONG = {
}
