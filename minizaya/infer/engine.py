"""The engine: many requests at once, each of its own length and settings, joining and leaving as they finish.

    engine = Engine(model, slots=64, size=1024)
    number = engine.submit(prompt, max_new_tokens=100, stop=[eos], seed=3)
    while engine.busy:
        for number, token in engine.step(): ...          each request's next token
    engine.take(number)                                    -> Completion

A step does two things: it reads the prompts of waiting requests into free slots, a few together, and it decodes one
token of every sequence at work. A sequence that ends frees its slot at once, so slots do not wait for the longest
answer ("continuous batching"). Decoding one sequence reads all weights for one token; decoding 64 reads them once.

A request's tokens depend on its prompt, settings and seed, not on its company (up to rounding): it has a stream of
random numbers of its own. `generate_reference` is the definition, and the engine equals it token for token.

One request's trouble ends that request: its finish is "error", `Completion.error` says why, its slot is wiped and
freed, and the others go on. Trouble is no finite logits, a failure of the sampling, or a failure of the model (no
memory, say) that comes again when the request is read alone.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..native.step import reader
from .generate import answering, check_request, distinct, left_pad
from .sample import choose, keep_mask, streams, tempered
from .slots import SlotCache

NO_LOGITS = "logits must hold no NaN and no +inf, and a finite value"


@dataclass(frozen=True)
class Completion:
    """What became of a request.

    tokens: the new ones; the stop token is the last, if there was one. finish: "stop", "length", "cancelled", or
    "error"; then error says why there is no next token.
    logprobs: float per new token, the log-probability with which it was drawn, in float64: log softmax(logits /
    temperature) over what top-p and min-p kept (at temperature 0: over all, of the logits themselves); or None. kept:
    bool (new tokens, vocab), what top-p and min-p kept, or None without a filter. routes: int16 (prompt + new tokens,
    layers), the expert of each token, num_experts for skip, -1 for the last token, which the model never read; or None.
    """

    tokens: list[int]
    finish: str
    logprobs: list[float] | None = None
    routes: Tensor | None = None
    kept: Tensor | None = None
    error: str | None = None


@dataclass
class Request:
    """A request at work."""

    number: int
    prompt: list[int]
    room: int
    settings: tuple[float, float, float]  # temperature, top_p, min_p
    stop: frozenset[int]
    stream: Random
    record: bool
    trouble: str | None = None  # why it ends with "error"
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routes: list[list[int]] = field(default_factory=list)  # of each token that was read
    kept: list[Tensor] = field(default_factory=list)


class Engine:
    """Decodes at most `slots` sequences at a time, of at most `size` tokens each, prompt and answer together.

    `bytes` is what the caches take: `SlotCache.bytes`, and as much again for at most `joining` prompts being read.
    compiled: as in `generate`. Weights may change in place at any time; a parameter's new memory, a new module or hook
    is seen when the next request joins.
    Raises ValueError for numbers below 1, and for compiled=True where that cannot be; MemoryError where there is no
    memory for the caches.
    """

    def __init__(self, model: Zaya, slots: int = 64, size: int = 1024, joining: int = 16,
                 compiled: bool | None = None):
        for name, value in (("slots", slots), ("size", size), ("joining", joining)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        weight = model.embed.weight
        self.model, self.slots, self.size, self.joining = model, slots, size, min(joining, slots)
        self.compiled = compiled
        self.look()
        self.bytes = SlotCache.bytes(model.config, slots + self.joining, size, weight.element_size())
        try:
            self.cache = SlotCache(model.config, slots, size, weight.dtype, weight.device)
        except (RuntimeError, TypeError):  # torch's words for no memory, and for a size beyond 64 bits
            raise MemoryError(f"the caches take {self.bytes} bytes, and there is no memory for them") from None
        self.waiting: deque[Request] = deque()
        self.active: list[Request] = []           # active[i] is in slot i
        self.done: dict[int, Completion] = {}
        self.numbers = 0

    @property
    def busy(self) -> bool:
        """Is there anything to do?"""
        return bool(self.waiting or self.active)

    def submit(self, prompt: Sequence[int], max_new_tokens: int, temperature: float = 1.0, top_p: float = 1.0,
               min_p: float = 0.0, stop: Iterable[int] = (), seed: int = 0, record: bool = False) -> int:
        """Puts a request in line and returns its number. record: keep log-probabilities and routes.

        Its tokens are those of `generate(model, [prompt], ...)`. Raises ValueError as `generate` does, and for a
        request that can never fit: prompt and budget together over `size`.
        """
        (prompt,), stop = check_request(self.model, [prompt], max_new_tokens, temperature, top_p, min_p, stop, seed)
        return self.queue(prompt, max_new_tokens, (temperature, top_p, min_p), stop, streams([prompt], seed)[0], record)

    def queue(self, prompt: list[int], room: int, settings: tuple[float, float, float], stop: frozenset[int],
              stream: Random, record: bool = False) -> int:
        """`submit` for a request that has been checked, with its own stream of random numbers."""
        # the last new token is never read, so it needs no place
        if len(prompt) + room - 1 > self.size:
            raise ValueError(f"prompt and max_new_tokens must fit into the engine's size of {self.size} tokens, got "
                             f"{len(prompt)} and {room}")
        request = Request(self.numbers, prompt, room, settings, stop, stream, record)
        self.numbers += 1
        if room == 0:
            self.finish(request, "length")
        else:
            self.waiting.append(request)
        return request.number

    def cancel(self, number: int) -> None:
        """Stops a request wherever it is; what it has written so far can be taken. One that is done stays done."""
        for request in [r for r in self.waiting if r.number == number]:
            self.waiting.remove(request)
            self.finish(request, "cancelled")
        for slot in [i for i, r in enumerate(self.active) if r.number == number]:
            self.finish(self.active[slot], "cancelled")
            self.free(slot)

    def take(self, number: int) -> Completion:
        """The completion of a finished request; it is handed out once. Raises KeyError if there is none."""
        return self.done.pop(number)

    def step(self) -> list[tuple[int, int]]:
        """One token of every sequence at work. Returns (request number, token) pairs, in the order of the slots.

        A request that ends with "error" has no pair; it is in `done`.
        """
        with answering(self.model, self.parts):
            written = self.decode() if self.active else []  # before the others join: those have had their token then
            written += self.join()
        for slot in range(len(self.active) - 1, -1, -1):  # from the end: `free` moves the last one
            request = self.active[slot]
            if request.trouble:
                self.cache.wipe(slot)
                self.finish(request, "error")
                self.free(slot)
            elif request.tokens[-1] in request.stop or len(request.tokens) == request.room:
                self.finish(request, "stop" if request.tokens[-1] in request.stop else "length")
                self.free(slot)
        return written

    # ---- the parts of a step -----------------------------------------------------------------------------------------

    def join(self) -> list[tuple[int, int]]:
        """Reads waiting prompts into free slots, at most `joining` together, and writes their first tokens."""
        count = min(self.joining, self.slots - len(self.active), len(self.waiting))
        if count == 0:
            return []
        self.look()
        return self.read([self.waiting.popleft() for _ in range(count)])

    def look(self) -> None:
        """Takes the model as it is now."""
        self.decoder, self.parts = reader(self.model, self.compiled), list(self.model.modules())

    def read(self, new: list[Request], again: bool = False) -> list[tuple[int, int]]:
        """Reads each prompt, and what there is of its answer, into a free slot, and writes its next token.

        Equal ones are read once. Where the model fails, each is read again, alone. One that fails then is finished, and
        has no slot.
        """
        texts, rows = distinct([request.prompt + request.tokens for request in new])
        try:
            tokens, mask = left_pad(texts, self.model.embed.weight.device)
            read = self.model.new_cache(len(texts))
            out = self.decoder(tokens, cache=read, mask=mask, last_only=True)
            self.cache.join(read, [len(text) for text in texts], rows)
        except Exception as error:  # trap: it holds the tensors of the call that failed; they go where it ends
            trouble = said(error)
        else:
            self.active += new
            for row, request in zip(rows, new):
                if request.record:
                    unread = tokens.shape[1] - len(texts[row]) + len(request.routes)
                    request.routes += out.routes[row, unread:].tolist()
            return self.choose(new, out.logits[:, 0] if len(texts) == len(new) else out.logits[rows, 0])
        self.cache.batch = len(self.active)
        if again:
            new[0].trouble = trouble
            self.finish(new[0], "error")
            return []
        return [pair for request in new for pair in self.read([request], again=True)]

    def decode(self) -> list[tuple[int, int]]:
        """One token of every sequence.

        Where the model fails, it has taken in a part of the step, nobody knows which: the slots are given up, and each
        sequence is read again, alone. So a failure that passes is none, and one that stays is that of its sequence.
        """
        requests = self.active
        tokens = torch.tensor([[request.tokens[-1]] for request in requests], device=self.model.embed.weight.device)
        try:
            out = self.decoder(tokens, cache=self.cache)
            self.cache.step()
        except Exception:  # as in `read`
            out = None
        if out is None:
            for slot in range(len(requests)):
                self.cache.wipe(slot)
            self.active, self.cache.batch = [], 0
            return [pair for request in requests for pair in self.read([request], again=True)]
        if any(request.record for request in requests):
            for request, routes in zip(requests, out.routes[:, 0].tolist()):
                if request.record:
                    request.routes.append(routes)
        return self.choose(requests, out.logits[:, 0])

    def choose(self, requests: list[Request], logits: Tensor) -> list[tuple[int, int]]:
        """The next token of each request that has one, those with the same settings together."""
        for request, finite in zip(requests, logits.amax(-1).isfinite().tolist()):
            request.trouble = request.trouble if finite else NO_LOGITS
        for settings in {request.settings: None for request in requests if not request.trouble}:
            rows = [i for i, request in enumerate(requests) if request.settings == settings and not request.trouble]
            own = logits if len(rows) == len(requests) else logits[rows]
            uniforms = None
            if settings[0] > 0:
                drawn = [requests[i].stream.random() for i in rows]
                uniforms = torch.tensor(drawn, dtype=torch.float64, device=own.device)
            self.write([requests[i] for i in rows], own, uniforms)
        return [(request.number, request.tokens[-1]) for request in requests if not request.trouble]

    def write(self, requests: list[Request], logits: Tensor, uniforms: Tensor | None) -> None:
        """The next token of requests with the same settings. Where that fails, of each alone, or it is in trouble."""
        try:
            chosen = choose(logits, *requests[0].settings, uniforms)
            self.note(requests, chosen, logits)
        except Exception as error:
            requests[0].trouble = said(error) if len(requests) == 1 else None
        else:
            for request, token in zip(requests, chosen.tolist()):
                request.tokens.append(token)
            return
        for i, request in enumerate(requests if len(requests) > 1 else ()):
            self.write([request], logits[i: i + 1], None if uniforms is None else uniforms[i: i + 1])

    def note(self, requests: list[Request], chosen: Tensor, logits: Tensor) -> None:
        """Records the log-probability of each request's token `chosen`, and what else was kept, where it is wanted."""
        rows = [i for i, request in enumerate(requests) if request.record]
        temperature, top_p, min_p = requests[0].settings
        if not rows:
            return
        if len(rows) < len(requests):
            logits, chosen = logits[rows], chosen[rows]
        logits, filters = tempered(logits, temperature or 1.0), temperature > 0 and (top_p < 1 or min_p > 0)
        if filters:
            kept = keep_mask(logits.softmax(-1), top_p, min_p)
            logits = logits.masked_fill(~kept, float("-inf"))
        logprobs = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0].tolist()
        kept = kept.cpu() if filters else None
        for row, i in enumerate(rows):
            requests[i].logprobs.append(logprobs[row])
            if filters:
                requests[i].kept.append(kept[row])

    def finish(self, request: Request, why: str) -> None:
        routes = None
        if request.record:
            layers = self.model.config.num_hidden_layers
            unread = [[-1] * layers] * (len(request.prompt) + len(request.tokens) - len(request.routes))
            routes = torch.tensor(request.routes + unread, dtype=torch.int16, device="cpu").view(-1, layers)
        kept = torch.stack(request.kept) if request.kept else None
        logprobs = request.logprobs if request.record else None
        self.done[request.number] = Completion(request.tokens, why, logprobs, routes, kept, request.trouble)

    def free(self, slot: int) -> None:
        """The sequence in this slot leaves, the last one takes its place."""
        self.cache.leave(slot)
        self.active[slot] = self.active[-1]
        self.active.pop()


def said(error: Exception) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def engine_generate(engine: Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 1.0,
                    top_p: float = 1.0, min_p: float = 0.0, stop: Iterable[int] = (), seed: int = 0) -> list[list[int]]:
    """`generate`, run by an engine: the same tokens. Raises ValueError as `generate` and `Engine.submit` do.

    Unlike `generate` it writes every other answer to its end before it raises for one in trouble: ValueError where it
    had no finite logits, RuntimeError where the model or the sampling failed.
    """
    prompts, stop = check_request(engine.model, prompts, max_new_tokens, temperature, top_p, min_p, stop, seed)
    numbers = [engine.queue(prompt, max_new_tokens, (temperature, top_p, min_p), stop, stream)
               for prompt, stream in zip(prompts, streams(prompts, seed))]
    while not all(number in engine.done for number in numbers):
        engine.step()
    done = [engine.take(number) for number in numbers]
    for i, completion in enumerate(done):
        if completion.finish == "error":
            kind = ValueError if completion.error == NO_LOGITS else RuntimeError
            raise kind(f"prompts[{i}]: {completion.error}, after {len(completion.tokens)} new tokens")
    return [completion.tokens for completion in done]
