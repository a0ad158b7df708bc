"""A chat model behind the server: its end token, reasoning, tools, its own template, and Markovian RSA in turns.

The engine's place is taken by `Scripted`, which writes what a test says, so that all of the reply is known.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_tools import CHATML, events, post, texts
from minizaya.data import chat as chats
from minizaya.data.template import Template
from minizaya.data.tokenizer import ByteTokenizer
from minizaya.hub.weights import StandIn
from minizaya.infer.parse import parse
from minizaya.serve.formats import ChatFormat
from minizaya.serve.messages import read_messages
from minizaya.serve.protocol import message_of
from minizaya.serve.server import Server

openai = pytest.importorskip("openai")

TOKENIZER = ByteTokenizer()
BOS, IM_END = TOKENIZER.bos_id, TOKENIZER.special_ids["<|im_end|>"]
USER = [{"role": "user", "content": "17 + abc"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
WRITTEN = ("<think>sum them</think>Calling.\n<zyphra_tool_call>\n<function=add>\n<parameter=x>\n17\n</parameter>\n"
           "<parameter=y>\nabc\n</parameter>\n</function>\n</zyphra_tool_call>")


class Scripted:
    """A service that answers with fixed texts, one after the other and again, and keeps what it was asked."""

    def __init__(self, *texts, ended=True):
        self.answers = [[*TOKENIZER.encode(text, allow_special=True), *[IM_END] * ended] for text in texts]
        self.finish, self.prompts = "stop" if ended else "length", []
        self.engine = type("Sized", (), {"size": 4000})()

    def start(self):
        pass

    close = start

    def ask(self, prompt, room, **settings):
        answer = ScriptedAnswer(self.answers[len(self.prompts) % len(self.answers)][:room], self.finish)
        self.prompts.append(TOKENIZER.decode(prompt))
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
        assert WRITTEN.partition("</think>")[2].replace(".\n", ".\n\n") + "<|im_end|>" in second
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


def test_rsa_needs_a_user():
    with serving(Scripted("x")) as server:
        status, document = post(server, json.dumps({"messages": [{"role": "system", "content": "x"}],
                                                    "rsa": {"N": 2, "C": 1, "beta": 9, "tau": 3}}))
    assert status == 400 and "needs a user message" in document["error"]["message"]
