"""What a server of OpenAI's protocol sends back, as a trace; or one clear error that says what came.

The rule: an answer is a text that the model ended, or that its budget cut off. Whatever else comes is none, and is not
kept as an empty text: an error in any of its places, a refusal, calls of tools that nobody offered, and a text that
the server ended by itself, by a filter or for trouble of its own.
"""

import json
import reprlib
from collections.abc import Mapping

ENDED_BY_THE_SERVER = {"content_filter": 400, "abort": 503, "error": 503}   # finish_reason -> the status it amounts to


class Refused(Exception):
    """The server's own word that it will not answer. status: HTTP's, or the like; wait: what Retry-After says."""

    def __init__(self, status: int, words: str, wait: str | None = None):
        super().__init__(words)
        self.status, self.wait = status, wait


def read_json(body: bytes, headers: Mapping[str, str]) -> object:
    """An answer's body as JSON. Raises ValueError that says what came instead."""
    if headers.get("Content-Encoding", "identity") != "identity":
        raise ValueError(f"an answer with Content-Encoding {headers['Content-Encoding']!r:.80}, which nobody asked for")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"an answer that is no JSON ({error}): {headers.get('Content-Type', 'of no type')!r:.80}, "
                         f"{len(body)} bytes, beginning {body[:200]!r}") from None


def first_choice(document: object) -> dict:
    """The first choice in an answer's document; {} if there is none.

    Raises `Refused` for an error document, which some servers send with status 200, and for a choice that is an error:
    the error's code counts as the status, and without one it is not tried again.
    """
    document = document if isinstance(document, dict) else {}
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    error = document.get("error") or choice.get("error") or (document if document.get("object") == "error" else None)
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        code = int(code) if isinstance(code, str) and code.isdecimal() and len(code) == 3 else code
        known = isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600
        raise Refused(code if known else 400, f"an error: {str(error)[:2000]}")
    finish = choice.get("finish_reason")
    if isinstance(finish, str) and finish in ENDED_BY_THE_SERVER:
        raise Refused(ENDED_BY_THE_SERVER[finish], f"ended by the server with {finish!r}: {reprlib.repr(choice)}")
    return choice


def text_as_it_stands(document: object, end: str) -> str:
    """The text in an answer of /completions; `end` behind one that ended by itself. Raises as `trace_of` does."""
    choice = first_choice(document)
    if not isinstance(choice.get("text"), str):
        raise ValueError(f"an answer must hold choices[0].text, a text, got {reprlib.repr(document)}")
    return choice["text"] + end * (choice.get("finish_reason") == "stop")


def trace_of(document: object) -> str:
    """The trace in a chat's document: reasoning and content put together again.

    Raises `Refused` as `first_choice` does, and for a refusal or calls of tools; ValueError naming what is of another
    form.
    """
    choice = first_choice(document)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError(f"an answer must hold choices[0].message, an object, got {reprlib.repr(document)}")
    if message.get("refusal"):
        raise Refused(400, f"a refusal: {str(message['refusal'])[:2000]}")
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            raise Refused(400, f"{name}, where no tools were offered: {reprlib.repr(message[name])}")
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
