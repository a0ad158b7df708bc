"""What a server of OpenAI's protocol sends back, as a trace; or one clear error that says what came."""

import reprlib


class Refused(Exception):
    """The server's own word that it will not answer. status: HTTP's, or the like; wait: what Retry-After says."""

    def __init__(self, status: int, words: str, wait: str | None = None):
        super().__init__(words)
        self.status, self.wait = status, wait


def first_choice(document: object) -> object:
    """The first choice in an answer's document, whatever it is; None if there is none.

    Raises `Refused` for an error document, which some servers send with status 200: its code counts as the status, and
    without one it is not tried again.
    """
    if isinstance(document, dict) and document.get("error"):
        error = document["error"]
        code = error.get("code") if isinstance(error, dict) else None
        known = isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600
        raise Refused(code if known else 400, f"an error: {str(error)[:2000]}")
    choices = document.get("choices") if isinstance(document, dict) else None
    return choices[0] if isinstance(choices, list) and choices else None


def text_as_it_stands(document: object, end: str) -> str:
    """The text in an answer of /completions; `end` behind one that ended by itself. Raises as `trace_of` does."""
    choice = first_choice(document)
    if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
        raise ValueError(f"an answer must hold choices[0].text, a text, got {reprlib.repr(document)}")
    return choice["text"] + end * (choice.get("finish_reason") == "stop")


def trace_of(document: object) -> str:
    """The trace in a chat's document: reasoning and content put together again.

    Raises `Refused` as `first_choice` does, ValueError naming what is not of the form.
    """
    choice = first_choice(document)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError(f"an answer must hold choices[0].message, an object, got {reprlib.repr(document)}")
    content = text_of(message.get("content"))
    reasoning = text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))
    if not reasoning:
        return content
    done = content or choice.get("finish_reason") == "stop"
    return f"<think>{reasoning}</think>{content}" if done else f"<think>{reasoning}"


def text_of(said: object) -> str:
    """A text, which servers also send as null or as a list of text parts. Raises ValueError for anything else."""
    if said is None:
        return ""
    parts = said if isinstance(said, list) else [{"type": "text", "text": said}]
    if not all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
               for part in parts):
        raise ValueError(f"content and reasoning must be text, null, or a list of text parts, got {reprlib.repr(said)}")
    return "".join(part["text"] for part in parts)
