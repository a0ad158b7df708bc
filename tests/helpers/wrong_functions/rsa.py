"""Wrong functions for the laws of rsa: see the head of this folder."""

import random
from types import SimpleNamespace


def textbook(generator, question, rsa, aggregate=None, seed=0, *, tail=None, draw=None, first=0, extra_rounds=0,
             count=None, pool=None, of_question=True):
    """Markovian RSA, written again with hooks for bugs."""
    aggregate = aggregate or (lambda question, tails: question + sum(tails, []))
    rng = random.Random(f"{seed}/{question if of_question else ''}")
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


def without_aggregate(generator, question, rsa, aggregate=None, seed=0):
    """The layout of its own forgets the question."""
    return textbook(generator, question, rsa, aggregate or (lambda question, tails: sum(tails, [])), seed)


def once_and_for_all(generator, question, rsa, aggregate=None, seed=0):
    """Each trace reads the same subset in every round."""
    few = random.Random(f"{seed}/{question}")
    kept = [few.sample(range(rsa.N), rsa.C) for _ in range(rsa.N)]
    return textbook(generator, question, rsa, aggregate, seed,
                    draw=lambda rng, n, rsa, i, fixed: [i] if rsa.C == 1 else kept[i])


def one_prompt_a_call(generator, question, rsa, aggregate=None, seed=0):
    """Right: nobody says that a round must be one call."""
    def each(prompts, max_new_tokens):
        return [generator([prompt], max_new_tokens)[0] for prompt in prompts]
    return textbook(each, question, rsa, aggregate, seed)


def result(change):
    """The right run; of what is returned, change(namespace) spoils something."""
    def wrong(generator, question, rsa, aggregate=None, seed=0):
        got = textbook(generator, question, rsa, aggregate, seed)
        change(got)
        return got
    return wrong


def asks(change):
    """The right run with another generator's answers: change(generator) -> generator."""
    return lambda generator, question, rsa, aggregate=None, seed=0: textbook(change(generator), question, rsa,
                                                                             aggregate, seed)


def other_question(generator, question, rsa, aggregate=None, seed=0):
    told = aggregate and (lambda question, tails: aggregate([0], tails))
    return textbook(generator, question, rsa, told, seed)


def twice_as_long(generator, question, rsa, aggregate=None, seed=0):
    twice = aggregate or (lambda question, tails: [*question, *(20 * sum(tails, []))])
    return textbook(generator, question, rsa, twice, seed)


def hides_its_prompts(generator, question, rsa, aggregate=None, seed=0):
    got = textbook(generator, question, rsa, aggregate, seed)
    got.prompts = [[prompt[:1] for prompt in own] for own in got.prompts]
    return got


def asks_more(generator, question, rsa, aggregate=None, seed=0):
    """The question with a token of its own behind it."""
    told = aggregate and (lambda question, tails: aggregate(question[:-1], tails))
    return textbook(generator, [*question, 7], rsa, told, seed)


def one_prompt_for_all(generator, question, rsa, aggregate=None, seed=0):
    """Every trace of a round reads what the first one reads."""
    made = []

    def told(question, tails):
        made.append(made[-1] if len(made) % rsa.N else aggregate(question, tails))
        return made[-1]

    return textbook(generator, question, rsa, aggregate and told, seed)


def equal_tails_are_one(generator, question, rsa, aggregate=None, seed=0):
    """Drawn without replacement, but from a set: where traces are alike, fewer are read."""
    def told(question, tails):
        return aggregate(question, [list(tail) for tail in dict.fromkeys(map(tuple, tails))])
    return textbook(generator, question, rsa, aggregate and told, seed)


def ring(first, n, count):
    """Neighbours in a ring, from a place drawn by chance: opposite traces are never read together."""
    return [(first + k) % n for k in range(count)]


def question_alone(generator, question, rsa, aggregate=None, seed=0):
    """Without aggregate the tails are forgotten."""
    return textbook(generator, question, rsa, aggregate or (lambda question, tails: list(question)), seed)


def longer_and_longer(generator, question, rsa, aggregate=None, seed=0):
    """Without aggregate the question itself grows: a list that is extended in place."""
    def extended(question, tails):
        for tail in tails:
            question += tail
        return list(question)

    return textbook(generator, question, rsa, aggregate or extended, seed)


WRONG = {
    "rsa.rounds": [
        without_aggregate, question_alone, longer_and_longer, asks_more, (other_question, "aggregate got the question"),
        (result(lambda got: delattr(got, "prompts")), "the result has no prompts"),
        (with_bug(**BUGS["one round too many"]), "rounds of the generator"),
        (result(lambda got: got.rounds.reverse()), "rounds are not the traces"), hides_its_prompts,
        asks(lambda generator: lambda prompts, n: generator(prompts, n + 1)),
        (asks(lambda generator: lambda prompts, n: generator(prompts + prompts[:1], n)), "prompts, the law wants N"),
    ],
    "rsa.tails": [with_bug(**BUGS["the tail is the head"]), with_bug(**BUGS["always from round 0"])],
    "rsa.subset": [with_bug(**BUGS["with replacement"]), with_bug(**BUGS["one tail fewer"]),
                   one_prompt_for_all, (equal_tails_are_one, "equal tails of two traces are two tails")],
    "rsa.own_tail": [with_bug(**BUGS["C = 1 drawn uniformly"])],
    "rsa.full_chain": [with_bug(tail=lambda trace, tau: trace[-1:])],
    "rsa.accounting": [with_bug(**BUGS["prompts are counted"])],
    "rsa.bound": [twice_as_long, with_bug(**BUGS["whole traces"]), hides_its_prompts],
    "rsa.seed": [lambda g, q, r, a=None, seed=0: textbook(g, q, r, a, seed, of_question=False),
                 lambda g, q, r, a=None, seed=0: textbook(g, q, r, a, 0),
                 lambda g, q, r, a=None, seed=0: textbook(g, q, r, a, random.random())],
    "rsa.uniform": [
        (with_bug(**BUGS["the same subset for every trace"]), "read the same tails"),
        (with_bug(**BUGS["the last trace is never drawn"]), "was read"),
        with_bug(draw=lambda rng, n, rsa, i, fixed: ring(rng.randrange(n), n, rsa.C)),
        once_and_for_all,
        with_bug(draw=lambda rng, n, rsa, i, fixed: rng.sample([k for k in range(n) if k != i] or [i], rsa.C)),
        with_bug(draw=lambda rng, n, rsa, i, fixed: [i, *rng.sample([k for k in range(n) if k != i], rsa.C - 1)]),
    ],
    "rsa.majority": [lambda answers: max([x for x in answers if x] or ["nobody"], key=answers.count),
                     lambda answers: next((x for x in answers if x is not None), "nobody")],
}
