"""A checkpoint's own chat template: the Jinja text that makes of a conversation the text that its model was trained on.

    template = beside("ZAYA1-8B")                     # None when the folder has no template
    ids = template.encode(messages, tokenizer)        # ends with an opened assistant turn

Folders keep it in chat_template.jinja, or as "chat_template" in tokenizer_config.json. It sees what `transformers`
shows it: messages, tools, add_generation_prompt, bos_token, eos_token, and options such as enable_thinking.

trap: a template is a program, written by whoever made the checkpoint. It runs in a `room` where it reaches no file, no
module and no attribute that begins with an underscore, and is refused when it would fill the memory or run for ever.

trap: the text begins with <bos> already. A tokenizer that adds its own special tokens would write a second one, and
Gemma's would add <eos>, which ends the answer before it begins. So nothing is added.

As in `data.chat`, a control token that a message, a tool or an argument spells out stays plain text: a mark cuts it in
two before the template sees it, and text is encoded from mark to mark. Only an assistant's think tags are left whole.
The rule for what comes out: its control tokens are those that the template wrote, letter for letter, and no others. A
tokenizer may make more of them, by normalising (NFKC turns other letters into <bos>): such a text is refused.
`transformers` has `apply_chat_template`, which lets what a user types become a control token; so this is ours.
"""

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2
from jinja2.meta import find_undeclared_variables

from ..chat import CLOSE, OPEN
from ..hf_tokenizer import HFTokenizer
from ..tokenizer_base import Tokenizer, any_of
from .room import Room, metered

MARK, HOLE = "\U000f0000", "\U000f0001"  # of Unicode's private use: no tokenizer needs them, and typed ones are dropped
TOOL_TAGS = ("<zyphra_tool_call>", "</zyphra_tool_call>", "<zyphra_tool_response>", "</zyphra_tool_response>")
LONGEST = 2**20                          # characters of a template
GIVEN = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}


class Template:
    """A compiled template. options: set of str, the further variables that it reads.

    bos, eos: how the checkpoint's tokenizer writes these tokens. Raises ValueError for text that is not Jinja or longer
    than `LONGEST`, and for a jinja2 older than 3.1.6, whose sandbox has known holes.
    """

    def __init__(self, text: str, bos: str = "<bos>", eos: str = "<eos>"):
        if tuple(map(int, re.findall(r"\d+", version("jinja2"))[:3])) < (3, 1, 6):
            raise ValueError(f"a chat template needs jinja2 3.1.6 or newer, here is {version('jinja2')}: "
                             f"pip install -U jinja2")
        room = Room()
        self.bos, self.eos = bos, eos
        try:
            if len(text) > LONGEST:
                raise jinja2.TemplateError(f"it has {len(text)} characters, at most {LONGEST} may be")
            self.options = find_undeclared_variables(room.parse(text)) - set(room.globals) - GIVEN
            self.compiled = room.from_string(text)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError(f"the chat template is no Jinja: {said(error)}") from None

    def render(self, messages: Sequence[dict], tools: Sequence[dict] = (), options: dict | None = None) -> str:
        """The conversation as text, with an opened assistant turn. Raises ValueError where the template raises, and
        where it would make more, or take more steps, than `room` allows."""
        try:
            return metered(self.compiled, dict(messages=list(messages), tools=list(tools) or None, bos_token=self.bos,
                                               eos_token=self.eos, add_generation_prompt=True, **(options or {})))
        except Exception as error:  # it is a program: it may divide by zero
            raise ValueError(f"the chat template refuses this conversation: {said(error)}") from None

    def encode(self, messages: Sequence[dict], tokenizer: Tokenizer, tools: Sequence[dict] = (),
               options: dict | None = None) -> list[int]:
        """The conversation as tokens, with an opened assistant turn.

        Args:
            messages: dicts of "role" and "content" (a str); an assistant's may hold "reasoning_content" and
                "tool_calls", a tool's "tool_call_id", all in OpenAI's form, but a call's arguments are a dict.
            tokenizer: an `HFTokenizer`, or one of `data.tokenizer`. tools: as OpenAI has them. options: see `options`.
        Raises ValueError as `render` and the tokenizer do, and when nothing comes out.
        """
        tags = control_tokens(tokenizer)
        ids = encode_marked(self.render(marked_messages(messages, tags), marked(list(tools), tags), options), tokenizer)
        if not ids:
            raise ValueError("the chat template makes an empty prompt of this conversation")
        return ids

    def around(self, messages: Sequence[dict], turn: int, tokenizer: Tokenizer, tools: Sequence[dict] = (),
               options: dict | None = None) -> tuple[list[int], list[int]]:
        """`encode` in two parts: up to the end of what message `turn` says, and from there on.

        Raises ValueError as `encode` does, and for a template that shows this message never or more than once.
        """
        tags = control_tokens(tokenizer)
        shown = marked_messages(messages, tags)
        shown[turn] |= {"content": shown[turn]["content"] + HOLE}
        parts = self.render(shown, marked(list(tools), tags), options).split(HOLE)
        if len(parts) != 2:
            raise ValueError(f"the chat template shows messages[{turn}] {len(parts) - 1} times")
        return encode_marked(parts[0], tokenizer), encode_marked(parts[1], tokenizer)


