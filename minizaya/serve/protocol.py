"""OpenAI's chat-completions protocol: what a request may say, and what goes back. No sockets here; `server` has them.

Beside the standard fields a request may hold `min_p`, `chat_template_kwargs` (what the model's chat template reads),
and `rsa`: {"N", "C", "T", "beta", "tau", "final_n"}, or the name of a setting, "report" or "zyphra". Then Markovian RSA
answers: the reply is a trace of the last round, its vote's choice where there is one, and all rounds sample as the
request says, a named setting's, too. Reasoning comes back as `reasoning_content`, as vLLM's `qwen3` parser splits it,
and tool calls in their own field, typed as the request's tools say. A block that is no exact call comes back in
`malformed_tool_calls`, as the model wrote it.

The rule: a field is used, refused, or without effect, and nothing else; `messages` has the same for parts of a message.
`/completions` takes a `prompt`, one text, as it stands, and gives back the text that follows, taken apart by nobody.

A field that is null counts as absent. Some have no effect on an answer: `IGNORED`. Some would have one, and we lack it:
they may only say what happens anyway, `NEUTRAL`. All others are refused.

An answer that the limit cut off ends with "length", also where calls were complete before: more may have been on its
way. Only an answer that ended by itself ends with "tool_calls".
"""

import json
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from ..infer.calls import strict_json
from ..infer.parse import Reply, ToolCall
from ..infer.rsa import SETTINGS, Aggregate, Generator, RSAConfig, majority, markovian_rsa
from .checks import Wrong, brief, number, typed, whole
from .formats import ChatFormat, TaskFormat, read_text, text_of
from .messages import read_messages, read_tools

