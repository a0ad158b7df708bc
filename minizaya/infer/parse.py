"""What a model wrote, taken apart: reasoning, answer, tool calls. Whole texts, or streams cut anywhere.

    <think>17 + 25 is 42.</think>It is 42.
    ^ dropped               ^ everything before is reasoning, everything after is the answer

Reasoning is split as vLLM's `qwen3` reasoning parser does (read at commit 00a4c6a): the opening tag is often part of
the prompt, so it may be missing; without a closing tag the output was cut off, and all of it is reasoning; when
thinking is switched off, all of it is answer. One difference: an opening tag that comes late is plain text here. vLLM
drops what stands before it in a whole text, and not in a stream; here the two always agree.

Tool calls are the released model's `zaya_xml`, one block a call, anywhere in the answer:

    <zyphra_tool_call>
    <function=add>
    <parameter=x>
    17
    </parameter>
    </function>
    </zyphra_tool_call>

A value that is JSON is taken as JSON, else as the string between the framing newlines. A block may also hold `{"name":
..., "arguments": {...}}`. What is no call (a block that never ends, a nameless function) is kept in `malformed`: never
shown as text, never executed, never an exception. Closing tags that close nothing are dropped, since users report
models that write them. trap: a call that the token limit cut off may look complete but for its last argument.

The parser is ours, since vLLM's comes with the whole of vLLM.
"""

import json
import math
import re
from dataclasses import dataclass, field

THINK, UNTHINK = "<think>", "</think>"
CALL, UNCALL = "<zyphra_tool_call>", "</zyphra_tool_call>"
RESPONSE, UNRESPONSE = "<zyphra_tool_response>", "</zyphra_tool_response>"  # around a tool's answer, in a prompt
ORPHANS = (UNCALL, "</function>", "</parameter>")
NEVER_BARE = (*ORPHANS, "<parameter=", CALL, THINK, UNTHINK)


@dataclass(frozen=True)
class ToolCall:
    """One call: a function's name, and its arguments by name (JSON values)."""

    name: str
    arguments: dict


@dataclass
class Reply:
    """What was read: of a whole text, or new since the last `feed`.

    reasoning, content: text, "" for none. calls: the tool calls. malformed: blocks that are no call, as written.
    """

    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    def add(self, other: "Reply") -> None:
        """Appends what came later."""
        self.reasoning += other.reasoning
        self.content += other.content
        self.calls += other.calls
        self.malformed += other.malformed


def parse(text: str, thinking: bool = True) -> Reply:
    """A whole output taken apart. Never raises for any string."""
    reader = Reader(thinking)
    reply = reader.feed(text)
    reply.add(reader.finish())
    return reply


