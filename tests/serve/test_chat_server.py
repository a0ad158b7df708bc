"""A chat model behind the server: its end token, reasoning, tools, its own template, and Markovian RSA in turns.

The engine's place is taken by `Scripted`, which writes what a test says, so that all of the reply is known.
"""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chat_tools import CHATML, events, post, texts
from minizaya.data import chat as chats
from minizaya.data.template import Template, end_tokens
from minizaya.data.tokenizer import ByteTokenizer
from minizaya.hub.weights import StandIn
from minizaya.infer.parse import CALL, UNCALL, parse
from minizaya.infer.rsa import SETTINGS, RSAConfig
from minizaya.serve.checks import Wrong
from minizaya.serve.formats import ChatFormat, text_of
from minizaya.serve.messages import read_messages
from minizaya.serve.protocol import Request, answer_by_rsa, document, message_of, read_request
from minizaya.serve.server import Server
from minizaya.serve.telling import Telling

openai = pytest.importorskip("openai")

TOKENIZER = ByteTokenizer()
BOS, IM_END = TOKENIZER.bos_id, TOKENIZER.special_ids["<|im_end|>"]
USER, PART = [{"role": "user", "content": "17 + abc"}], {"type": "text"}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}}}}]
WRITTEN = ("<think>sum them</think>Calling.\n<zyphra_tool_call>\n<function=add>\n<parameter=x>\n17\n</parameter>\n"
           "<parameter=y>\nabc\n</parameter>\n</function>\n</zyphra_tool_call>")


class Scripted:
    """A service that answers with fixed texts, one after the other and again, and keeps what it was asked."""

    def __init__(self, *texts, ended=True):
        self.answers = [[*TOKENIZER.encode(text, allow_special=True), *[IM_END] * ended] for text in texts]
        self.finish, self.prompts, self.seeds = "stop" if ended else "length", [], []
        self.engine = type("Sized", (), {"size": 4000})()

    def start(self):
        pass

    close = start

    def ask(self, prompt, room, **settings):
        answer = ScriptedAnswer(self.answers[len(self.prompts) % len(self.answers)][:room], self.finish)
        self.prompts.append(TOKENIZER.decode(prompt))
        self.seeds.append(settings["seed"])
        return answer


class ScriptedAnswer:
    def __init__(self, tokens, finish):
        self.tokens, self.finish = tokens, finish

    def read(self, watch=None):
        return iter(self.tokens)

    def cancel(self):
        pass


def serving(service, template=None, tokenizer=TOKENIZER):
    return Server(service, ChatFormat(tokenizer, template), "chat")


