"""Who is asked: a server of OpenAI's protocol, or a model of this process. Either way nothing is asked twice.

A request says all that decides an answer: model, prompt, budget, sampling and a seed of its own. Its digest is its key
in the run file, so another run with this file finds the answer there; one with other settings asks anew. Copies of a
prompt are numbered, so the same run asks the same requests, whatever was lost on the way.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...arch.model import Zaya
from ...data import tasks
from ...data.aggregation import GO, SEPARATOR
from ...data.tokenizer_base import Tokenizer
from ...infer.endpoint import Endpoint
from ...infer.rsa import RSAConfig, delimited, in_words, markovian_rsa
from ...notebook import tqdm
from ...serve.service import Service
from .questions import Question

# how the last round samples where a setting has its own way; a raw prompt's server (ours) has no top-k
LAST = {"zyphra": {"temperature": 0.6, "top_p": 0.95, "top_k": 40}}


class Asker(Endpoint):
    """An `Endpoint` whose requests under way are bounded over all its callers, and that moves a progress bar."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.places, self.bar = threading.Semaphore(self.concurrency), None

    def answer(self, request: dict) -> str | None:
        with self.places:
            text = super().answer(request)
        if self.bar is not None:
            self.bar.update()
        return text


class Here(Asker):
    """A model of this process in a server's place: `service` decodes all requests under way together.

    Its name goes with a digest of its weights, so that a run file never answers for another model.
    """

    def __init__(self, service: Service, name: str, **settings):
        self.service = service
        super().__init__("http://localhost", f"{name}@{digest(service.model)}", service.tokenizer, raw=True,
                         end=tasks.END, retries=0, **settings)

    def post(self, request: dict) -> str:
        answer = self.service.ask(self.tokenizer.encode(request["prompt"]), request["max_tokens"],
                                  temperature=request["temperature"], top_p=request["top_p"],
                                  stop=self.tokenizer.encode(self.end), seed=1000 * request["seed"])  # as our server
        return self.tokenizer.decode(list(answer))


def digest(model: Zaya) -> str:
    """Twelve letters that say which weights these are."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


@dataclass
class Told:
    """What came back about one question: the texts that count, and the generated tokens of all (None: not counted).

    failed: requests that were given up.
    """

    texts: list[str] = field(default_factory=list)
    tokens: int | None = None
    failed: int = 0


def single(asker: Asker, questions: Sequence[Question], samples: int, room: int) -> list[Told]:
    """`samples` answers to each question, of at most `room` tokens, each by itself."""
    requests = [asker.request(question.prompt, room, question.copy * samples + i)
                for question in questions for i in range(samples)]
    texts = working(asker, asker.answer, requests, asker.concurrency, "single", len(requests))
    found = []
    for q in range(len(questions)):
        own = texts[q * samples: (q + 1) * samples]
        alive = [text for text in own if text is not None]
        found.append(Told(alive, count(asker.tokenizer, alive), len(own) - len(alive)))
    return found


def aggregated(asker: Asker, last: Asker, questions: Sequence[Question], rsa: RSAConfig, seed: int) -> list[Told]:
    """Markovian RSA about each question; its texts are those of the last round. last: who is asked in that round.

    A question whose traces all failed has no texts. Needs the asker's tokenizer, which cuts the tails.
    """
    tokenizer = asker.tokenizer
    aggregate = delimited(tokenizer.encode(SEPARATOR), tokenizer.encode(GO)) if asker.raw else in_words(tokenizer)

    def one(question: Question) -> Told:
        asked, failed = Counter(), []

        def generator(who: Asker) -> Callable:
            def generate(prompts: list[list[int]], room: int) -> list[list[int] | None]:
                requests = []
                for text in map(tokenizer.decode, prompts):
                    requests.append(who.request(text, room, question.copy * rsa.N + asked[text]))
                    asked[text] += 1
                traces = [trace and trace[-room:] for trace in who.together(who.trace, requests, len(requests))]
                failed.append(sum(trace is None for trace in traces))
                return traces
            return generate

        try:
            found = markovian_rsa(generator(asker), tokenizer.encode(question.prompt), rsa, aggregate,
                                  seed + question.copy, final=generator(last))
        except ValueError as error:
            if "failed on all" not in str(error):
                raise
            return Told([], None, sum(failed))
        return Told([tokenizer.decode(trace) for trace in found.rounds[-1]], found.generated_tokens, sum(failed))

    at_once = max(1, -(-2 * asker.concurrency // rsa.N))  # while one waits for its last trace, another goes on
    last.places, last.over = asker.places, asker.over
    return working(asker, one, questions, at_once, "markovian_rsa", len(questions) * traces(rsa), last)


def working(asker: Asker, work: Callable, things: Sequence, at_once: int, name: str, total: int,
            other: Asker | None = None) -> list:
    """`work` on all things, some at once, with a bar over requests. An error ends them all."""
    with tqdm(total=total, desc=name, unit="request") as bar:
        for who in (asker, other or asker):
            who.bar = bar
        return asker.together(work, things, at_once)


def count(tokenizer: Tokenizer | None, texts: list[str]) -> int | None:
    """Their tokens; None without a tokenizer, and where it cannot read one of them: that loses no answer."""
    try:
        return None if tokenizer is None else sum(len(tokenizer.encode(text)) for text in texts)
    except ValueError:
        return None


def traces(rsa: RSAConfig) -> int:
    """The requests that one question needs."""
    return sum(map(rsa.traces, range(rsa.T + 1)))


def estimate(questions: int, samples: int, room: int, rsa: RSAConfig | None, rate: float | None) -> dict:
    """What a run costs at most: {"requests", "tokens", "read", "seconds"}. samples 0: no single answers.

    tokens: generated ones. read: tokens of copied tails. rate: generated tokens a second, all requests together;
    without one "seconds" is None.
    """
    requests, tokens, read = questions * samples, questions * samples * room, 0
    if rsa is not None:
        requests += questions * traces(rsa)
        tokens += questions * traces(rsa) * rsa.beta
        read = questions * (traces(rsa) - rsa.N) * rsa.C * rsa.tau
    return {"requests": requests, "tokens": tokens, "read": read, "seconds": None if rate is None else tokens / rate}
