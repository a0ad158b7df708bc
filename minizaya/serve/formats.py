"""How a model is asked, and how it writes: what turns messages into a prompt, and text into a reply.

A format has `stop` (token ids that end an answer), `prompt`, `reader`, and what Markovian RSA needs: `reduce` and
`aggregator`. `ChatFormat` is for chat models, `TaskFormat` for the shipped reasoners.
"""

import json
from collections.abc import Sequence

from ..data import chat, tasks
from ..data.template import Template
from ..data.tokenizer import Tokenizer
from ..infer.calls import CALL, UNCALL, write_call
from ..infer.parse import Reader, Reply
from ..infer.rsa import Aggregate, delimited, in_words, last_tokens
from .checks import Wrong, brief
from .messages import calls_of

RESPONSE, UNRESPONSE = "<zyphra_tool_response>", "</zyphra_tool_response>"  # around a tool's answer
HOW_TO_CALL = f"To call one, write {CALL}\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n{UNCALL}"


class ChatFormat:
    """Turns with think tags and `zaya_xml` tool calls: what ZAYA1-8B writes, and vLLM serves.

    ends: further token ids that end an answer, from `data.template.end_tokens`. template: the checkpoint's own, from
    `data.template.beside`. Without one it is the ChatML of `data.chat`: tools are told in a system message, calls stand
    in the assistant's turn as it wrote them, a tool's answer between response tags, and the reasoning of earlier turns
    is left out. Think tags in an assistant's content are a block where they pair up, and plain text where they do not.
    trap: there the tool tags are plain text, also where a tokenizer has tokens for them.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template | None = None, ends: Sequence[int] = ()):
        _, _, im_end, _, self.unthink = chat.template_ids(tokenizer)
        self.tokenizer, self.template = tokenizer, template
        self.stop = tuple(dict.fromkeys((im_end, tokenizer.eos_id, *ends)))

    def prompt(self, messages: list[dict], tools: Sequence[dict] = (), options: dict | None = None) -> list[int]:
        """The conversation as tokens, with an opened reply. options: chat_template_kwargs.

        Raises `Wrong`, also for tools and calls that the template does not show, and ValueError for text that cannot be
        encoded.
        """
        self.check(options or {}, tools)
        if self.template:
            called = any("tool_calls" in said for said in messages)
            for part, field in [("tools", "tools")] * bool(tools) + [("tool_calls", "messages")] * called:
                if not self.template.shows(part, messages, tools, options):
                    raise Wrong(f"this model's chat template shows no {part}", field)
            return self.template.encode(messages, self.tokenizer, tools, options)
        return encode_plain(messages, tools, self.tokenizer).tokens

    def check(self, options: dict, tools: Sequence[dict] = ()) -> None:
        """trap: an option that no template reads would change nothing, and nobody would know."""
        if not isinstance(options.get("enable_thinking", True), bool):  # a template would take 0 or "no" its own way
            raise Wrong(f"enable_thinking must be true or false, got {brief(options['enable_thinking'])}",
                        "chat_template_kwargs")
        for name, value in options.items():
            known = self.template is not None and name in self.template.chosen(tools).options
            if not known and (name, value) != ("enable_thinking", True):
                raise Wrong(f"the chat template knows no {brief(name)} = {brief(value)}", "chat_template_kwargs")

    def thinks(self, prompt: list[int], options: dict) -> bool:
        """False when thinking is switched off: by an option, or a template that has closed the reply's think block.

        The last closing tag belongs to the reply where only white space follows it, or where the reply's turn has begun
        before it. trap: a template may mark turns in another way, and an earlier turn's block says nothing.
        """
        if not options.get("enable_thinking", True) or self.unthink not in prompt:
            return bool(options.get("enable_thinking", True))
        after = prompt[len(prompt) - prompt[::-1].index(self.unthink):]
        im_start = self.tokenizer.special_ids["<|im_start|>"]
        in_reply = im_start in prompt and im_start not in after
        return not in_reply and bool(self.tokenizer.decode(after).strip())

    def reader(self, thinking: bool = True, tools: Sequence[dict] = ()) -> Reader:
        return Reader(thinking, tools)

    def reduce(self, trace: list[int], tau: int) -> list[int]:
        """The last tau tokens of what a trace says, as plain text: its end would end the user's turn."""
        return self.tokenizer.encode(text_of(self, trace))[-tau:]

    def aggregator(self, messages: list[dict], tools: Sequence[dict] = (), options: dict | None = None) -> Aggregate:
        """(question, tails) -> prompt, for `markovian_rsa`: the tails stand at the end of the last user message.

        Raises `Wrong` for a conversation without one, ValueError as `prompt` does.
        """
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None:
            raise Wrong("rsa needs a user message", "messages")
        if self.template:
            before, after = self.template.around(messages, last, self.tokenizer, tools, options)
        else:
            whole = encode_plain(messages, tools, self.tokenizer)
            turn = last + bool(tools)
            _, im_end, *_ = [span for span in whole.spans if span.turn == turn and span.kind == "template"]
            end = im_end.start
            before, after = whole.tokens[:end], whole.tokens[end:]
        words = in_words(self.tokenizer)
        return lambda question, tails: [*words(before, tails), *after]