def chat(server, **fields):
    """A whole answer's choice."""
    status, document = post(server, json.dumps({"messages": USER} | fields))
    assert status == 200, document
    return document["choices"][0] | {"usage": document["usage"]}


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_the_end_token_is_not_shown():
    """It counts as a token and is no text: in whole answers, streams and Markovian RSA."""
    written = "<think>hm</think>It is 42."
    count = len(TOKENIZER.encode(written, allow_special=True)) + 1
    with serving(Scripted(written)) as server:
        whole = chat(server)
        *chunks, usage, done = events(server, json.dumps({"messages": USER, "stream": True,
                                                          "stream_options": {"include_usage": True}}))
        rsa = chat(server, rsa={"N": 3, "C": 2, "T": 1, "beta": 100, "tau": 50})
    assert whole["message"]["content"] == "It is 42." == rsa["message"]["content"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "It is 42."
    assert whole["usage"]["completion_tokens"] == count == usage["usage"]["completion_tokens"]
    assert whole["finish_reason"] == rsa["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert rsa["usage"]["completion_tokens"] == 6 * count and done == "[DONE]"


def test_reasoning_and_tool_calls():
    with serving(Scripted(WRITTEN)) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        parts = [{"type": "text", "text": "17 + abc"}]
        fields = dict(model="chat", messages=[{"role": "user", "content": parts}], tools=TOOLS)
        choice, = client.chat.completions.create(**fields).choices
        chunks = list(client.chat.completions.create(**fields, stream=True))
        rsa = chat(server, tools=TOOLS, rsa={"N": 2, "C": 1, "T": 1, "beta": 300, "tau": 20})
    assert choice.finish_reason == "tool_calls" and choice.message.model_extra["reasoning_content"] == "sum them"
    call, = choice.message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments) == {"x": 17, "y": "abc"}
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert "".join(d.content or "" for d in deltas) == "Calling.\n"
    assert [json.loads(t.function.arguments) for d in deltas for t in d.tool_calls or []] == [{"x": 17, "y": "abc"}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls" == rsa["finish_reason"]


def test_calls_are_numbered_from_zero():
    """A client puts the pieces of a stream together by these numbers."""
    with serving(Scripted(WRITTEN + "\n" + WRITTEN.partition("\n")[2].replace("17", "18"))) as server:
        fields = {"messages": USER, "tools": TOOLS}
        whole = chat(server, tools=TOOLS)
        *chunks, done = events(server, json.dumps(fields | {"stream": True}))
    streamed = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    for calls in (whole["message"]["tool_calls"], streamed):
        assert [call["index"] for call in calls] == [0, 1] and len({call["id"] for call in calls}) == 2
        assert [json.loads(call["function"]["arguments"])["x"] for call in calls] == [17, 18]


def test_choices_of_neighbouring_seeds_have_chances_of_their_own():
    service = Scripted("hi")
    with serving(service) as server:
        for seed in range(3):
            post(server, json.dumps({"messages": USER, "seed": seed, "n": 4}))
    assert len(set(service.seeds)) == len(service.seeds) == 12


def test_borders_of_a_request():
    """The largest that is allowed, and one more."""
    form = ChatFormat(TOKENIZER)

    def read(size=4000, **fields):
        return read_request({"messages": USER} | fields, form, size)

    def refused(says, *size, **fields):
        with pytest.raises(Wrong, match=says):
            read(*size, **fields)

    length = len(form.prompt(USER))
    assert read(length + 1).room == 1 and read(length + 7, max_tokens=9).room == read(length + 7).room == 7
    refused(f"messages take {length} tokens, the longest text is {length}", length)
    assert read(stop=["a", "b", "c", "d"]).stop == ("a", "b", "c", "d")
    refused("at most four", stop=["a", "b", "c", "d", "e"])
    rsa = {"N": 64, "C": 2, "T": 32, "beta": 9, "tau": 5}
    longest = len(form.aggregator(USER)(form.prompt(USER), [[0] * 5] * 2)) + 9
    assert read(longest, rsa=rsa).rsa.N == 64
    refused(f"needs up to {longest} tokens of context", longest - 1, rsa=rsa)
    for more in ({"N": 65}, {"T": 33}):
        refused("N may be at most 64, T at most 32", rsa=rsa | more)


@pytest.mark.parametrize("fields, says", [
    ({"max_tokens": 5, "max_completion_tokens": 9}, "max_tokens and max_completion_tokens are two names of one thing"),
    ({"top_k": False}, "'top_k' is not supported, got False"),
    ({"presence_penalty": False}, "'presence_penalty' is not supported, got False"),
    ({"logprobs": 0}, "'logprobs' is not supported, got 0"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": ["x"]}}}]},
     r"tools\[0\].function.parameters.properties must be an object of schemas"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": "integer"}}}}]},
     "must be an object of schemas, got {'x': 'integer'}"),
])
def test_nothing_in_a_request_is_guessed(fields, says):
    """Of two values for one thing neither is taken, nor false for a number or 0 for false, nor what is no schema."""
    form = ChatFormat(TOKENIZER)
    with pytest.raises(Wrong, match=says):
        read_request({"messages": USER} | fields, form, 4000)
    assert read_request({"messages": USER, "max_tokens": 5, "max_completion_tokens": 5}, form, 4000).room == 5
    assert read_request({"messages": USER, "top_k": 0, "logprobs": False, "ignore_eos": False}, form, 4000).n == 1
    schemas = {"x": {}, "y": True}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": schemas}}}
    assert read_request({"messages": USER, "tools": [tool]}, form, 4000).tools == [tool]


def test_what_a_message_may_leave_out():
    """A developer is a system; a call without arguments has none, however a client writes that."""
    assert read_messages({"messages": [{"role": "developer", "content": "x"}]}) == [{"role": "system", "content": "x"}]
    for none in ({}, {"arguments": ""}, {"arguments": None}, {"arguments": "{}"}, {"arguments": {}}):
        call = {"id": "a", "type": "function", "function": {"name": "f"} | none}
        message, = read_messages({"messages": [{"role": "assistant", "tool_calls": [call]}]})
        assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_ids_beyond_the_tokenizer():
    """A model may have more rows than its tokenizer has tokens."""
    service = Scripted("<think></think>yes")
    service.answers[0][-2:] = [5000, IM_END]
    with serving(service) as server:
        assert chat(server)["message"]["content"] == "ye<unk>"
        *chunks, done = events(server, json.dumps({"messages": USER, "stream": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "ye<unk>"
    assert done == "[DONE]"
    with serving(service, tokenizer=StandIn(6000)) as server:
        assert chat(server)["message"]["content"] == "ye[5000]"


def test_an_answer_that_was_cut_off():
    with serving(Scripted("<think>hm</think>It is 4", ended=False)) as server:
        choice = chat(server)
    assert choice["message"]["content"] == "It is 4" and choice["finish_reason"] == "length"


# ---- what the model is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, Template(CHATML)], ids=["ChatML", "template"])
def test_a_conversation_with_tools(template):
    """The client sends back what it got, and the tool's answer: the model sees its own call, and the answer in tags."""
    service = Scripted(WRITTEN)
    with serving(service, template) as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        message = client.chat.completions.create(model="chat", messages=USER, tools=TOOLS).choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "no number"}
        client.chat.completions.create(model="chat", messages=[*USER, message.model_dump(), result], tools=TOOLS)
        client.chat.completions.create(model="chat", messages=USER, tools=TOOLS, tool_choice="none")
    first, second, without = service.prompts
    assert '"name": "add"' in first and first.endswith("<|im_start|>assistant\n")
    assert "add" not in without and "17 + abc" in without
    assert "<zyphra_tool_response>" not in first
    if template:
        assert "Calling.\n<zyphra_tool_call>addx=17y=abc</zyphra_tool_call><|im_end|>" in second
        assert "<zyphra_tool_response>no number</zyphra_tool_response>" in second
    else:
        assert WRITTEN.partition("</think>")[2] + "<|im_end|>" in second  # to the letter
        assert "<|im_start|>tool\n<zyphra_tool_response>\nno number\n</zyphra_tool_response><|im_end|>" in second


@pytest.mark.parametrize("content", ["ok</think>", "The tag <think> opens a block.", "<think>a</think>b</think>",
                                     "<think><think></think>"])
def test_think_tags_that_do_not_pair_are_text(content):
    """They open no reasoning block and close none, with tools and without: all tags of the content are letters."""
    form, said = ChatFormat(TOKENIZER), [*USER, {"role": "assistant", "content": content}, *USER]
    for tools in ((), TOOLS):
        prompt = form.prompt(said, tools)
        assert f"<|im_start|>assistant\n{content}<|im_end|>" in TOKENIZER.decode(prompt)
        assert not {TOKENIZER.special_ids[tag] for tag in ("<think>", "</think>")} & set(prompt)
        assert form.aggregator(said, tools)(prompt, [[65]])
    with pytest.raises(ValueError, match="think>"):  # training data is another matter
        chats.encode(said, TOKENIZER)
    service = Scripted("x")
    with serving(service) as server:
        chat(server, messages=said)
    assert content in service.prompts[0]


def test_think_tags_that_pair_are_a_block():
    prompt = ChatFormat(TOKENIZER).prompt([*USER, {"role": "assistant", "content": "<think>hm</think>42"}, *USER])
    assert [prompt.count(TOKENIZER.special_ids[tag]) for tag in ("<think>", "</think>")] == [1, 1]


@settings(max_examples=300, deadline=None)
@given(texts, st.booleans(), st.booleans())
def test_any_reply_can_be_sent_back(text, thinking, tools):
    """Whatever a model writes: what a client gets of it is accepted as history, and no turn is added or lost."""
    reply = message_of(parse(text, thinking))
    messages = read_messages({"messages": [*USER, json.loads(json.dumps(reply)), *USER]})
    prompt = ChatFormat(TOKENIZER).prompt(messages, TOOLS if tools else ())
    assert prompt.count(IM_END) == 3 + tools
    assert prompt.count(TOKENIZER.special_ids["<think>"]) == prompt.count(TOKENIZER.special_ids["</think>"])


@pytest.mark.parametrize("message, says", [
    ({"role": "tool", "content": "x", "tool_call_id": "other"}, "id of an earlier call, got 'other'"),
    ({"role": "tool", "content": "x", "tool_call_id": 3}, "id of an earlier call"),
    ({"role": "assistant", "tool_calls": "x"}, "tool_calls must be a list"),
    ({"role": "assistant", "tool_calls": [{}]}, "tool_calls[0] must be an object"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
     "arguments must be a JSON object"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
     "arguments must be a JSON object"),
    ({"role": "assistant", "function_call": {"name": "f"}}, "tool_calls is its new form"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "", "arguments": "{}"}}]}, "must have a name"),
])
def test_bad_tool_messages_are_named(message, says):
    with serving(Scripted("x")) as server:
        status, document = post(server, json.dumps({"messages": [*USER, message]}))
    assert status == 400 and says in document["error"]["message"], document


