"""Conversations as tokens: turns, reasoning blocks, and which tokens a model is trained on.

A conversation is a list of messages, {"role": "user", "content": "47+85?"}. The template is ChatML, as the released
model uses it; `<bos>`, `<|im_start|>`, `<|im_end|>`, `<think>` and `</think>` are one special token each:

    <bos><|im_start|>user
    47+85?<|im_end|>
    <|im_start|>assistant
    <think>7+5=12, 4+8+1=13</think>132<|im_end|>

In an assistant's content, `<think>...</think>` is a reasoning block. Everywhere else, special tokens that somebody
typed are plain characters: nobody can end a turn, or think in the assistant's place, by writing the tag.

Each piece is encoded on its own, so a border between two pieces is always a border between two tokens.
trap: a merging tokenizer may give other ids for the whole text at once, where a newline meets a newline.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .ids import token_ids
from .tokenizer_base import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
OPEN, CLOSE = "<think>", "</think>"
NEEDED = ("<bos>", "<|im_start|>", "<|im_end|>", OPEN, CLOSE)
TAGS = re.compile("(</?think>)")


class Span(NamedTuple):
    """Tokens start .. end - 1 of a conversation.

    kind: "template" (turn marks and think tags), "prompt" (what system, user or tool says), "reasoning" (the text
        between think tags, without them; may be empty), "answer" (the rest of what the assistant says).
    turn: the number of the message, from 0; -1 for <bos>, and the conversation's length for an opened reply.
    trained: is the model trained to write these tokens?
    """

    kind: str
    turn: int
    start: int
    end: int
    trained: bool


@dataclass(frozen=True)
class Chat:
    """An encoded conversation.

    tokens: list of int. spans: tuple of Span, in order, covering every token once.
    loss_mask: list of bool, one a token. True: the token is a target, to be predicted from those before it.
    """

    tokens: list[int]
    loss_mask: list[bool]
    spans: tuple[Span, ...]

    @property
    def blocks(self) -> list[Span]:
        """The reasoning spans. A block's tags stand right around it: at start - 1 and at end."""
        return [span for span in self.spans if span.kind == "reasoning"]


def encode(conversation: Sequence[dict], tokenizer: Tokenizer, reply: bool = False, strict: bool = True) -> Chat:
    """The conversation as tokens, with the template applied.

    Trained is what the assistant must write: its think tags, reasoning, answer, and the `<|im_end|>` that ends its
    turn. Not trained: prompts, `<|im_start|>assistant` and its newline, and the newline after a turn.

    Args:
        conversation: at least one message, a dict of exactly "role" (one of ROLES) and "content" (a str).
        reply: end with an opened assistant turn, ready for a model to go on.
        strict: False for what a model wrote, and is only read: an assistant's content whose think tags do not pair up
            is then plain text, tags and all. Training data with such tags is broken, so there it is an error.

    Raises ValueError for an empty conversation, a malformed message, an unknown role, think tags that do not pair up
    (if strict), a tokenizer that lacks a special token, and text that the tokenizer cannot write.
    """
    bos, im_start, im_end, think, unthink = template_ids(tokenizer)
    newline = tokenizer.encode("\n")
    tokens, loss_mask, spans = [], [], []

    def add(kind: str, turn: int, ids: list[int], trained: bool) -> None:
        if ids or kind == "reasoning":
            spans.append(Span(kind, turn, len(tokens), len(tokens) + len(ids), trained))
            tokens.extend(ids)
            loss_mask.extend([trained] * len(ids))

    add("template", -1, [bos], False)
    for turn, message in enumerate(_checked(conversation)):
        role, content = message["role"], message["content"]
        add("template", turn, [im_start, *tokenizer.encode(role + "\n")], False)
        if role != "assistant":
            add("prompt", turn, tokenizer.encode(content), False)
        else:
            for kind, text in _pieces(content, turn, strict):
                if kind == "reasoning":
                    add("template", turn, [think], True)
                    add("reasoning", turn, tokenizer.encode(text), True)
                    add("template", turn, [unthink], True)
                else:
                    add("answer", turn, tokenizer.encode(text), True)
        add("template", turn, [im_end], role == "assistant")
        add("template", turn, newline, False)
    if reply:
        add("template", len(conversation), [im_start, *tokenizer.encode("assistant\n")], False)
    return Chat(tokens, loss_mask, tuple(spans))


def read(tokens: Sequence[int], tokenizer: Tokenizer) -> list[dict]:
    """The conversation in `tokens`: the way back from `encode`, for whole turns.

    It is for looking at data. Raises ValueError for a turn without an end, and for what is no token id.
    """
    _, im_start, im_end, _, _ = template_ids(tokenizer)
    tokens = token_ids("tokens", tokens)
    conversation = []
    for start in (i for i, token in enumerate(tokens) if token == im_start):
        if im_end not in tokens[start:]:
            raise ValueError(f"tokens: the turn that starts at token {start} never ends")
        text = tokenizer.decode(tokens[start + 1: tokens.index(im_end, start)])
        role, _, content = text.partition("\n")
        conversation.append({"role": role, "content": content})
    return conversation


def template_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of <bos>, <|im_start|>, <|im_end|>, <think>, </think>. Raises ValueError if the tokenizer lacks one."""
    missing = [token for token in NEEDED if token not in tokenizer.special_ids]
    if missing:
        raise ValueError(f"tokenizer lacks the special tokens {missing}; the chat template needs {list(NEEDED)}")
    return [tokenizer.special_ids[token] for token in NEEDED]


def _pieces(content: str, turn: int, strict: bool) -> list[tuple[str, str]]:
    """An assistant's content as ("reasoning" | "answer", text), in order."""
    pieces, inside, wrong = [], False, ""
    for piece in TAGS.split(content):
        if piece == OPEN and inside:
            wrong = wrong or "<think> inside a block that is already open"
        if piece == CLOSE and not inside:
            wrong = wrong or "</think> without <think> before it"
        if piece in (OPEN, CLOSE):
            inside = piece == OPEN
        else:
            pieces.append(("reasoning" if inside else "answer", piece))
    if inside:
        wrong = wrong or "<think> without </think> after it"
    if wrong and strict:
        raise ValueError(f"conversation[{turn}]: {wrong}")
    return [("answer", content)] if wrong else pieces


def _checked(conversation: Sequence[dict]) -> Sequence[dict]:
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise ValueError(f"conversation must be a list of at least one message, got {conversation!r}")
    for turn, message in enumerate(conversation):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            got = sorted(map(str, message)) if isinstance(message, dict) else type(message).__name__
            raise ValueError(f"conversation[{turn}] must be a dict of 'role' and 'content', got {got}")
        if message["role"] not in ROLES:
            raise ValueError(f"conversation[{turn}]: role must be one of {ROLES}, got {message['role']!r}")
        if not isinstance(message["content"], str):
            raise ValueError(f"conversation[{turn}]: content must be a str, got {type(message['content']).__name__}")
    return conversation