LIMITS = {"temperature": (0, 100, 1.0), "top_p": (1e-6, 1, 1.0), "min_p": (0, 1, 0.0)}  # least, most, default
IGNORED = {"model", "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}
NEUTRAL = {"frequency_penalty": (0, ), "presence_penalty": (0, ), "repetition_penalty": (1, ), "top_k": (-1, 0),
           "logit_bias": ({}, ), "logprobs": (False, ), "top_logprobs": (0, ), "response_format": ({"type": "text"}, ),
           "functions": ([], ), "function_call": ("auto", "none"), "modalities": (["text"], ), "min_tokens": (0, ),
           "ignore_eos": (False, )}
READ = {"messages", "max_tokens", "max_completion_tokens", "seed", "stop", "n", "stream", "stream_options", "tools",
        "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "rsa", *LIMITS}
OF_CHATS = {"messages", "max_completion_tokens", "stream", "stream_options", "tools", "tool_choice",
            "parallel_tool_calls", "chat_template_kwargs", "rsa"}
OF_COMPLETIONS = {"echo": (False, ), "best_of": (1, ), "suffix": ("", ), "logprobs": (False, 0), "stream": (False, )}


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
    thinking: bool = True                          # may the reply begin with reasoning?
    tools: list[dict] = field(default_factory=list)
    rsa: RSAConfig | None = None
    aggregate: Aggregate | None = None             # with rsa: how tails become a prompt


# ---- requests --------------------------------------------------------------------------------------------------------


def document(body: bytes) -> object:
    """A body as JSON. Raises `Wrong`, also for NaN, which is none, and for a key that stands twice."""
    try:
        return strict_json(body)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"the body is not JSON: {error}") from None


def present(given: dict) -> dict:
    """What is not null."""
    return {name: value for name, value in given.items() if value is not None}


def is_one_of(value: object, allowed: tuple) -> bool:
    """trap: to Python false is 0 and true is 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)


def read_request(document: object, form: ChatFormat | TaskFormat, size: int) -> Request:
    """Checks everything; `form` turns the messages into tokens, size is the longest text that there is room for.

    Without a seed it gets a random one: equal requests then have different answers. With `rsa` the budget of a trace is
    its beta, and a trace ends at the model's own end token: max_tokens and stop are refused.
    Raises `Wrong` naming the field.
    """
    if not isinstance(document, dict):
        raise Wrong("the body must be a JSON object")
    given = present(document)
    for name, value in given.items():
        if name not in READ | IGNORED and not is_one_of(value, NEUTRAL.get(name, ())):
            raise Wrong(f"{brief(name)} is not supported" + f", got {brief(value)}" * (name in NEUTRAL), name)
    try:
        return checked_request(given, form, size)
    except Wrong:
        raise
    except RecursionError:
        raise Wrong("the request is nested too deeply") from None
    except ValueError as error:
        raise Wrong(str(error), "messages") from None


def checked_request(given: dict, form: ChatFormat | TaskFormat, size: int) -> Request:
    """`read_request` without nulls and unknown fields. Raises `Wrong`; ValueError for text that cannot be a prompt."""
    messages, tools = read_messages(given), read_tools(given)
    options = present(typed(given, "chat_template_kwargs", dict, {}))
    prompt = form.prompt(messages, tools, options)
    limit = size - len(prompt)
    if limit < 1:
        raise Wrong(f"messages take {len(prompt)} tokens, the longest text is {size}", "messages")
    rooms = {whole(given, name, 1, None, limit) for name in ("max_tokens", "max_completion_tokens") if name in given}
    if len(rooms) > 1:
        raise Wrong("max_tokens and max_completion_tokens are two names of one thing, and differ", "max_tokens")
    room, = rooms or {limit}
    settings = {name: number(given, name, *limits) for name, limits in LIMITS.items()}
    request = Request(prompt, min(room, limit), whole(given, "n", 1, 16, 1), typed(given, "stream", bool, False),
                      usage_wanted(given), settings, whole(given, "seed", -2**63, 2**63 - 1, secrets.randbelow(2**53)),
                      stops(given), form.thinks(prompt, options), tools)
    if "rsa" in given:
        request.rsa = rsa_config(given["rsa"])
        request.aggregate = form.aggregator(messages, tools, options)
        check_rsa(given, request, size)
    return request


def read_completion(document: object, form: TaskFormat, size: int) -> Request:
    """`read_request` for /completions: a prompt as it stands, no stream. form: from `formats.as_it_stands`.

    The prompt may be a list of one text, as some clients send it. Raises `Wrong` naming the field.
    """
    if not isinstance(document, dict):
        raise Wrong("the body must be a JSON object")
    given = present(document)
    prompt = given.pop("prompt", None)
    prompt = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if not isinstance(prompt, str) or not prompt:
        raise Wrong(f"prompt must be a text, not an empty one, got {brief(prompt)}", "prompt")
    for name in sorted(set(given) & (OF_CHATS | set(OF_COMPLETIONS))):
        if not is_one_of(given.pop(name), OF_COMPLETIONS.get(name, ())):
            raise Wrong(f"{name} is not supported in /completions", name)
    try:
        return read_request(given | {"messages": [{"role": "user", "content": prompt}]}, form, size)
    except Wrong as error:
        if error.param != "messages":
            raise
        raise Wrong(f"prompt: {error}", "prompt") from None


def check_rsa(given: dict, request: Request, size: int) -> None:
    rsa = request.rsa
    if rsa.N > 64 or rsa.T > 32 or rsa.C * rsa.tau > size:
        raise Wrong(f"rsa: N may be at most 64, T at most 32, C times tau at most {size}", "rsa")
    longest = len(request.aggregate(request.prompt, [[0] * rsa.tau] * rsa.C)) + rsa.beta
    if longest > size:
        raise Wrong(f"rsa needs up to {longest} tokens of context, there are {size}", "rsa")
    if request.stream or request.n > 1:
        raise Wrong("rsa gives one answer, in one piece: no stream, n = 1", "rsa")
    for name in ("max_tokens", "max_completion_tokens", "stop"):
        if name in given:
            raise Wrong(f"{name} does not go with rsa: beta is the budget of a trace, and the model ends it", name)


def usage_wanted(given: dict) -> bool:
    """Does a stream end with the count of its tokens? include_obfuscation has no effect: there is no padding.

    Without a stream the options would have none, and are refused.
    """
    options = present(typed(given, "stream_options", dict, {}))
    if options and not given.get("stream"):
        raise Wrong("stream_options goes with stream = true", "stream_options")
    unknown = set(options) - {"include_usage", "include_obfuscation"}
    if unknown or not all(isinstance(value, bool) for value in options.values()):
        raise Wrong(f"stream_options may hold include_usage, true or false, got {brief(options)}", "stream_options")
    return options.get("include_usage", False)


def stops(given: dict) -> tuple[str, ...]:
    value = given.get("stop", ())
    value = (value, ) if isinstance(value, str) else value
    few = isinstance(value, (list, tuple)) and len(value) <= 4
    if not few or not all(isinstance(text, str) and text for text in value):
        raise Wrong("stop must be a text, or a list of at most four", "stop")
    return tuple(value)


def rsa_config(given: object) -> RSAConfig:
    if isinstance(given, str) and given in SETTINGS:
        return SETTINGS[given]
    if not isinstance(given, dict):
        names = " or ".join(SETTINGS)
        raise Wrong(f"rsa must be an object or the name of a setting, {names}, got {brief(given)}", "rsa")
    given = present(given)
    unknown = set(given) - {"N", "C", "T", "beta", "tau", "final_n"}
    if unknown:
        raise Wrong(f"rsa may hold N, C, T, beta, tau, final_n, got {brief(sorted(unknown))}", "rsa")
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
    if reply.malformed:
        message["malformed_tool_calls"] = reply.malformed
    if reply.calls:
        message["tool_calls"] = [call_of(i, call) for i, call in enumerate(reply.calls)]
    return message


def call_of(i: int, call: ToolCall) -> dict:
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "index": i,
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}}


def choice_of(i: int, reply: Reply, finish: str) -> dict:
    """Choice i of a whole answer."""
    return {"index": i, "message": message_of(reply), "logprobs": None,
            "finish_reason": reason(finish, bool(reply.calls))}


def reason(finish: str, calls: bool) -> str:
    """Why an answer ends, as a client hears it. finish: "stop" or "length"."""
    return "tool_calls" if calls and finish == "stop" else finish


def completion(name: str, choices: list[dict], usage: dict) -> dict:
    return {"id": new_id(), "object": "chat.completion", "created": int(time.time()), "model": name, "choices": choices,
            "usage": usage}


def text_completion(name: str, texts: list[tuple[str, str]], usage: dict) -> dict:
    """texts: (text, why it ends), one a choice."""
    choices = [{"index": i, "text": text, "logprobs": None, "finish_reason": finish}
               for i, (text, finish) in enumerate(texts)]
    return {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": name,
            "choices": choices, "usage": usage}


def chunks(name: str) -> Callable[..., dict]:
    """Makes the chunks of a stream, which share an id: chunk(i, delta, finish) of choice i, or chunk(usage=...)."""
    head = {"id": new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": name}

    def chunk(i: int = 0, delta: dict | None = None, finish: str | None = None, usage: dict | None = None) -> dict:
        if usage is not None:
            return head | {"choices": [], "usage": usage}
        return head | {"choices": [{"index": i, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    return chunk


def usage_of(prompt: int, written: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def error_of(message: str, kind: str, param: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def answer_by_rsa(request: Request, form: ChatFormat | TaskFormat, ask: Generator) -> tuple[Reply, str, int]:
    """Runs Markovian RSA. ask(prompts, room) -> traces. Returns (reply, why it ends: "stop" or "length", new tokens).

    The reply is a trace of the last round with the most frequent answer, or its first where none got to an answer.
    """
    result = markovian_rsa(ask, request.prompt, request.rsa, request.aggregate, request.seed, form.reduce)
    replies = [read_text(form, text_of(form, trace), request.thinking, request.tools) for trace in result.rounds[-1]]
    ended = [bool(trace) and trace[-1] in form.stop for trace in result.rounds[-1]]
    votes = [(reply.content, reply.calls) if done and (reply.content or reply.calls) else None
             for reply, done in zip(replies, ended)]
    best = votes.index(majority(votes))  # without any vote: the first
    return replies[best], "stop" if ended[best] else "length", result.generated_tokens