def test_templates_that_refuse_are_the_clients_error():
    with serving(Scripted("x"), Template("{{ raise_exception('roles must alternate') }}")) as server:
        status, document = post(server, json.dumps({"messages": USER}))
    assert status == 400 and "roles must alternate" in document["error"]["message"]


def test_thinking_switched_off():
    """Then all of the reply is answer; and only a template that can do it takes the option."""
    service, off = Scripted("It is 42."), {"chat_template_kwargs": {"enable_thinking": False}}
    with serving(service, Template(CHATML)) as server:
        choice = chat(server, **off)
        *chunks, _ = events(server, json.dumps({"messages": USER, "stream": True} | off))
        refused = post(server, json.dumps({"messages": USER, "chat_template_kwargs": {"thinking_budget": 5}}))
    assert choice["message"]["content"] == "It is 42." and service.prompts[0].endswith("<think>\n</think>\n")
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "It is 42."
    assert refused[0] == 400 and "thinking_budget" in refused[1]["error"]["message"]
    with serving(service) as server:
        assert post(server, json.dumps({"messages": USER} | off))[0] == 400


# ---- Markovian RSA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, Template(CHATML)], ids=["ChatML", "template"])
def test_rsa_asks_in_whole_turns(template):
    """Tails stand in the last user message, as plain text; every prompt has the turns of the first one, and no more."""
    service = Scripted("<think>one</think>A", "<think>two</think>B", "<think>three</think>B")
    messages = [{"role": "system", "content": "Be kind."}, *USER, {"role": "assistant", "content": "Hm."}]
    with serving(service, template) as server:
        choice = chat(server, messages=messages, tools=TOOLS, rsa={"N": 3, "C": 2, "T": 2, "beta": 60, "tau": 40})
    first, later = service.prompts[0], service.prompts[3:]
    assert service.prompts[:3] == [first] * 3 and len(later) == 6 and choice["message"]["content"] == "B"
    for prompt in later:
        before, after = first.split("17 + abc")
        assert prompt.startswith(before + "17 + abc\n\nBelow are the ends")
        assert prompt.endswith("one full answer.\n" + after)
        assert any(f"</think>{answer}\n" in prompt for answer in "AB")
        assert prompt.count("<|im_end|>") == first.count("<|im_end|>") and prompt.count("attempt 2") == 1


