"""Laws of Markovian recursive self-aggregation, over scripted generators. Names start with "rsa."."""

from collections import Counter
from itertools import combinations

from ..infer import rsa as lib
from . import strategies as draw_a
from .core import Broken, law, require


class Script:
    """A generator that writes down what it is asked. Every token it ever returns is another number.

    So each token of a prompt tells which trace it comes from, and from which place in it.
    together: prompts of a round; who asks for fewer at a time asks for the rest of the round next.
    """

    def __init__(self, lengths: list[int], together: int = 1):
        self.lengths, self.together, self.calls, self.traces, self.home = lengths, together, [], [], {}

    def __call__(self, prompts, max_new_tokens):
        if self.calls and len(self.traces[-1]) + len(prompts) <= self.together and self.calls[-1][1] == max_new_tokens:
            self.calls[-1][0].extend(list(prompt) for prompt in prompts)
            own = self.answers(len(prompts), max_new_tokens, len(self.traces[-1]))
            self.traces[-1] += [list(trace) for trace in own]
            return own
        self.calls.append(([list(prompt) for prompt in prompts], max_new_tokens))
        own = self.answers(len(prompts), max_new_tokens, 0)
        self.traces.append([list(trace) for trace in own])
        return own

    def answers(self, count, max_new_tokens, first):
        own = []
        for place in range(first, first + count):
            length = min(max_new_tokens, self.lengths[(len(self.home) + place) % len(self.lengths)])
            start = 1000 + len(self.home)
            own.append(list(range(start, start + length)))
            self.home |= {token: (len(self.calls) - 1, place) for token in own[-1]}
        return own


def played(fn, question, config, lengths, seed, aggregate=None):
    """Runs the judged function. Returns (result, script, handed): handed[t][n], the tails of trace n of round t + 1."""
    script, handed, asked = Script(lengths, config.N), [], list(question)

    def collect(given, tails):
        require(list(given) == asked, f"aggregate got the question {given}, the law wants {asked}")
        handed.append([list(tail) for tail in tails])
        return [*given, 0, *(token for tail in tails for token in tail)]

    result = fn(script, list(question), config, aggregate or collect, seed)
    for name in ("rounds", "prompts", "generated_tokens"):
        require(hasattr(result, name), f"the result has no {name}")
    require(len(script.calls) == config.T + 1,
            f"T = {config.T} aggregation rounds are {config.T + 1} rounds of the generator, you made "
            f"{len(script.calls)}")
    for t, (prompts, budget) in enumerate(script.calls):
        require(len(prompts) == config.N, f"round {t} has {len(prompts)} prompts, the law wants N = {config.N}")
        require(budget == config.beta, f"round {t} asks for {budget} new tokens, the law wants beta = {config.beta}")
    require([list(map(list, own)) for own in result.rounds] == script.traces,
            "rounds are not the traces that the generator gave")
    require([list(map(list, own)) for own in result.prompts] == [prompts for prompts, _ in script.calls],
            "prompts are not what the generator was given")
    own = [handed[t * config.N: (t + 1) * config.N] for t in range(config.T)] if aggregate is None else []
    return result, script, own


def draw_run(draw):
    n, beta = draw_a.size(draw, 1, 5), draw_a.size(draw, 1, 6)
    config = lib.RSAConfig(N=n, C=draw_a.size(draw, 1, n), T=draw_a.size(draw, 0, 3), beta=beta,
                           tau=draw_a.size(draw, 1, beta))
    question = draw_a.integers(draw, draw_a.size(draw, 1, 3), low=1, high=9).tolist()
    lengths = [draw_a.size(draw, 1, 6) for _ in range(draw_a.size(draw, 1, 3))]
    return dict(question=question, config=config, lengths=lengths, seed=draw_a.size(draw, 0, 99))


def one_at_a_time(generator, question, rsa, aggregate=None, seed=0):
    return lib.markovian_rsa_many(generator, [question], rsa, aggregate, seed)[0]


RSA = dict(cases=draw_a.cases(draw_run), guards=[lib.markovian_rsa, lib.markovian_rsa_many, lib.subsets],
           subjects={"markovian_rsa": lib.markovian_rsa, "markovian_rsa_many": one_at_a_time}, examples=60)


