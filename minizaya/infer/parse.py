"""What a model wrote, taken apart: reasoning, answer, tool calls. Whole texts, or streams cut anywhere.

    <think>17 + 25 is 42.</think>It is 42.
    ^ dropped               ^ everything before is reasoning, everything after is the answer

Reasoning is split as vLLM's `qwen3` reasoning parser does (read at commit 00a4c6a): the opening tag is often part of
the prompt, so it may be missing; without a closing tag the output was cut off, and all of it is reasoning; when
thinking is switched off, all of it is answer. Two differences. An opening tag that comes late is plain text here: vLLM
drops what stands before it in a whole text, and not in a stream; here the two always agree. And a tool call that
begins before the closing tag is reasoning here, where vLLM takes it for the end of the reasoning.

Tool calls stand anywhere in the answer, one block a call, of the grammar that `calls` has. The rules:

- Where no tools were offered there are no calls: all of the answer is text, tags too.
- A block that is not exactly in the grammar is `malformed`, as written: not text, not a call, and not lost.
- An opening tag that nothing like a call follows is one that the answer only mentions: the tag alone is malformed, and
  the text behind it stays text. It comes when the block, another one, or the answer ends.
- Where tools were offered, closing tags that close nothing are dropped: users report models that write them.
- White space alone between blocks, or between a block and an end of the answer, is not text.

trap: a call that the token limit cut off may look complete but for its last argument; without its closing tags it is
malformed. The parser is ours, since vLLM's comes with the whole of vLLM. It never raises.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .calls import BLANK, CALL, ORPHANS, UNCALL, ToolCall, read_call, write_call

__all__ = ["CALL", "UNCALL", "Reader", "Reply", "ToolCall", "parse", "write_call"]
THINK, UNTHINK = "<think>", "</think>"


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


def parse(text: str, thinking: bool = True, tools: Sequence[dict] | None = None) -> Reply:
    """A whole output taken apart. Never raises for any string. thinking, tools: see `Reader`."""
    reader = Reader(thinking, tools)
    reply = reader.feed(text)
    reply.add(reader.finish())
    return reply


class Reader:
    """Takes a stream apart: the sum of what `feed` and `finish` return is `parse` of the whole, wherever it is cut.

    Text that may turn out to be the beginning of a tag is held back until it is clear.

    Args:
        thinking: False when the prompt switched thinking off: then everything is answer.
        tools: those that the request offered, in OpenAI's form, checked; empty: none, so there are no calls. None:
            there is no request; any function may be called, and values are JSON where they can be.
    """

    def __init__(self, thinking: bool = True, tools: Sequence[dict] | None = None):
        self.part = "start" if thinking else "content"   # then "reasoning", "content", "call"
        self.held = ""
        self.tools, self.offered = tools, tools is None or len(tools) > 0
        self.blank, self.spoken, self.blocks = "", False, False  # of the text since the last block; any block yet?

    def feed(self, chunk: str) -> Reply:
        """What is certain after this chunk."""
        self.held += chunk
        new = Reply()
        while getattr(self, f"read_{self.part}")(new):
            pass
        return new

    def finish(self) -> Reply:
        """What was still held back: the stream is over."""
        new = Reply()
        if self.part == "call" and is_prose(self.held):
            self.only_mentioned(new)
            new.add(self.feed(""))
        held, self.held = self.held, ""
        if self.part == "call":
            new.malformed.append(CALL + held)
        elif self.part == "content":
            self.say(held, new)
            new.content += "" if self.blocks else self.blank
        else:
            new.reasoning += held
        return new

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
        before, tag = self.until((CALL, *ORPHANS) if self.offered else ())
        self.say(before, new)
        if tag == CALL:
            self.part = "call"
        return bool(tag)

    def read_call(self, new: Reply) -> bool:
        body, close, rest = self.held.partition(UNCALL)
        before, again, _ = body.partition(CALL)
        if again and is_prose(before):
            self.only_mentioned(new)
            return True
        if not close:
            return False
        call = read_call(body, self.tools)
        if call is None:
            new.malformed.append(CALL + body + UNCALL)
        else:
            new.calls.append(call)
        self.held = rest
        self.end_block()
        return True

    # ---- what they share ---------------------------------------------------------------------------------------------

    def only_mentioned(self, new: Reply) -> None:
        """The opening tag just passed opens nothing."""
        new.malformed.append(CALL)
        self.end_block()

    def end_block(self) -> None:
        self.part, self.blank, self.spoken, self.blocks = "content", "", False, True

    def say(self, text: str, new: Reply) -> None:
        """Text of the answer. White space waits for other text beside it."""
        self.blank += text
        if self.spoken or self.blank.strip(BLANK):
            new.content += self.blank
            self.blank, self.spoken = "", True

    def until(self, tags: tuple[str, ...]) -> tuple[str, str]:
        """Takes the text before the first tag, and the tag; without a tag, the text that can belong to none, and ""."""
        places = [(place, tag) for tag in tags if (place := self.held.find(tag)) >= 0]
        if places:
            place, tag = min(places)
            before, self.held = self.held[:place], self.held[place + len(tag):]
            return before, tag
        longest = max(map(len, tags), default=1) - 1
        sure = next((place for place in range(max(0, len(self.held) - longest), len(self.held))
                     if any(tag.startswith(self.held[place:]) for tag in tags)), len(self.held))
        before, self.held = self.held[:sure], self.held[sure:]
        return before, ""


def is_prose(text: str) -> bool:
    """Is what follows an opening tag no call, however it goes on?"""
    return text.lstrip(BLANK)[:1] not in ("", "<", "{")