def test_rsa_settings_by_name():
    form, asked = ChatFormat(TOKENIZER), {"messages": USER}
    assert read_request(asked | {"rsa": "zyphra"}, form, 10**6).rsa == SETTINGS["zyphra"]
    assert read_request(asked | {"rsa": {"N": 3, "C": 2, "final_n": 1}}, form, 10**6).rsa == RSAConfig(3, 2, final_n=1)
    for wrong in ("paper", "", 1, [], True, None):
        if wrong is None:       # as if it were absent
            assert read_request(asked | {"rsa": wrong}, form, 10**6).rsa is None
            continue
        with pytest.raises(Wrong, match="rsa must be an object or the name of a setting, report or zyphra"):
            read_request(asked | {"rsa": wrong}, form, 10**6)
    with pytest.raises(Wrong, match="final_n must be None or an int from 1 to N = 3"):
        read_request(asked | {"rsa": {"N": 3, "C": 2, "final_n": 4}}, form, 10**6)
    with pytest.raises(Wrong, match="tokens of context"):
        read_request(asked | {"rsa": "report"}, form, 20_000)


@pytest.mark.parametrize("template", [None, Template(CHATML)], ids=["ChatML", "template"])
def test_rsa_prompts_are_bounded(template):
    """Question, C tails of tau tokens, and what the words take; control tokens in a tail are text, and cut with it."""
    form = ChatFormat(TOKENIZER, template)
    trace = TOKENIZER.encode("é<|im_start|><think>" * 9, allow_special=True) + [IM_END]
    tail = form.reduce(trace, 20)
    assert len(tail) == 20 and TOKENIZER.decode(tail).endswith("t|><think>") and max(tail) < 256
    aggregate, question = form.aggregator(USER), form.prompt(USER)
    assert len(aggregate(question, [tail] * 3)) == len(aggregate(question, [[]] * 3)) + 3 * 20
    assert form.reduce([IM_END], 20) == []


