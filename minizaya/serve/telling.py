"""One answer on its way from tokens to text: cut at a stop text, and told in pieces, each as soon as it is certain.

    telling = Telling(answer, form, request, watch)
    for piece in telling: ...
    telling.finish, telling.count            # "stop" or "length"; tokens written
"""

from collections.abc import Callable, Iterator

from .formats import ChatFormat, TaskFormat, text_of
from .protocol import Request
from .service import Answer, Busy

HALF = 16  # tokens that may pass without an end of a character before one is looked for among them


class Telling:
    """Iterate over it once; the pieces joined are the answer's text, up to the first of the request's stop texts.

    A stop text ends the request at once. It is looked for in all of the text, the reasoning too.

    Args:
        answer: of a `Service`, nothing read yet. form: a format, for its tokenizer and end tokens.
        watch: see `Answer.read`.
    Raises RuntimeError when the engine broke, `Busy` when the service was closed meanwhile, and whatever watch raises.
    """

    def __init__(self, answer: Answer, form: ChatFormat | TaskFormat, request: Request,
                 watch: Callable[[], None] = lambda: None):
        self.answer, self.form, self.watch = answer, form, watch
        self.stops, self.live = request.stop, request.stream
        self.finish, self.count = None, 0

    def __iter__(self) -> Iterator[str]:
        words, held = Words(self.form), ""
        for token in self.answer.read(self.watch):
            self.count += 1
            if not (self.live or self.stops):
                words.tokens.append(token)  # nobody wants the text before its end
                continue
            held += words.add(token)
            if self.stopped(held):
                self.answer.cancel()
                break
            sure = len(held) - held_back(held, self.stops)
            if sure:
                yield held[:sure]
                held = held[sure:]
        if self.finish is None:
            held += words.rest()
            if not self.stopped(held):
                self.finish = self.answer.finish
        if self.finish == "cancelled":
            raise Busy("the service was closed")
        places = [held.find(stop) for stop in self.stops if stop in held]
        held = held[: min(places, default=len(held))]  # the first of them, whichever the request names first
        if held:
            yield held

    def stopped(self, text: str) -> bool:
        """Does it hold a stop text? Then the answer ends."""
        if any(stop in text for stop in self.stops):
            self.finish = "stop"
        return self.finish == "stop"


class Words:
    """An answer's text as its tokens come: the pieces joined are `text_of` of all tokens.

    A token is decoded with only the few before it, so it costs the same however long the answer is. They are there
    since a tokenizer may write a text's first token in another way. A piece ends where no character is half written.
    """

    def __init__(self, form: ChatFormat | TaskFormat):
        self.form, self.tokens, self.told, self.known = form, [], 0, ""  # known: the text of tokens[:told]

    def add(self, token: int) -> str:
        """The text that is certain with this token. A stop token is the last one, and no text."""
        self.tokens.append(token)
        end = len(self.tokens)
        if token in self.form.stop:
            return ""
        text = text_of(self.form, self.tokens)
        if text.endswith("\ufffd"):  # half a character, or bytes that will never be one
            end = self.clean_cut(text) if end - self.told >= HALF else 0
            if end == 0:
                return ""
            text = text_of(self.form, self.tokens[:end])
        new = text[len(self.known):]
        self.tokens, self.told = self.tokens[self.told:], end - self.told
        self.known = text_of(self.form, self.tokens[: self.told])
        return new

    def rest(self) -> str:
        """What was not certain: the answer is over."""
        return text_of(self.form, self.tokens)[len(self.known):]

    def clean_cut(self, text: str) -> int:
        """A place with a whole character's tokens behind it, where the text falls into two; 0 if there is none."""
        return next((end for end in range(len(self.tokens) - 4, self.told, -1)
                     if text_of(self.form, self.tokens[:end]) + text_of(self.form, self.tokens[end:]) == text), 0)


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end that may yet become a stop text, or half of a character that is still being written."""
    longest = 0
    for stop in stops:
        longest = max([longest, *(n for n in range(1, min(len(stop), len(text)) + 1) if stop.startswith(text[-n:]))])
    return max(longest, len(text) - len(text.rstrip("\ufffd")))