def encode_plain(messages: list[dict], tools: Sequence[dict], tokenizer: Tokenizer) -> chat.Chat:
    """Checked messages in the ChatML of `data.chat`, with an opened reply. Raises ValueError as `data.chat` does.

    trap: a model may write a second </think>, or <think> in its answer. The reader leaves them in the content, clients
    send that content back, and a refusal would end their conversation for good. So this is not strict.
    """
    return chat.encode(plain_messages(messages, tools), tokenizer, reply=True, strict=False)


def plain_messages(messages: list[dict], tools: Sequence[dict]) -> list[dict]:
    """Checked messages as `data.chat` takes them: role and content only."""
    found = []
    if tools:
        told = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        found.append({"role": "system", "content": f"You may call these functions:\n{told}\n{HOW_TO_CALL}"})
    for message in messages:
        calls = [write_call(call, tools or None) for call in calls_of(message)]
        said = message["content"].rstrip() if calls else message["content"]  # a call's line break is ours
        content = "\n".join(part for part in (said, *calls) if part)
        if message["role"] == "tool":
            content = f"{RESPONSE}\n{message['content']}\n{UNRESPONSE}"
        found.append({"role": message["role"], "content": content})
    return found


class TaskFormat:
    """The shipped reasoners' own notation: "#" ends the reasoning, "$" the answer.

    The last message's content is the problem. They know no conversations: earlier messages have no effect.
    """

    reduce = staticmethod(last_tokens)

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.stop = tuple(tokenizer.encode(tasks.END))

    def prompt(self, messages: list[dict], tools: Sequence[dict] = (), options: dict | None = None) -> list[int]:
        if tools:
            raise Wrong("this model knows no tools", "tools")
        if options and options != {"enable_thinking": True}:
            raise Wrong("this model has no chat template", "chat_template_kwargs")
        if not messages[-1]["content"]:
            raise Wrong("messages: the last one is empty", "messages")
        return self.tokenizer.encode(messages[-1]["content"])

    def thinks(self, prompt: list[int], options: dict) -> bool:
        return True

    def reader(self, thinking: bool = True, tools: Sequence[dict] = ()) -> "TaskReader":
        return TaskReader()

    def aggregator(self, messages: list[dict], tools: Sequence[dict] = (), options: dict | None = None) -> Aggregate:
        return delimited(self.tokenizer.encode("|"), self.tokenizer.encode("~"))


def as_it_stands(form: ChatFormat | TaskFormat) -> TaskFormat:
    """A model's raw form, for /completions: the text is the prompt, and the same tokens end an answer."""
    raw = TaskFormat(form.tokenizer)
    raw.stop = form.stop
    return raw


class TaskReader:
    """A stream of task notation, taken apart like `parse.Reader` does with think tags."""

    def __init__(self):
        self.answering = False

    def feed(self, chunk: str) -> Reply:
        if self.answering:
            return Reply(content=chunk.replace(tasks.END, ""))
        reasoning, cue, content = chunk.partition(tasks.CUE)
        self.answering = bool(cue)
        return Reply(reasoning=reasoning, content=content.replace(tasks.END, ""))

    def finish(self) -> Reply:
        return Reply()


# ---- from tokens to text ---------------------------------------------------------------------------------------------


def text_of(form: ChatFormat | TaskFormat, tokens: list[int]) -> str:
    """What an answer says: without its stop token, and with <unk> for an id that the tokenizer has no word for.

    trap: a model may have more rows than its tokenizer has tokens, and an untrained one writes them.
    """
    tokens = tokens[:-1] if tokens and tokens[-1] in form.stop else tokens
    tokenizer = form.tokenizer
    return tokenizer.decode([token if token < tokenizer.vocab_size else tokenizer.unk_id for token in tokens])


def read_text(form: ChatFormat | TaskFormat, text: str, thinking: bool = True, tools: Sequence[dict] = ()) -> Reply:
    """A whole answer taken apart. tools: those that the request offered."""
    reader = form.reader(thinking, tools)
    reply = reader.feed(text)
    reply.add(reader.finish())
    return reply