@pytest.mark.parametrize("traces, answer, finish", [
    (["A", "B-", "B-"], "A", "stop"),            # unfinished traces do not vote, however many agree
    (["B-", "A", "B-", "A"], "A", "stop"), (["B-", "A", "C", "C"], "C", "stop"), (["B-", "C-", "C-"], "B", "length"),
    (["", "A", ""], "A", "stop"),                # nor do those that say nothing
    (["A", "C", "C", "A"], "A", "stop"),         # a tie: the first
])
def test_who_votes(traces, answer, finish):
    """"-": cut off by the limit."""
    ends = [[*TOKENIZER.encode("<think></think>" + text.removesuffix("-"), allow_special=True),
             *[IM_END] * (not text.endswith("-"))] for text in traces]
    request = Request(TOKENIZER.encode("?"), 99, rsa=RSAConfig(N=len(traces), C=1, T=0, beta=99, tau=9))
    reply, why, _ = answer_by_rsa(request, ChatFormat(TOKENIZER), lambda prompts, room: ends)
    assert (reply.content, why) == (answer, finish)


def test_rsa_needs_a_user():
    with serving(Scripted("x")) as server:
        status, document = post(server, json.dumps({"messages": [{"role": "system", "content": "x"}],
                                                    "rsa": {"N": 2, "C": 1, "beta": 9, "tau": 3}}))
    assert status == 400 and "needs a user message" in document["error"]["message"]


# ---- nothing of a reply is hidden ------------------------------------------------------------------------------------


def told(server, **fields):
    """A whole answer's message and reason, and the same put together from a stream."""
    whole = chat(server, **fields)
    *chunks, _ = events(server, json.dumps({"messages": USER, "stream": True} | fields))
    streamed = {"content": "", "tool_calls": [], "malformed_tool_calls": []}
    for chunk in chunks:
        for key, piece in chunk["choices"][0]["delta"].items():
            if key in streamed:
                streamed[key] += piece
    message = whole["message"] | {"content": whole["message"]["content"] or ""}
    for key, value in streamed.items():
        shown = message.get(key, [])
        assert value == shown if key != "tool_calls" else [call["function"] for call in value] == [
            call["function"] for call in shown], key
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    return message, whole["finish_reason"]


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}], ids=str)
@pytest.mark.parametrize("answer", [WRITTEN.partition("</think>")[2], "x</parameter>", "The tag <zyphra_tool_call> is"])
def test_without_tools_an_answer_is_text(fields, answer):
    with serving(Scripted("<think></think>" + answer)) as server:
        message, finish = told(server, **fields)
    assert message["content"] == answer and finish == "stop"
    assert not {"tool_calls", "malformed_tool_calls"} & message.keys()


