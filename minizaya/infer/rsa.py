"""Markovian recursive self-aggregation: thinking longer than any one context.

    round 0      N traces of at most beta tokens, each from the question alone
    round t      N new traces; each reads the question and the last tau tokens of C traces of round t - 1
    the score    the mean over the N traces of round T: no vote, no picking of the best

However many rounds, no prompt is longer than |q| + C tau and a few marks, and no trace longer than beta: the state that
passes from round to round is bounded, and so "Markovian". The total of generated tokens is not.

T counts aggregation rounds, as in Table XII of the report, so there are T + 1 rounds of generation; the RSA paper and
its code count those, and our T = 2 is their T = 3. Zyphra has published two codes: its proxy counts as we do, and its
package `rsa` as the paper, so that a T of 2 is one aggregation there.

The proxy shows two more things that the report only hints at ("N at each non-final stage"). Its last round is short,
one trace sampled by settings of its own: `final_n` and `final` here. And its tails are counted in words, joined by
single blanks: `last_words`. trap: a word is a token or more, so tau words are no bound on tokens.

Special cases: T = 0 is parallel sampling. tau = beta hands on whole traces: full-chain RSA. C = 1 lets each trace go on
from its own tail, which is Delethink. trap: a uniform draw with C = 1 would make some traces go on twice and others
never, so it is a case of its own here.

Sources: ZAYA1-8B report (arXiv 2605.05365), section VI and equation 24; RSA, arXiv 2509.26626; Delethink, arXiv
2510.06557; PaCoRe, arXiv 2601.05593; Zyphra/vllm, examples/markovian_rsa/rsa_proxy_server.py (commit ea2a7e98).
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..data.ids import token_ids
from ..data.tokenizer_base import Tokenizer

Tokens = list[int]
Generator = Callable[[list[Tokens], int], list[Tokens | None]]
Aggregate = Callable[[Tokens, list[Tokens]], Tokens]
Reduce = Callable[[Tokens, int], Tokens]


@dataclass(frozen=True)
class RSAConfig:
    """N traces a round, C tails a prompt, T aggregation rounds, beta new tokens a trace, tau tokens a tail.

    final_n: traces of the last round; None: N. Raises ValueError unless N, C, beta and tau are at least 1, T at least
    0, C at most N, tau at most beta, and final_n from 1 to N, in a run that aggregates.
    """

    N: int = 16
    C: int = 4
    T: int = 2
    beta: int = 512
    tau: int = 128
    final_n: int | None = None

    def __post_init__(self):
        for name, least in (("N", 1), ("C", 1), ("T", 0), ("beta", 1), ("tau", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        if self.final_n is not None:
            if type(self.final_n) is not int or not 1 <= self.final_n <= self.N:
                raise ValueError(f"final_n must be None or an int from 1 to N = {self.N}, got {self.final_n!r}")
            if self.T == 0:
                raise ValueError(f"final_n must be None where T is 0: there is no later round, got {self.final_n}")
        if self.C > self.N:
            raise ValueError(f"C must be at most N = {self.N} (tails are drawn without replacement), got {self.C}")
        if self.tau > self.beta:
            raise ValueError(f"tau must be at most beta = {self.beta} (a tail is a part of a trace), got {self.tau}")

    def traces(self, t: int) -> int:
        """How many traces round t has."""
        return self.N if t < self.T or self.final_n is None else self.final_n


# What the report recommends for deployment, and what Zyphra's proxy does when nothing is said. Its last round samples
# at temperature 0.6, top-p 0.95 and top-k 40.
SETTINGS = {"report": RSAConfig(N=16, C=4, T=2, beta=16_384, tau=4_096),
            "zyphra": RSAConfig(N=32, C=4, T=8, beta=32_768, tau=4_096, final_n=1)}


@dataclass(frozen=True)
class RSAResult:
    """One question's population.

    rounds: rounds[t][n], the new tokens of trace n of round t. prompts: prompts[t][n], what it read.
    generated_tokens: all new tokens of all rounds (equation 24); prompts and copied tails do not count.
    failed: traces that the generator gave up (None); they are left out of `rounds` and of `prompts`.
    """

    rounds: list[list[Tokens]]
    prompts: list[list[Tokens]]
    generated_tokens: int
    failed: int = 0


def markovian_rsa(generator: Generator, question: Sequence[int], rsa: RSAConfig, aggregate: Aggregate | None = None,
                  seed: int = 0, reduce: Reduce | None = None, final: Generator | None = None) -> RSAResult:
    """Runs all rounds for one question.

    Args:
        generator: (prompts, max_new_tokens) -> the new tokens of each prompt, or None for a trace that failed. The N
            prompts of round 0 are equal; a generator must give them different chances by itself, as `generate` does.
        question: token ids, at least one.
        aggregate: (question, tails) -> prompt; None: `concatenated`.
        seed: of the draws of subsets; with the question's tokens it fixes them.
        reduce: (trace, tau) -> the at most tau tokens of it that are handed on; None: `last_tokens`.
        final: the generator of the last round, if that samples in a way of its own; None: `generator`. With T = 0 the
            only round is the last.
    Raises:
        ValueError: a bad question, a generator that breaks its word (too few traces, too long ones, no ids), or a round
            in which every trace failed.
    """
    return markovian_rsa_many(generator, [question], rsa, aggregate, seed, reduce, final)[0]


def markovian_rsa_many(generator: Generator, questions: Sequence[Sequence[int]], rsa: RSAConfig,
                       aggregate: Aggregate | None = None, seed: int = 0, reduce: Reduce | None = None,
                       final: Generator | None = None) -> list[RSAResult]:
    """`markovian_rsa` for many questions, with one call of the generator a round.

    Each question's subsets are drawn as they would be alone. So with a generator that answers each prompt by itself the
    results are those of one question at a time.
    """
    aggregate, reduce = aggregate or concatenated, reduce or last_tokens
    questions = [token_ids(f"questions[{i}]", question) for i, question in enumerate(questions)]
    if not questions or not all(questions):
        raise ValueError("questions must hold at least one question of at least one token")
    draws = [stream_of(seed, question) for question in questions]
    rounds, prompts, failed = ([[] for _ in questions] for _ in range(3))
    for t in range(rsa.T + 1):
        asked = []
        for q, question in enumerate(questions):
            if t == 0:
                asked.append([list(question) for _ in range(rsa.N)])
            else:
                tails = [checked_tail(reduce(trace, rsa.tau), rsa.tau) for trace in rounds[q][-1]]
                chosen = subsets(tails, rsa, draws[q])[: rsa.traces(t)]
                asked.append([aggregate(question, own) for own in chosen])
        flat = [prompt for own in asked for prompt in own]
        write = final if final and t == rsa.T else generator
        traces = iter(checked_traces(write([list(prompt) for prompt in flat], rsa.beta), len(flat), rsa.beta))
        for q, own in enumerate(asked):
            pairs = [(prompt, next(traces)) for prompt in own]
            alive = [(prompt, trace) for prompt, trace in pairs if trace is not None]
            if not alive:
                raise ValueError(f"generator failed on all {len(own)} traces of round {t} of question {q}")
            failed[q].append(len(pairs) - len(alive))
            prompts[q].append([list(prompt) for prompt, _ in alive])
            rounds[q].append([trace for _, trace in alive])
    return [RSAResult(rounds[q], prompts[q], sum(len(trace) for own in rounds[q] for trace in own), sum(failed[q]))
            for q in range(len(questions))]


def stream_of(seed: int, question: Tokens) -> random.Random:
    """The random numbers that draw a question's subsets."""
    return random.Random(hashlib.sha256(f"{seed}/{question}".encode()).digest())