class Reader:
    """Takes a stream apart: the sum of what `feed` and `finish` return is `parse` of the whole, wherever it is cut.

    Text that may turn out to be the beginning of a tag is held back until it is clear.

    Args:
        thinking: False when the prompt switched thinking off: then everything is answer.
    """

    def __init__(self, thinking: bool = True):
        self.part = "start" if thinking else "content"   # then "reasoning", "content", "call"
        self.held = ""

    def feed(self, chunk: str) -> Reply:
        """What is certain after this chunk."""
        self.held += chunk
        new = Reply()
        while getattr(self, f"read_{self.part}")(new):
            pass
        return new

    def finish(self) -> Reply:
        """What was still held back: the stream is over."""
        held, self.held = self.held, ""
        if self.part == "call":
            return Reply(malformed=[CALL + held])
        return Reply(content=held) if self.part == "content" else Reply(reasoning=held)

    # ---- each reads from `held` into `new`; True: the part has changed or a tag was passed, read on ------------------

    def read_start(self, new: Reply) -> bool:
        """Whitespace and an opening tag at the very start are dropped, if the tag is there."""
        lead = self.held.lstrip()
        if THINK.startswith(lead[: len(THINK)]) and len(lead) < len(THINK):
            return False  # it may still become the tag
        self.held = lead.removeprefix(THINK) if lead.startswith(THINK) else self.held
        self.part = "reasoning"
        return True

    def read_reasoning(self, new: Reply) -> bool:
        before, tag = self.until((UNTHINK, ))
        new.reasoning += before
        if tag:
            self.part = "content"
        return bool(tag)

    def read_content(self, new: Reply) -> bool:
        before, tag = self.until((CALL, *ORPHANS))
        new.content += before
        if tag == CALL:
            self.part = "call"
        return bool(tag)

    def read_call(self, new: Reply) -> bool:
        body, close, rest = self.held.partition(UNCALL)
        if not close:
            return False
        call = read_call(body)
        if call is None:
            new.malformed.append(CALL + body + UNCALL)
        else:
            new.calls.append(call)
        self.held, self.part = rest, "content"
        return True

    def until(self, tags: tuple[str, ...]) -> tuple[str, str]:
        """Takes the text before the first tag, and the tag; without a tag, the text that can belong to none, and ""."""
        places = [(place, tag) for tag in tags if (place := self.held.find(tag)) >= 0]
        if places:
            place, tag = min(places)
            before, self.held = self.held[:place], self.held[place + len(tag):]
            return before, tag
        longest = max(map(len, tags)) - 1
        sure = next(place for place in range(max(0, len(self.held) - longest), len(self.held) + 1)
                    if any(tag.startswith(self.held[place:]) for tag in tags))
        before, self.held = self.held[:sure], self.held[sure:]
        return before, ""


def read_call(body: str) -> ToolCall | None:
    """What stands between the tags of a block, as a call; None if it is none. Never raises."""
    function = re.fullmatch(r"\s*<function=([^<>\n]+)>(.*)", body, flags=re.DOTALL)
    if function is None:
        given = json_or_none(body)
        if isinstance(given, dict) and isinstance(given.get("name"), str) and isinstance(given.get("arguments"), dict):
            return ToolCall(given["name"], given["arguments"])
        return None
    inside = function[2].rpartition("</function>")
    # an argument that was never closed ends where the next one begins
    pieces = re.split(r"<parameter=([^<>\n]+)>", inside[0] or inside[2])
    values = (piece.partition("</parameter>")[0] for piece in pieces[2::2])
    return ToolCall(function[1].strip(), {name.strip(): value_of(value) for name, value in zip(pieces[1::2], values)})


def value_of(written: str) -> object:
    """An argument: without its framing newlines; JSON if it is JSON, else the string."""
    inner = written.removeprefix("\n").removesuffix("\n")
    given = json_or_none(inner)
    return inner if given is None and inner.strip() != "null" else given


def write_call(call: ToolCall) -> str:
    """A call as the model writes it: `parse` gives it back.

    Where a name would break the form, the block holds JSON. A string is written as it is, unless it would be read as
    JSON or holds a tag.
    """
    if not all(re.fullmatch(r"[^<>\n]+", name) and name == name.strip() for name in (call.name, *call.arguments)):
        return f"{CALL}\n{without_tags({'name': call.name, 'arguments': call.arguments})}\n{UNCALL}"
    written = f"{CALL}\n<function={call.name}>\n"
    for name, value in call.arguments.items():
        plain = isinstance(value, str) and value_of(value) == value and not any(tag in value for tag in NEVER_BARE)
        written += f"<parameter={name}>\n{value if plain else without_tags(value)}\n</parameter>\n"
    return f"{written}</function>\n{UNCALL}"


def without_tags(value: object) -> str:
    """JSON in which no tag can stand: "<" is written by its number."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def json_or_none(text: str) -> object:
    """The JSON value in `text`; None if it is not JSON.

    trap: Python's json reads NaN, Infinity and 1e999, and JSON lacks the first two and cannot write the third again.
    """
    def finite(written: str) -> float:
        if not math.isfinite(float(written)):
            raise ValueError(written)
        return float(written)

    try:
        return json.loads(text, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError):
        return None