CUT = "\n<zyphra_tool_call>\n<function=add>\n<parameter=x>\n1"


@pytest.mark.parametrize("answer, ended, calls, malformed, finish", [
    (WRITTEN + CUT, False, 1, [CUT[1:]], "length"), (WRITTEN, False, 1, [], "length"),
    (WRITTEN, True, 1, [], "tool_calls"), (WRITTEN + CUT, True, 1, [CUT[1:]], "tool_calls"),
    ("</think>" + CUT, True, 0, [CUT[1:]], "stop"), ("</think>" + CUT, False, 0, [CUT[1:]], "length"),
    (f"</think>\n\n{CALL}add(1){UNCALL}", True, 0, [f"{CALL}add(1){UNCALL}"], "stop")])
def test_the_limit_and_malformed_calls_are_told(answer, ended, calls, malformed, finish):
    with serving(Scripted(answer, ended=ended)) as server:
        message, why = told(server, tools=TOOLS)
        rsa = chat(server, tools=TOOLS, rsa={"N": 2, "C": 1, "T": 1, "beta": 300, "tau": 20})
    assert len(message.get("tool_calls", [])) == calls and message.get("malformed_tool_calls", []) == malformed
    assert why == finish == rsa["finish_reason"] and message["content"] == "Calling.\n" * (answer[:3] == "<th")
    assert rsa["message"].get("malformed_tool_calls", []) == malformed


def test_arguments_have_the_types_that_the_request_says():
    """A string that looks like a number, a boolean or null is a string; what no schema names is one, too."""
    kinds = {"zip": "string", "price": "string", "yes": "boolean", "count": "integer", "list": "array"}
    values = {"zip": "94110", "price": "1.10", "yes": "True", "count": "7", "list": "[1, null]", "other": "null"}
    written = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    tools = [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {name: {"type": kind} for name, kind in kinds.items()}}}}]
    service = Scripted(f"</think><zyphra_tool_call>\n<function=f>\n{written}</function>\n</zyphra_tool_call>")
    with serving(service) as server:
        message, _ = told(server, tools=tools)
        call, = message["tool_calls"]
        again = [*USER, message, {"role": "tool", "content": "ok", "tool_call_id": call["id"]}]
        chat(server, messages=again, tools=tools)
    assert json.loads(call["function"]["arguments"]) == values | {"yes": True, "count": 7, "list": [1, None]}
    assert "\n94110\n" in service.prompts[-1] and "\n1.10\n" in service.prompts[-1]  # as it wrote them


# ---- nothing of a request is lost ------------------------------------------------------------------------------------


SEEN = Template("{% for m in messages %}{{ m.role }}:{{ m.name }}:{{ m.reasoning_content }}:{{ m.content }};"
                "{% endfor %}")


def shown(*messages, **fields):
    """What a template is given."""
    given = {"messages": [*messages, *USER]} | fields
    return TOKENIZER.decode(read_request(given, ChatFormat(TOKENIZER, SEEN), 4000).prompt)


@pytest.mark.parametrize("said", [
    {"reasoning": "hm"}, {"reasoning_content": "hm"}, {"reasoning": [PART | {"text": "hm"}]},
    {"reasoning": "hm", "reasoning_content": "hm"}, {"reasoning": "hm", "tool_calls": []}], ids=str)
def test_reasoning_by_either_name(said):
    assert shown({"role": "assistant", "content": "ok"} | said).startswith("assistant::hm:ok;")


