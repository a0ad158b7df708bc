"""What keeps the control tokens that a chat template writes apart from those that somebody typed.

The rule: a prompt's control tokens are those that the template wrote, letter for letter, and no others. It has three
ways to break, and each is closed:

- A message, a tool, an argument or an option spells one out. A mark cuts it in two before the template sees it, and the
  text is encoded from mark to mark. Only an assistant's think tags are left whole.
- The template itself makes one of what it is given: it takes a word out of `<|im/think_end|>`, makes `<BOS>` small, or
  puts two halves together. So it is asked twice, the second time with other letters where a control token may begin;
  where that changes the control tokens of its text, the conversation is refused.
- The tokenizer makes one, by normalising (NFKC turns other letters into <bos>). Then the tokens are not those that are
  written, and the conversation is refused.

What counts as a control token: the tokenizer's special ones by our names and its own, the tool tags, and any other
added token that the template's own text holds, whether the file calls it special or not.

trap: `'<|' + message.name + '|>'` is one that a template writes around what it is given. Nothing here sees it.
"""

import re
from collections.abc import Callable, Sequence

from ..chat import CLOSE, OPEN
from ..hf_tokenizer import HFTokenizer
from ..tokenizer_base import Tokenizer, any_of

# of Unicode's private use: no tokenizer needs them, and typed ones are dropped
MARK, HOLE, OTHER = "\U000f0000", "\U000f0001", "\U000f0002"
TOOL_TAGS = ("<zyphra_tool_call>", "</zyphra_tool_call>", "<zyphra_tool_response>", "</zyphra_tool_response>")


class Marks:
    """The marks of one tokenizer and one template. source: the text that the template writes by itself.

    names: set of str, the control tokens; tags: matches any of them, the longest first; ids: theirs.
    """

    def __init__(self, tokenizer: Tokenizer, source: str = ""):
        self.tokenizer = tokenizer
        self.names, self.ids = {*tokenizer.special_ids, *TOOL_TAGS}, set(tokenizer.text_of)
        if isinstance(tokenizer, HFTokenizer):
            added = [token.content for token in tokenizer.inner.get_added_tokens_decoder().values()]
            self.names |= {tokenizer.inner.id_to_token(i) for i in tokenizer.text_of}
            self.names |= {name for name in added if name in source and not name.isspace()}  # Gemma has one for "\n"
            self.ids |= {tokenizer.inner.token_to_id(name) for name in self.names} - {None}
        self.tags = any_of(self.names)
        # where one may begin: letters stay, for words mean something to a template
        edges = {next((c for c in name if not (c.isalnum() or c.isspace() or c == "_")), "") for name in self.names}
        self.edges = any_of({OPEN, CLOSE, *edges} - {""})

    def put(self, value: object, spared: Sequence[str] = ()) -> object:
        """A JSON value whose strings have a mark in every control token but the spared.

        Raises ValueError for a control token of one letter, which cannot be cut.
        """
        def cut(tag: re.Match) -> str:
            if len(tag[0]) == 1:
                raise ValueError(f"text: the file has no way to write {tag[0]!r} but as a control token")
            return tag[0] if tag[0] in spared else tag[0][0] + MARK + tag[0][1:]

        return each_text(value, lambda text: self.tags.sub(cut, re.sub(f"[{MARK}{HOLE}{OTHER}]", "", text)))

    def put_in_messages(self, messages: Sequence[dict]) -> list[dict]:
        return [self.put(message) | {"content": self.put(message["content"], (OPEN, CLOSE))}
                if message["role"] == "assistant" else self.put(message) for message in messages]

    def check(self, text: str, render: Callable[[list], str], given: list) -> None:
        """Raises ValueError where the template made control tokens of what it was given.

        text: what `render` writes of the marked values in `given`.
        """
        other = each_text(given, lambda text: self.edges.sub(
            lambda edge: edge[0] if edge[0] in (OPEN, CLOSE) else OTHER, text))
        if other != given and self.written(render(other)) != self.written(text):
            raise ValueError("the chat template makes a control token of a part of what the conversation says")

    def written(self, text: str) -> list[str]:
        """The control tokens in a text that was rendered."""
        return [tag for piece in text.split(MARK) for tag in self.tags.findall(piece)]

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered text; its control tokens are tokens, those with a mark are not.

        Raises ValueError where the tokenizer reads others.
        """
        if isinstance(self.tokenizer, HFTokenizer):  # its `encode` knows our special tokens only, and not the tool tags
            return [i for piece in text.split(MARK) for i in self.tokenizer.encode_written(piece, self.tags, self.ids)]
        return [i for piece in text.split(MARK) for i in self.tokenizer.encode(piece, allow_special=True)]


def each_text(value: object, change: Callable[[str], str]) -> object:
    """A JSON value with each text changed, names of fields, too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {each_text(name, change): each_text(inner, change) for name, inner in value.items()}
    return [each_text(inner, change) for inner in value] if isinstance(value, (list, tuple)) else value
