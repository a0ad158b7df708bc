"""The engine as a service: one thread decodes, any number of others put questions and read tokens as they come.

    with Service(model, tokenizer) as service:
        answer = service.ask(prompt, max_new_tokens=100, stop=[end], seed=1)
        for token in answer: ...             # as they are written
        answer.finish                        # "stop" or "length"

Leaving the loop early cancels the request: its slot is free at once. A service has room for `waiting` requests beside
those at work; more are refused, so that memory stays bounded whatever comes.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..arch.model import Zaya
from ..data.tokenizer import Tokenizer
from ..infer.engine import Engine, said

END = None    # put behind the last token
GLANCE = 0.5  # seconds that a reader waits for a token before it looks up


class Busy(RuntimeError):
    """More requests than the service has room for."""


class Answer:
    """One request's tokens, to be read once.

    finish: "stop", "length", "cancelled", or "error": the model or the sampling failed, or the engine broke; then error
    says why.
    """

    def __init__(self, service: "Service", number: int):
        self.service, self.number, self.finish, self.error = service, number, None, None
        self.tokens: queue.SimpleQueue = queue.SimpleQueue()

    def __iter__(self) -> Iterator[int]:
        return self.read()

    def read(self, watch: Callable[[], None] = lambda: None) -> Iterator[int]:
        """The tokens as they come. Raises RuntimeError, with the reason, when the engine broke at this answer.

        watch: called before each token, and every half second while none comes. What it raises ends the reading, and
        the request with it.
        """
        try:
            while True:
                watch()
                try:
                    token = self.tokens.get(timeout=GLANCE)
                except queue.Empty:
                    continue
                if token is END:
                    self.tokens.put(END)  # whoever reads on finds the end, too
                    break
                yield token
        finally:
            if self.finish is None:
                self.cancel()
        if self.finish == "error":
            raise RuntimeError(f"the engine broke while it wrote this answer: {self.error}")

    def cancel(self) -> None:
        """Stops the request; reading ends. Harmless when it is done already."""
        self.service.cancel(self)


class Service:
    """Runs an `Engine` in a thread of its own.

    Args:
        model, tokenizer: the model answers in token ids; the tokenizer is kept for those who serve text.
        slots, size: see `Engine`. waiting: requests that may wait for a slot.
    `bytes` says what the caches take. Use it in a `with` block, or call `start` and `close`.
    """

    def __init__(self, model: Zaya, tokenizer: Tokenizer, slots: int = 64, size: int = 1024, waiting: int = 256):
        self.model, self.tokenizer, self.waiting = model, tokenizer, waiting
        self.engine = Engine(model, slots=slots, size=size)
        self.bytes = self.engine.bytes
        self.lock = threading.Condition()  # reentrant: a caller may hold its turn and ask
        self.answers: dict[int, Answer] = {}
        self.closed, self.callers = True, 0

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def start(self) -> None:
        self.closed = False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends the thread; what is under way is cancelled."""
        with self.lock:
            self.closed = True
            self.lock.notify()
        self.thread.join()

    def ask(self, prompt: Sequence[int], max_new_tokens: int, **settings) -> Answer:
        """Puts a request in line; settings as in `Engine.submit`.

        Raises ValueError for a request that `Engine.submit` refuses, `Busy` when too many are waiting.
        """
        with self.turn():
            if self.closed:
                raise Busy("the service is closed")
            if len(self.engine.waiting) >= self.waiting:
                raise Busy(f"{self.waiting} requests are waiting already")
            answer = Answer(self, self.engine.submit(prompt, max_new_tokens, **settings))
            self.answers[answer.number] = answer
            if answer.number in self.engine.done:  # a budget of zero
                self.end(answer, self.engine.take(answer.number).finish)
            self.lock.notify()
        return answer

    def cancel(self, answer: Answer) -> None:
        with self.turn():
            # trap: a fresh engine counts from 0 again, so another request may have an old one's number
            if self.answers.get(answer.number) is answer:
                self.engine.cancel(answer.number)
                self.engine.take(answer.number)
                self.end(answer, "cancelled")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The lock, for callers. trap: a lock is not fair; the engine's thread would take it again step after step."""
        self.callers += 1
        with self.lock:
            self.callers -= 1
            yield

    def end(self, answer: Answer, why: str, error: str | None = None) -> None:
        self.answers.pop(answer.number, None)
        answer.finish, answer.error = why, error
        answer.tokens.put(END)

    def work(self) -> None:
        """The thread: a step of the engine whenever there is anything to do."""
        try:
            while not self.closed:
                self.step()
        finally:  # however it ends, nobody may wait for ever
            with self.lock:
                why, self.closed = "cancelled" if self.closed else "error", True
                for answer in list(self.answers.values()):
                    self.end(answer, why, "its thread ended")

    def step(self) -> None:
        """Waits for work, and hands out one step's tokens. When the engine breaks, all under way hear of it."""
        while self.callers > 0:  # let them in first
            time.sleep(1e-4)
        with self.lock:
            self.lock.wait_for(lambda: self.closed or self.engine.busy)
            if self.closed:
                return
            try:
                written = self.engine.step()
            except Exception as error:
                for answer in list(self.answers.values()):
                    self.end(answer, "error", said(error))
                self.engine.cache = None  # there may be no room for two
                self.engine = Engine(self.model, self.engine.slots, self.engine.size)
                return
            for number, token in written:
                self.answers[number].tokens.put(token)
            for number in [number for number in self.answers if number in self.engine.done]:
                done = self.engine.take(number)
                self.end(self.answers[number], done.finish, done.error)