@pytest.mark.parametrize("message, says", [
    ({"role": "assistant", "reasoning": "a", "reasoning_content": "b"}, "two names of one thing"),
    ({"role": "user", "content": "a", "name": [{"type": "text", "text": "b"}]}, "name must be text, got list"),
    ({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": name}} for name in "fg"]},
     "each call needs an id of its own"),
    ({"role": "user", "content": "x", "reasoning": "a"}, "'reasoning' is not supported"),
    ({"role": "user", "content": "x", "tool_calls": []}, "'tool_calls' is not supported"),
    ({"role": "user", "content": "x", "tool_call_id": "a"}, "'tool_call_id' is not supported"),
    ({"role": "assistant", "content": "x", "refusal": "no"}, "'refusal' is not supported, got 'no'"),
    ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "'audio' is not supported"),
    ({"role": "user", "content": "x", "weight": 0}, "'weight' is not supported, got 0"),
    ({"role": "user", "content": [PART | {"text": "x", "image": "y"}]}, "'image' is not supported"),
    ({"role": "user", "content": "x", "name": 3}, "must be text, got int"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 0}}]}, "must be a JSON object"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": []}}]}, "must be a JSON object"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1, "a": 2}'}}]},
     "must be a JSON object"),
    ({"role": "assistant", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}, "must be an object"),
    ({"role": "assistant", "tool_calls": [{"custom": 1, "function": {"name": "f"}}]}, "'custom' is not supported"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "result": 1}}]}, "'result' is not supported"),
])
def test_what_of_a_message_would_be_lost_is_refused(message, says):
    with pytest.raises(Wrong, match=re.escape(says)) as error:
        shown(message)
    assert error.value.param == "messages"


def test_what_of_a_message_has_no_effect_is_accepted():
    """The names that the docstring lists, and null; a name is the template's to show."""
    plain = shown({"role": "assistant", "content": "ok"})
    nothing = {"refusal": None, "audio": None, "function_call": None, "annotations": [], "malformed_tool_calls": ["x"]}
    assert shown({"role": "assistant", "content": "ok"} | nothing) == plain
    assert shown({"role": "assistant", "content": [PART | {"text": "ok", "cache_control": {"type": "x"}}]}) == plain
    assert shown({"role": "system", "content": "ok", "name": "Ada"}).startswith("system:Ada::ok;")


@pytest.mark.parametrize("fields, says", [
    ({"tools": [TOOLS[0] | {"function": {"name": "f", "strict": True}}]}, "strict: arguments cannot be held"),
    ({"tools": [TOOLS[0] | {"server": "x"}]}, "'server' is not supported"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls must be a bool"),
    ({"parallel_tool_calls": False, "tools": TOOLS}, "cannot be enforced"),
    ({"stream": True, "stream_options": {"include_obfuscation": "yes"}}, "true or false"),
    ({"chat_template_kwargs": {"enable_thinking": 0}}, "enable_thinking must be true or false, got 0"),
    ({"chat_template_kwargs": {"enable_thinking": "false"}}, "enable_thinking must be true or false"),
])
def test_what_of_a_request_would_be_lost_is_refused(fields, says):
    with pytest.raises(Wrong, match=re.escape(says)):
        shown(**fields)


@pytest.mark.parametrize("body, key", [
    ('{"temperature": 0, "temperature": 1, "messages": []}', "temperature"),
    ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content"),
    ('{"messages": [], "tools": [{"type": "function", "function": {"name": "f", "name": "g"}}]}', "name")])
def test_a_key_that_stands_twice_is_refused(body, key):
    """One of its values would be lost."""
    with pytest.raises(Wrong, match=f"the body is not JSON: '{key}' stands twice"):
        document(body.encode())


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
@example("查询天气 ñ é < & \\")
def test_a_tools_words_reach_the_model_as_they_are(words):
    tools = [{"type": "function", "function": {"name": "f", "description": words}}]
    told = TOKENIZER.decode(ChatFormat(TOKENIZER).prompt(USER, tools))
    assert json.dumps(words, ensure_ascii=False) in told


def test_every_end_token_ends_an_answer(tmp_path):
    """Of config.json, one or a list, and of generation_config.json; those beyond the vocabulary none."""
    assert end_tokens(tmp_path, 300) == ()
    for config, generation, ends in (({"eos_token_id": 7}, None, (7,)), ({"eos_token_id": [7, 8]}, None, (7, 8)),
                                     ({"eos_token_id": None}, {"eos_token_id": [0, 9]}, (0, 9)), ({}, {}, ()),
                                     ({"eos_token_id": [7, 8]}, {"eos_token_id": 8}, (7, 8)),
                                     ({"eos_token_id": 299}, {"eos_token_id": 300}, (299,))):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "generation_config.json").unlink(missing_ok=True)
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        assert end_tokens(tmp_path, 300) == ends
        assert ChatFormat(TOKENIZER, None, ends).stop == tuple(dict.fromkeys((IM_END, TOKENIZER.eos_id, *ends)))
    for bad in ('{"eos_token_id": "7"}', '{"eos_token_id": [true]}', '{"eos_token_id": -1}', "[]", "{"):
        (tmp_path / "generation_config.json").write_text(bad)
        with pytest.raises(ValueError, match=r"generation_config.json"):
            end_tokens(tmp_path, 300)
    form, tokens = ChatFormat(TOKENIZER, None, (7,)), TOKENIZER.encode("ok")
    assert text_of(form, [*tokens, 7]) == "ok" and text_of(form, [7, *tokens]) == "\x07ok"