def beside(folder: str | Path) -> Template | None:
    """The template in a checkpoint's folder; None without one. Raises ValueError for one that cannot be read."""
    file, config = Path(folder) / "chat_template.jinja", Path(folder) / "tokenizer_config.json"
    try:
        settings = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        text = file.read_text("utf-8") if file.is_file() else settings.get("chat_template")
        if isinstance(text, list):  # several, by name
            text = {entry["name"]: entry["template"] for entry in text}.get("default")
        names = [settings.get(f"{name}_token") or f"<{name}>" for name in ("bos", "eos")]
        bos, eos = (name["content"] if isinstance(name, dict) else name for name in names)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the chat template in {folder} cannot be read: {said(error)}") from None
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(f"the chat template in {folder} must be text, got {type(text).__name__}")
    return Template(text, bos, eos)


def end_tokens(folder: str | Path, vocabulary: int) -> tuple[int, ...]:
    """The ids that end an answer: all that config.json and generation_config.json name; () where they name none.

    A file may give one id, a list, or null. An id beyond a vocabulary of this size is left out: no model of that size
    writes it. Raises ValueError for a file that cannot be read, and for what is no id.
    """
    found = []
    for file in (Path(folder) / "config.json", Path(folder) / "generation_config.json"):
        try:
            ends = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.is_file() else None
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} cannot be read: {said(error)}") from None
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        for end in ends:
            if not isinstance(end, int) or isinstance(end, bool) or end < 0:
                raise ValueError(f"{file}: eos_token_id must be an id, a list of ids, or null, got {end!r:.80}")
        found += [end for end in ends if end < vocabulary]
    return tuple(dict.fromkeys(found))


# ---- from text to tokens ---------------------------------------------------------------------------------------------


def control_tokens(tokenizer: Tokenizer) -> re.Pattern:
    """Matches whatever the tokenizer would read as a control token, by our name or its own, the longest first."""
    names = {*tokenizer.special_ids, *TOOL_TAGS}
    if isinstance(tokenizer, HFTokenizer):
        names |= {tokenizer.inner.id_to_token(i) for i in tokenizer.text_of}
    return any_of(names)


def marked(value: object, tags: re.Pattern, spared: Sequence[str] = ()) -> object:
    """A JSON value whose strings have a mark in every control token but the spared."""
    if isinstance(value, str):
        value = value.replace(MARK, "").replace(HOLE, "")
        return tags.sub(lambda tag: tag[0] if tag[0] in spared else tag[0][0] + MARK + tag[0][1:], value)
    if isinstance(value, dict):
        return {marked(name, tags): marked(inner, tags) for name, inner in value.items()}
    return [marked(inner, tags) for inner in value] if isinstance(value, list) else value


def marked_messages(messages: Sequence[dict], tags: re.Pattern) -> list[dict]:
    return [marked(message, tags) | {"content": marked(message["content"], tags, (OPEN, CLOSE))}
            if message["role"] == "assistant" else marked(message, tags) for message in messages]


def encode_marked(text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokens of a rendered text; its control tokens are tokens, those with a mark are not."""
    if isinstance(tokenizer, HFTokenizer):  # its `encode` knows our special tokens only, and not the tool tags
        tags = control_tokens(tokenizer)
        return [i for piece in text.split(MARK) for i in tokenizer.encode_written(piece, tags)]
    return [i for piece in text.split(MARK) for i in tokenizer.encode(piece, allow_special=True)]


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
