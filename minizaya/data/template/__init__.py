"""A checkpoint's own chat template: the Jinja text that makes of a conversation the text that its model was trained on.

    template = beside("ZAYA1-8B")                     # None when the folder has no template
    ids = template.encode(messages, tokenizer)        # ends with an opened assistant turn

Folders keep it in chat_template.jinja, or as "chat_template" in tokenizer_config.json, and others, by name, beside it.
It sees what `transformers` shows it: messages, tools, documents, add_generation_prompt, the special tokens that
tokenizer_config.json names (bos_token, eos_token, pad_token, ...), and options such as enable_thinking.

trap: a template is a program, written by whoever made the checkpoint. It runs in a `room` where it reaches no file, no
module and no attribute that begins with an underscore, and is refused when it would fill the memory or run for ever.

trap: the text begins with <bos> already. A tokenizer that adds its own special tokens would write a second one, and
Gemma's would add <eos>, which ends the answer before it begins. So nothing is added.

As in `data.chat`, a control token that a message, a tool, an argument or an option spells out stays plain text; `marks`
says how. Only an assistant's think tags are left whole. In `transformers`' `apply_chat_template` that is a switch, off
unless asked for, which looks at no names of arguments and no template that puts tokens together; so this is ours.
"""

import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from ..tokenizer_base import Tokenizer
from .marks import HOLE, Marks
from .room import Room, metered

LONGEST = 2**20                          # characters of a template
GIVEN = {"messages", "tools", "add_generation_prompt"}
SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


class Template:
    """A compiled template. options: set of str, the further variables that it reads.

    bos, eos: how the checkpoint's tokenizer writes these tokens; None: it has none. others: further special tokens, as
    {"pad_token": "<pad>"}. with_tools: the template for conversations with tools, where a folder has one of its own.
    Raises ValueError for text that is not Jinja or longer than `LONGEST`, and for a jinja2 older than 3.1.6, whose
    sandbox has known holes.
    """

    def __init__(self, text: str, bos: str | None = "<bos>", eos: str | None = "<eos>",
                 others: dict[str, str] | None = None, with_tools: "Template | None" = None):
        if tuple(map(int, re.findall(r"\d+", version("jinja2"))[:3])) < (3, 1, 6):
            raise ValueError(f"a chat template needs jinja2 3.1.6 or newer, here is {version('jinja2')}: "
                             f"pip install -U jinja2")
        room = Room()
        named = (others or {}) | {"bos_token": bos, "eos_token": eos}
        self.special = {name: token for name, token in named.items() if token is not None}
        self.with_tools = with_tools
        try:
            if len(text) > LONGEST:
                raise jinja2.TemplateError(f"it has {len(text)} characters, at most {LONGEST} may be")
            tree = room.parse(text)
            self.options = find_undeclared_variables(tree) - set(room.globals) - GIVEN - {*SPECIAL, *self.special}
            self.source = "\n".join(literals(tree))
            self.compiled = room.from_string(text)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError(f"the chat template is no Jinja: {said(error)}") from None

    def chosen(self, tools: Sequence[dict]) -> "Template":
        """The one for a conversation with these tools, or with none."""
        return self.with_tools if tools and self.with_tools else self

    def render(self, messages: Sequence[dict], tools: Sequence[dict] = (), options: dict | None = None) -> str:
        """The conversation as text, with an opened assistant turn. Raises ValueError where the template raises, and
        where it would make more, or take more steps, than `room` allows."""
        try:
            return metered(self.chosen(tools).compiled, dict(
                messages=[named_thoughts(message) for message in messages], tools=list(tools) or None,
                add_generation_prompt=True, **self.special, **{"documents": None} | (options or {})))
        except Exception as error:  # it is a program: it may divide by zero
            raise ValueError(f"the chat template refuses this conversation: {said(error)}") from None

    def encode(self, messages: Sequence[dict], tokenizer: Tokenizer, tools: Sequence[dict] = (),
               options: dict | None = None) -> list[int]:
        """The conversation as tokens, with an opened assistant turn.

        Args:
            messages: dicts of "role" and "content" (a str); an assistant's may hold "reasoning_content" and
                "tool_calls", a tool's "tool_call_id", all in OpenAI's form, but a call's arguments are a dict.
            tokenizer: an `HFTokenizer`, or one of `data.tokenizer`. tools: as OpenAI has them. options: see `options`.
        Raises ValueError as `render`, `marks` and the tokenizer do, and when nothing comes out.
        """
        marks, text = self.marked(messages, tokenizer, tools, options)
        ids = marks.encode(text)
        if not ids:
            raise ValueError("the chat template makes an empty prompt of this conversation")
        return ids

    def around(self, messages: Sequence[dict], turn: int, tokenizer: Tokenizer, tools: Sequence[dict] = (),
               options: dict | None = None) -> tuple[list[int], list[int]]:
        """`encode` in two parts: up to the end of what message `turn` says, and from there on.

        Raises ValueError as `encode` does, and for a template that shows this message never or more than once.
        """
        marks, text = self.marked(messages, tokenizer, tools, options, turn)
        parts = text.split(HOLE)
        if len(parts) != 2:
            raise ValueError(f"the chat template shows messages[{turn}] {len(parts) - 1} times")
        return marks.encode(parts[0]), marks.encode(parts[1])

    def marked(self, messages: Sequence[dict], tokenizer: Tokenizer, tools: Sequence[dict], options: dict | None,
               hole: int | None = None) -> tuple[Marks, str]:
        """The text with marks, and a hole behind what message `hole` says. Raises ValueError as `render`, `marks`."""
        marks = Marks(tokenizer, self.chosen(tools).source)
        given = [marks.put_in_messages(messages), marks.put(list(tools)), marks.put(options or {})]
        if hole is not None:
            given[0][hole] |= {"content": given[0][hole]["content"] + HOLE}
        text = self.render(*given)
        marks.check(text, lambda changed: self.render(*changed), given)
        return marks, text

    def shows(self, part: str, messages: Sequence[dict], tools: Sequence[dict] = (),
              options: dict | None = None) -> bool:
        """Does this part, "tools" or the "tool_calls" of messages, change the text? Where not, it would be lost."""
        without = [{name: value for name, value in message.items() if name != part} for message in messages]
        try:
            return self.render(messages, tools, options) != self.chosen(tools).render(
                without, () if part == "tools" else tools, options)
        except ValueError:  # it looks at it
            return True