@law("rsa.rounds", "N traces from the question alone, then T rounds of N traces; all of them are in the result", **RSA)
def rounds(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): generator(prompts, max_new_tokens) -> traces, all lists of int;
    rsa has N, C, T, beta, tau; aggregate(question, tails) -> prompt -> an object with rounds, prompts (T + 1 lists of N
    token lists each) and generated_tokens. Without aggregate (None) the layout of a prompt is your own, but the
    question is in it, and each of the C tails. A round may be one call of the generator, or several."""
    _, script, _ = played(fn, question, config, lengths, seed)
    require(script.calls[0][0] == [question] * config.N,
            f"round 0 reads {script.calls[0][0]}, the law wants the question alone")
    alone = Script(lengths, config.N)
    fn(alone, list(question), config, None, seed)
    for t, (prompts, _) in enumerate(alone.calls):
        known = [trace[-config.tau:] for trace in alone.traces[t - 1]] if t else []
        for prompt in prompts:
            require(holds(prompt, question),
                    f"without aggregate you made the prompt {prompt}, which does not hold the question {question}")
            held = sum(holds(prompt, tail) for tail in known)
            require(held == (config.C if t else 0),
                    f"without aggregate you made the prompt {prompt} of round {t}, in which are {held} of the tails "
                    f"{known}; the law wants C = {config.C} of them")


def holds(prompt, part):
    return any(prompt[i: i + len(part)] == part for i in range(len(prompt)))


@law("rsa.tails", "a tail is the last tau tokens of a trace of the round before, or the whole trace if it is shorter",
     **RSA)
def tails(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    _, script, handed = played(fn, question, config, lengths, seed)
    for t, own in enumerate(handed):
        allowed = [trace[-config.tau:] for trace in script.traces[t]]
        for tail in (tail for chosen in own for tail in chosen):
            if tail not in allowed:
                raise Broken(f"round {t + 1} reads {tail}; the tails of round {t} are {allowed}")


@law("rsa.subset", "each new trace reads exactly C tails, of C different traces", **RSA)
def subset(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    _, script, handed = played(fn, question, config, lengths, seed)
    for t, own in enumerate(handed):
        require(len(own) == config.N, f"round {t + 1} made {len(own)} prompts with aggregate, the law wants {config.N}")
        for chosen in own:
            homes = {script.home[tail[-1]] for tail in chosen if tail}
            require(len(chosen) == config.C == len(homes),
                    f"a trace of round {t + 1} reads {len(chosen)} tails of {len(homes)} traces, the law wants "
                    f"{config.C}")
    read: list[int] = []

    def count(given, tails):
        read.append(len(tails))
        return list(given)

    fn(lambda prompts, most: [[7] * min(most, 3) for _ in prompts], list(question), config, count, seed)
    require(set(read) <= {config.C}, f"where all traces are alike a new one reads {sorted(set(read))} tails, the law "
                                     f"wants {config.C}: equal tails of two traces are two tails")


@law("rsa.own_tail", "with C = 1 each trace goes on from its own tail", **RSA)
def own_tail(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    config = lib.RSAConfig(config.N, 1, config.T, config.beta, config.tau)
    _, script, handed = played(fn, question, config, lengths, seed)
    for t, own in enumerate(handed):
        for n, chosen in enumerate(own):
            require(chosen == [script.traces[t][n][-config.tau:]],
                    f"trace {n} of round {t + 1} reads {chosen}, its own tail is {script.traces[t][n][-config.tau:]}")


@law("rsa.full_chain", "with tau = beta whole traces are handed on", **RSA)
def full_chain(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    config = lib.RSAConfig(config.N, config.C, config.T, config.beta, config.beta)
    _, script, handed = played(fn, question, config, lengths, seed)
    for t, own in enumerate(handed):
        for tail in (tail for chosen in own for tail in chosen):
            require(tail in script.traces[t], f"round {t + 1} reads {tail}, which is no whole trace of round {t}")


@law("rsa.accounting", "generated tokens are those of all traces of all rounds, and nothing else", **RSA)
def accounting(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    result, script, _ = played(fn, question, config, lengths, seed)
    wanted = sum(len(trace) for own in script.traces for trace in own)
    require(result.generated_tokens == wanted, f"you counted {result.generated_tokens} tokens, {wanted} were generated")


@law("rsa.bound", "no prompt is longer than |q| + C tau and the marks of the layout", **RSA)
def bound(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds; aggregate here is None (your own layout, at most
    16 marks a tail), and `delimited`."""
    for aggregate, marks in ((None, 16 * (config.C + 1)), (lib.delimited([0], [-1]), config.C + 1)):
        script = Script(lengths, config.N)
        result = fn(script, list(question), config, aggregate, seed)
        require(result.prompts == [prompts for prompts, _ in script.calls],
                "prompts are not what the generator was given")
        longest = max(len(prompt) for own in result.prompts for prompt in own)
        room = len(question) + config.C * config.tau + marks
        require(longest <= room, f"a prompt has {longest} tokens, the bound is {room}")