def subsets(tails: list[Tokens], rsa: RSAConfig, rng: random.Random) -> list[list[Tokens]]:
    """The tails that each of the N new traces reads: C of them, each subset drawn afresh without replacement.

    When traces have failed there are fewer than N tails; a subset is then as large as there are tails.
    """
    if rsa.C == 1:  # each trace goes on by itself
        return [[tail] for tail in tails]
    return [rng.sample(tails, min(rsa.C, len(tails))) for _ in range(rsa.N)]


# ---- what of a trace is handed on ------------------------------------------------------------------------------------


def last_tokens(trace: Tokens, tau: int) -> Tokens:
    """The report's tail: the last `tau` tokens, or the whole trace if it is shorter."""
    return trace[-tau:]


def last_words(tokenizer: Tokenizer) -> Reduce:
    """The tail as Zyphra's proxy cuts it: the last tau words, joined by single blanks, so that lines are lost.

    Of a tail that has more than tau tokens only the last tau are left, for the bound on prompts counts tokens.
    """

    def reduce(trace: Tokens, tau: int) -> Tokens:
        return tokenizer.encode(" ".join(tokenizer.decode(trace).split()[-tau:]))[-tau:]

    return reduce


def conclusion_or_tail(end_of_thought: int) -> Reduce:
    """PaCoRe's compaction, in the report's hybrid form: the answer of a trace that reached one, else its tail.

    end_of_thought: the token after which the answer stands, `</think>`. An answer longer than tau keeps its end.
    """

    def reduce(trace: Tokens, tau: int) -> Tokens:
        if end_of_thought not in trace:
            return trace[-tau:]
        start = len(trace) - trace[::-1].index(end_of_thought)
        return trace[start:][-tau:]

    return reduce


