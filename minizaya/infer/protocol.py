"""OpenAI's chat-completions protocol: what a request may say, and what goes back. No sockets here; `serve.py` has them.

Beside the standard fields a request may hold `min_p`, and `rsa`: {"N", "C", "T", "beta", "tau"}, which lets Markovian RSA
answer it: the reply is a trace of the last round, its vote's choice where there is one. Reasoning comes back as
`reasoning_content`, as vLLM's `qwen3` parser splits it, and tool calls in their own field.
"""

import json
import time
import uuid
from dataclasses import dataclass, field

from ..data import chat, tasks
from .parse import CALL, Reader, Reply, parse
from .rsa import RSAConfig, delimited, in_words, majority, markovian_rsa

LIMITS = {"temperature": (0, 100), "top_p": (1e-6, 1), "min_p": (0, 1)}
IGNORED = {"model", "user", "store", "metadata", "parallel_tool_calls", "tool_choice", "stream_options", "frequency_penalty",
           "presence_penalty", "service_tier", "reasoning_effort", "chat_template_kwargs"}
KNOWN = {"messages", "max_tokens", "max_completion_tokens", "seed", "stop", "n", "stream", "tools", "rsa", *LIMITS, *IGNORED}


class Wrong(ValueError):
    """A request that cannot be answered; `param` is the field to blame."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param


@dataclass
class Request:
    """A request that has been checked."""

    prompt: list[int]
    room: int
    n: int = 1
    stream: bool = False
    usage: bool = False
    settings: dict = field(default_factory=dict)   # temperature, top_p, min_p
    seed: int = 0
    stop: tuple[str, ...] = ()
    rsa: RSAConfig | None = None


# ---- how a model writes ----------------------------------------------------------------------------------------------


class ChatFormat:
    """ChatML with think tags and `zaya_xml` tool calls: what ZAYA1-8B writes, and vLLM serves."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.stop = (tokenizer.special_ids["<|im_end|>"], )
        self.aggregate = in_words(tokenizer)
        chat.template_ids(tokenizer)

    def prompt(self, messages: list[dict], tools: list[dict]) -> list[int]:
        """The conversation as tokens. Tools are told in a system message, as JSON, with the form of a call."""
        if tools:
            told = "You may call these functions:\n" + "\n".join(json.dumps(tool) for tool in tools)
            told += f"\nTo call one, write {CALL}\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</zyphra_tool_call>"
            messages = [{"role": "system", "content": told}, *messages]
        return chat.encode(messages, self.tokenizer, reply=True).tokens

    def reader(self) -> Reader:
        return Reader()

    def read(self, text: str) -> Reply:
        return parse(text)


