"""One answer on its way from tokens to text: cut at a stop text, and told in pieces, each as soon as it is certain.

    telling = Telling(answer, form, request, watch)
    for piece in telling: ...
    telling.finish, telling.count            # "stop" or "length"; tokens written
"""

from collections.abc import Callable, Iterator

from .formats import ChatFormat, TaskFormat, text_of
from .protocol import Request
from .service import Answer, Busy


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
        tokens, text, shown = [], "", 0
        for token in self.answer.read(self.watch):
            tokens.append(token)
            self.count += 1
            if not (self.live or self.stops):
                continue  # nobody wants the text before its end
            text = text_of(self.form, tokens)
            places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
            if places:
                text, self.finish = text[: min(places)], "stop"
                self.answer.cancel()
                break
            sure = len(text) - held_back(text, self.stops)
            if sure > shown:
                yield text[shown:sure]
                shown = sure
        if self.finish is None:
            self.finish, text = self.answer.finish, text_of(self.form, tokens)
        if self.finish == "cancelled":
            raise Busy("the service was closed")
        if len(text) > shown:
            yield text[shown:]


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end that may yet become a stop text, or half of a character that is still being written."""
    longest = 0
    for stop in stops:
        longest = max([longest, *(n for n in range(1, min(len(stop), len(text)) + 1) if stop.startswith(text[-n:]))])
    return max(longest, len(text) - len(text.rstrip("\ufffd")))