# ---- how question and tails become a prompt --------------------------------------------------------------------------


def concatenated(question: Tokens, tails: list[Tokens]) -> Tokens:
    """Question, then the tails: needs no vocabulary. At most |q| + C tau tokens."""
    return [*question, *(token for tail in tails for token in tail)]


def delimited(separator: Sequence[int], go: Sequence[int]) -> Aggregate:
    """Question, then the separator and a tail for each tail, then `go`: what our small models were trained on.

    At most |q| + C tau + C |separator| + |go| tokens.
    """

    def aggregate(question: Tokens, tails: list[Tokens]) -> Tokens:
        return [*question, *(token for tail in tails for token in (*separator, *tail)), *go]

    return aggregate


def in_words(tokenizer: Tokenizer) -> Aggregate:
    """For a chat model: the question, the tails under headings, and what to do with them, as one text.

    Adds about 110 + 30 C characters' worth of tokens. Nothing is formatted into a template: braces in a tail are text.
    """
    head = tokenizer.encode("\n\nBelow are the ends of several attempts at this problem. "
                            "Any of them may be wrong or unfinished.\n")
    close = tokenizer.encode("\nWeigh the attempts against each other, go on from what is right, "
                             "and give one full answer.\n")

    def aggregate(question: Tokens, tails: list[Tokens]) -> Tokens:
        prompt = [*question, *head]
        for number, tail in enumerate(tails, start=1):
            prompt += [*tokenizer.encode(f"\n--- end of attempt {number} ---\n"), *tail]
        return [*prompt, *close]

    return aggregate


# ---- reading a population --------------------------------------------------------------------------------------------


def mean_score(result: RSAResult, score: Callable[[Tokens], float]) -> float:
    """The reported figure: the mean score over the last round's traces."""
    return sum(map(score, result.rounds[-1])) / len(result.rounds[-1])


def best_of(result: RSAResult, score: Callable[[Tokens], float]) -> float:
    """The score of the best trace of the last round. It needs a judge that knows the truth: a bound, not a method."""
    return max(map(score, result.rounds[-1]))


def majority(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, of equals the one given first; None (no answer) does not vote."""
    votes = [answer for answer in answers if answer is not None]
    return max(votes, key=votes.count) if votes else None


# ---- the generator's word --------------------------------------------------------------------------------------------


def checked_traces(traces: Iterable[Iterable[int] | None], count: int, longest: int) -> list[Tokens | None]:
    """What a generator gave, as lists of int. Raises ValueError naming what is wrong with it."""
    try:
        traces = list(traces)
    except TypeError:
        raise ValueError(f"generator must return a list of {count} traces, got {type(traces).__name__}") from None
    if len(traces) != count:
        raise ValueError(f"generator must return one trace a prompt, {count} in all, got {len(traces)}")
    found = []
    for i, trace in enumerate(traces):
        found.append(None if trace is None else token_ids(f"generator's trace {i}", trace))
        if trace is not None and len(found[-1]) > longest:
            raise ValueError(f"generator's trace {i} has {len(found[-1])} tokens, max_new_tokens was {longest}")
    return found


def checked_tail(tail: Iterable[int], tau: int) -> Tokens:
    """What `reduce` gave. Raises ValueError when it is longer than tau: the bound on prompts would not hold."""
    tail = token_ids("reduce's tail", tail)
    if len(tail) > tau:
        raise ValueError(f"reduce's tail has {len(tail)} tokens, tau is {tau}")
    return tail