class TaskFormat:
    """The shipped reasoners' own notation: the last message is the problem, "#" ends the reasoning, "$" the answer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.stop = tuple(tokenizer.encode(tasks.END))
        self.aggregate = delimited(tokenizer.encode("|"), tokenizer.encode("~"))

    def prompt(self, messages: list[dict], tools: list[dict]) -> list[int]:
        if tools:
            raise Wrong("this model knows no tools", "tools")
        if not messages[-1]["content"]:
            raise Wrong("messages: the last one is empty", "messages")
        return self.tokenizer.encode(messages[-1]["content"])

    def reader(self) -> "TaskReader":
        return TaskReader()

    def read(self, text: str) -> Reply:
        reader = TaskReader()
        reply = reader.feed(text)
        reply.add(reader.finish())
        return reply


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


# ---- requests --------------------------------------------------------------------------------------------------------


def read_request(document, form, size: int) -> Request:
    """Checks everything; `form` turns the messages into tokens, size is the longest text that there is room for.

    Raises `Wrong` naming the field.
    """
    if not isinstance(document, dict):
        raise Wrong("the body must be a JSON object")
    for name in document:
        if name not in KNOWN:
            raise Wrong(f"{name} is not supported", name)
    given = {name: value for name, value in document.items() if value is not None}
    messages = [checked_message(i, message) for i, message in enumerate(typed(given, "messages", list, []))]
    if not messages:
        raise Wrong("messages must hold at least one message", "messages")
    tools = typed(given, "tools", list, [])
    try:
        prompt = form.prompt(messages, tools)
    except Wrong:
        raise
    except ValueError as error:
        raise Wrong(str(error), "messages") from None
    settings = {name: number(given, name, *LIMITS[name], default) for name, default in (("temperature", 1.0), ("top_p", 1.0),
                                                                                       ("min_p", 0.0))}
    limit = size - len(prompt)
    if limit < 1:
        raise Wrong(f"messages take {len(prompt)} tokens, the longest text is {size}", "messages")
    name = "max_completion_tokens" if "max_completion_tokens" in given else "max_tokens"
    room = whole(given, name, 1, None, limit)
    request = Request(prompt, min(room, limit), whole(given, "n", 1, 16, 1), typed(given, "stream", bool, False),
                      bool(typed(given, "stream_options", dict, {}).get("include_usage")), settings,
                      whole(given, "seed", -2**63, 2**63 - 1, 0), stops(given))
    if "rsa" in given:
        request.rsa = rsa_config(typed(given, "rsa", dict, {}))
        if request.rsa.N > 64 or request.rsa.T > 32 or request.rsa.C * request.rsa.tau > size:
            raise Wrong(f"rsa: N may be at most 64, T at most 32, C times tau at most {size}", "rsa")
        longest = len(form.aggregate(prompt, [[0] * request.rsa.tau] * request.rsa.C)) + request.rsa.beta
        if longest > size:
            raise Wrong(f"rsa needs up to {longest} tokens of context, there are {size}", "rsa")
        if request.stream or request.n > 1:
            raise Wrong("rsa gives one answer, in one piece: no stream, n = 1", "rsa")
    return request


def checked_message(i: int, message) -> dict:
    """{"role", "content"} of one message. Content may be a list of text parts, as clients send it."""
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant", "tool"):
        raise Wrong(f"messages[{i}] must be an object with a role of system, user, assistant or tool", "messages")
    content = message.get("content") or ""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
            raise Wrong(f"messages[{i}]: content may only hold text parts", "messages")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Wrong(f"messages[{i}]: content must be text", "messages")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def typed(given: dict, name: str, kind, default):
    value = given.get(name, default)
    if not isinstance(value, kind):
        raise Wrong(f"{name} must be a {kind.__name__}, got {type(value).__name__}", name)
    return value


def number(given: dict, name: str, low: float, high: float, default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Wrong(f"{name} must be a number in {low}..{high}, got {value!r}", name)
    return float(value)


def whole(given: dict, name: str, low: int, high: int | None, default: int) -> int:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise Wrong(f"{name} must be an integer of at least {low}{f' and at most {high}' if high else ''}, got {value!r}", name)
    return value


def stops(given: dict) -> tuple[str, ...]:
    value = given.get("stop", ())
    value = (value, ) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or len(value) > 4 or not all(isinstance(text, str) and text for text in value):
        raise Wrong("stop must be a text, or a list of at most four", "stop")
    return tuple(value)


def rsa_config(given: dict) -> RSAConfig:
    unknown = set(given) - {"N", "C", "T", "beta", "tau"}
    if unknown:
        raise Wrong(f"rsa may hold N, C, T, beta, tau, got {sorted(unknown)}", "rsa")
    try:
        return RSAConfig(**given)
    except (ValueError, TypeError) as error:
        raise Wrong(f"rsa: {error}", "rsa") from None


# ---- answers ---------------------------------------------------------------------------------------------------------


def new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def message_of(reply: Reply) -> dict:
    """A reply as a message."""
    message = {"role": "assistant", "content": reply.content or None if reply.calls else reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [call_of(i, call) | {} for i, call in enumerate(reply.calls)]
    return message


def call_of(i: int, call) -> dict:
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "index": i,
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}


def completion(name: str, choices: list[dict], usage: dict) -> dict:
    return {"id": new_id(), "object": "chat.completion", "created": int(time.time()), "model": name, "choices": choices,
            "usage": usage}


def usage_of(prompt: int, written: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def error_of(message: str, kind: str, param: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def answer_by_rsa(request: Request, form, ask) -> tuple[str, str, int]:
    """Runs Markovian RSA. ask(prompts, room) -> traces. Returns (text, finish reason, new tokens).

    The text is a trace of the last round with the most frequent answer, or the first trace where none got to an answer.
    """
    result = markovian_rsa(ask, request.prompt, request.rsa, form.aggregate, request.seed)
    texts = [form.tokenizer.decode(trace) for trace in result.rounds[-1]]
    ended = [trace[-1] in form.stop for trace in result.rounds[-1]]
    answers = [form.read(text).content if done else None for text, done in zip(texts, ended)]
    best = answers.index(majority(answers)) if any(ended) else 0
    return texts[best], "stop" if ended[best] else "length", result.generated_tokens