def beside(folder: str | Path) -> Template | None:
    """The template in a checkpoint's folder; None without one. Raises ValueError for one that cannot be read.

    Files win over tokenizer_config.json. Of several, by name, it is "default", and "tool_use" for conversations with
    tools, as in `transformers`; without a default it raises. A special token that is null is none; bos_token and
    eos_token that are not there are <bos> and <eos>.
    """
    folder = Path(folder)
    config = folder / "tokenizer_config.json"
    try:
        settings = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        files = {file.stem: file for file in (folder / "additional_chat_templates").glob("*.jinja")}
        files["default"] = folder / "chat_template.jinja"
        texts = {name: file.read_text("utf-8") for name, file in files.items() if file.is_file()}
        if not texts and (given := settings.get("chat_template")) is not None:
            several = isinstance(given, list)
            texts = {each["name"]: each["template"] for each in given} if several else {"default": given}
        special = {"bos_token": "<bos>", "eos_token": "<eos>"} | {n: settings[n] for n in SPECIAL if n in settings}
        special = {name: token["content"] if isinstance(token, dict) else token for name, token in special.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the chat template in {folder} cannot be read: {said(error)}") from None
    if not texts:
        return None
    if "default" not in texts:
        raise ValueError(f"the chat templates in {folder} are {sorted(texts)}, and none of them is the default")
    for name, text in [*texts.items(), *((name, token) for name, token in special.items() if token is not None)]:
        if not isinstance(text, str):
            what = name if name in SPECIAL else "chat template"
            raise ValueError(f"the {what} in {folder} must be text, got {type(text).__name__}")
    bos, eos = special.pop("bos_token"), special.pop("eos_token")
    with_tools = Template(texts["tool_use"], bos, eos, special) if "tool_use" in texts else None
    return Template(texts["default"], bos, eos, special, with_tools)


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


# ---- what a template is shown, and what it says of itself ------------------------------------------------------------


def named_thoughts(message: dict) -> dict:
    """A message with its reasoning as "thinking", too, which some templates read."""
    thought = message.get("reasoning_content")
    return message if thought is None else {"thinking": thought} | message


def literals(tree: nodes.Template) -> list[str]:
    """The texts that stand in a template."""
    constants = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return constants + [node.data for node in tree.find_all(nodes.TemplateData)]


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