@law("rsa.seed", "the same seed and question draw the same subsets; another seed, or another question, others", **RSA)
def seeded(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    config = lib.RSAConfig(N=8, C=3, T=2, beta=config.beta, tau=config.tau)
    longer, turned = [*question, 7, 8], [*question, 8, 7]     # of one length and one sum
    first, again, other, far, near = (
        played(fn, asked, config, lengths, s)[2]
        for asked, s in ((question, seed), (question, seed), (question, seed + 1), (longer, seed), (turned, seed)))
    require(first == again, "two runs with one seed read different tails")
    require(first != other, "another seed reads the same tails in every trace")
    for one, two, same in ((question, longer, first == far), (longer, turned, far == near)):
        require(not same, f"with the seed {seed} the questions {one} and {two} read the same tails in every trace, "
                          "the law wants subsets of its own for each question")


@law("rsa.uniform", "every trace, with every other, is as likely to be read, and each new trace draws for itself",
     **RSA)
def uniform(fn, question, config, lengths, seed):
    """fn(generator, question, rsa, aggregate, seed): as in rsa.rounds."""
    config, read, together = lib.RSAConfig(N=4, C=2, T=2, beta=2, tau=1), Counter(), Counter()
    alike, again, itself = 0, 0, 0
    for s in range(60):
        _, script, both = played(fn, question, config, lengths, seed + s)
        homes, later = ([frozenset(script.home[tail[-1]][1] for tail in chosen) for chosen in own] for own in both)
        read.update(n for pair in homes for n in pair)
        together.update(homes)
        alike += len(set(homes)) == 1
        again += homes == later
        itself += sum(n in pair for n, pair in enumerate(homes))
    # 240 draws, each reading a trace with probability 1/2: 120 +- 7.7; five standard deviations
    for n in range(4):
        require(80 <= read[n] <= 160, f"in 240 draws of 2 of 4 traces, trace {n} was read {read[n]} times")
    # 240 draws, each of the six pairs with probability 1/6: 40 +- 5.8
    for pair in map(frozenset, combinations(range(4), 2)):
        require(together[pair] >= 10, f"in 240 draws of 2 of 4 traces, the traces {sorted(pair)} were read together "
                                      f"{together[pair]} times")
    require(alike <= 12, f"in {alike} of 60 runs all four traces read the same tails")  # by chance one in 216
    require(again <= 6, f"in {again} of 60 runs both rounds read the same subsets")     # by chance one in 1296
    require(80 <= itself <= 160, f"in 240 draws of 2 of 4 traces, {itself} held the trace's own tail")


def draw_votes(draw):
    return dict(answers=[draw_a.pick(draw, ["4", "5", "17", None, ""]) for _ in range(draw_a.size(draw, 0, 6))])


def majority_or_nobody(answers):
    """The library's subject."""
    found = lib.majority(answers)
    return "nobody" if found is None else found


@law("rsa.majority", "the most frequent answer wins, of equals the one given first; no answer is no vote",
     cases=draw_a.cases(draw_votes), subjects={"majority": majority_or_nobody},
     guards=[lib.majority], examples=80)
def vote(fn, answers):
    """fn(answers): a list of str or None -> str; "nobody" if there is no answer at all. An empty text is an answer."""
    for asked in (answers, ["4", "", ""], [None, "4", "5"], []):
        given = [answer for answer in asked if answer is not None]
        wanted = sorted(given, key=lambda answer: (-given.count(answer), given.index(answer)))[0] if given else "nobody"
        got = fn(list(asked))
        require(got == wanted, f"of {asked} you chose {got!r}, the law wants {wanted!r}")