@pytest.mark.parametrize("beyond", [0, 1, 1000])
def test_an_id_beyond_the_vocabulary_is_unknown(beyond):
    """The first of them is the vocabulary's size itself."""
    form, last = ChatFormat(TOKENIZER), TOKENIZER.vocab_size - 1
    assert text_of(form, [65, TOKENIZER.vocab_size + beyond, 66]) == "A<unk>B"
    assert text_of(form, [65, last, 66]) == "A" + TOKENIZER.decode([last]) + "B"


# ---- telling ---------------------------------------------------------------------------------------------------------


def telling_of(tokens, stop=(), stream=False, finish="length"):
    """(pieces, reason, tokens read)."""
    form = ChatFormat(TOKENIZER)
    telling = Telling(ScriptedAnswer(tokens, finish), form, Request([], 9, stop=tuple(stop), stream=stream))
    return list(telling), telling.finish, telling.count


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop, text", [
    (["b", "xab"], "--"), (["xab", "b"], "--"), (["ab", "xab", "b"], "--"), (["b"], "--xa"), (["zz", "bc"], "--xa"),
    (["c", "d"], "--xab"), (["d", "c"], "--xab"), (["no"], "--xabcd"), (["--xabcd"], ""), (["-"], ""), (["-x"], "-")])
def test_the_first_stop_text_cuts(stop, text, stream):
    """Where two end at once, the one that begins first; whichever is named first."""
    pieces, finish, count = telling_of(TOKENIZER.encode("--xabcd"), stop, stream)
    assert "".join(pieces) == text and finish == ("length" if text == "--xabcd" else "stop")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 255) | st.sampled_from([*"é漢😀".encode(), BOS, TOKENIZER.vocab_size]), max_size=60),
       st.booleans(), st.sampled_from([IM_END, None]))
@example([0xFF] * 60, True, None)
@example([*[0xFF] * 20, *"😀".encode()[:2]], True, IM_END)
@example([*[0xF0] * 25, *"😀".encode()], True, None)
def test_a_stream_is_the_text_of_all_tokens(tokens, stream, end):
    tokens = [*tokens, *[end] * (end is not None)]
    pieces, *_ = telling_of(tokens, (), stream)
    assert "".join(pieces) == text_of(ChatFormat(TOKENIZER), tokens)


@pytest.mark.parametrize("token", [65, 0xFF, 0xF0, BOS, TOKENIZER.vocab_size])
def test_a_token_costs_the_same_however_long_the_answer_is(monkeypatch, token):
    decoded, decode = [], ByteTokenizer.decode
    monkeypatch.setattr(ByteTokenizer, "decode", lambda self, ids: decoded.append(len(ids)) or decode(self, ids))
    telling_of([token] * 2000, ["no such text"], True)
    assert sum(decoded) < 2000 * 40
