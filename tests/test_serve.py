"""The chat server, asked by standard clients and by rude ones."""

import http.client
import json
import random
import socket
import threading
import time

import pytest
import torch

from kill_pipeline import TOKENIZER, tiny_model
from minizaya import zoo
from minizaya.data import tasks
from minizaya.infer.engine import Engine
from minizaya.infer.endpoint import Endpoint
from minizaya.infer.generate import generate
from minizaya.infer.protocol import ChatFormat, TaskFormat, TaskReader, Wrong, read_request
from minizaya.infer.rsa import RSAConfig, delimited, markovian_rsa
from minizaya.infer.service import Busy, Service
from minizaya.serve import Server, held_back

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def reasoner():
    return zoo.load("nano-reasoner")


@pytest.fixture(scope="module")
def server(reasoner):
    with Server(Service(*reasoner, slots=64, size=400), TaskFormat(reasoner[1]), "nano-reasoner") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def ask(**fields):
    return dict(model="nano-reasoner", messages=[{"role": "user", "content": "47+85?"}], temperature=0) | fields


def post(server, body, path="/v1/chat/completions", headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("POST", path, body, dict(headers))
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document


# ---- standard clients ------------------------------------------------------------------------------------------------


def test_an_answer_is_generates(server, client, reasoner):
    model, tokenizer = reasoner
    done = client.chat.completions.create(**ask())
    text = tokenizer.decode(generate(model, [tokenizer.encode("47+85?")], 300, temperature=0, stop=tokenizer.encode("$"))[0])
    choice, = done.choices
    assert choice.message.content == "132" and choice.finish_reason == "stop"
    assert choice.message.model_extra["reasoning_content"] + "#132$" == text
    assert done.usage.prompt_tokens == 6 and done.usage.completion_tokens == len(text)
    assert [m.id for m in client.models.list()] == ["nano-reasoner"]


def test_a_stream_is_the_answer_in_pieces(client):
    whole = client.chat.completions.create(**ask(temperature=1.0, seed=4))
    pieces, reasoning, finishes, usage = "", "", [], None
    for chunk in client.chat.completions.create(**ask(temperature=1.0, seed=4, stream=True, stream_options={"include_usage": True})):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content", "")
            finishes.append(choice.finish_reason)
    assert pieces == whole.choices[0].message.content
    assert reasoning == whole.choices[0].message.model_extra["reasoning_content"]
    assert [f for f in finishes if f] == ["stop"] and usage.completion_tokens == whole.usage.completion_tokens


def test_n_seeds_budgets_and_stops(client):
    several = client.chat.completions.create(**ask(n=3, temperature=1.0, seed=7, messages=[{"role": "user", "content": "N944=32?"}]))
    again = client.chat.completions.create(**ask(n=3, temperature=1.0, seed=7, messages=[{"role": "user", "content": "N944=32?"}]))
    texts = [choice.message.model_extra.get("reasoning_content") for choice in several.choices]
    assert len(set(texts)) > 1 and texts == [choice.message.model_extra.get("reasoning_content") for choice in again.choices]
    short = client.chat.completions.create(**ask(max_completion_tokens=3))
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3
    stopped = client.chat.completions.create(**ask(stop=["b"]))
    assert "b" not in stopped.choices[0].message.model_extra["reasoning_content"] and stopped.choices[0].finish_reason == "stop"
    streamed = "".join((c.choices[0].delta.model_extra or {}).get("reasoning_content", "")
                       for c in client.chat.completions.create(**ask(stop=["b0"], stream=True)))
    assert streamed == "".join(client.chat.completions.create(**ask(stop=["b0"])).choices[0].message.model_extra["reasoning_content"])


def test_markovian_rsa_in_the_engine(server, client, reasoner):
    """The field `rsa`: problems that one trace cannot finish; more tokens than a trace may have; equal to the library's."""
    model, tokenizer = reasoner
    problem, = tasks.problems("modchain", "held_out", 20, 1, seed=2)
    config = dict(N=4, C=2, T=2, beta=48, tau=24)
    done = client.chat.completions.create(**ask(messages=[{"role": "user", "content": problem.prompt}], temperature=1.0, seed=3,
                                                extra_body={"rsa": config}))
    assert done.usage.completion_tokens > 48

    def alone(prompts, room):
        engine = Engine(model, slots=4, size=400)
        numbers = [engine.submit(p, room, stop=tokenizer.encode("$"), seed=3000 + i) for i, p in enumerate(prompts)]
        while engine.busy:
            engine.step()
        return [engine.take(n).tokens for n in numbers]

    layout = delimited(tokenizer.encode("|"), tokenizer.encode("~"))
    wanted = markovian_rsa(alone, tokenizer.encode(problem.prompt), RSAConfig(**config), layout, seed=3)
    assert done.usage.completion_tokens == wanted.generated_tokens
    assert tasks.get("modchain").verify(problem, "#" + (done.choices[0].message.content or "") + "$")


def test_the_lessons_client_runs_against_it(server, reasoner):
    remote = Endpoint(server.url, "nano-reasoner", reasoner[1], temperature=1.0, concurrency=8, pause=0.01)
    traces = remote([reasoner[1].encode("47+85?")] * 8, 60)
    assert all(trace is not None for trace in traces) and remote.failed == 0


# ---- a chat model with tools -----------------------------------------------------------------------------------------


class Scripted:
    """A service that answers with fixed text."""

    def __init__(self, text):
        self.text, self.closed = text, False
        self.engine = type("E", (), {"size": 500})()
        self.prompts = []

    def start(self):
        pass

    close = start

    def ask(self, prompt, room, **settings):
        self.prompts.append(prompt)
        answer = type("A", (), {"finish": "stop", "cancel": lambda self: None, "__iter__": lambda self: iter(self.tokens)})()
        answer.tokens = list(range(len(self.text)))
        return answer


class Letters:
    """A tokenizer for `Scripted`: token i is letter i of its text."""

    def __init__(self, text):
        self.text = text
        self.special_ids = {name: i for i, name in enumerate(("<bos>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"))}

    def encode(self, text):
        return [0] * len(text)

    def decode(self, tokens):
        return "".join(self.text[token] for token in tokens)


WRITTEN = ("<think>sum them</think>Calling.\n<zyphra_tool_call>\n<function=add>\n<parameter=x>\n17\n</parameter>\n"
           "<parameter=y>\nabc\n</parameter>\n</function>\n</zyphra_tool_call>")


def test_reasoning_and_tool_calls():
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    service = Scripted(WRITTEN)
    with Server(service, ChatFormat(Letters(WRITTEN)), "chat") as running:
        client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
        fields = dict(model="chat", messages=[{"role": "user", "content": [{"type": "text", "text": "17 + abc"}]}], tools=tools)
        choice, = client.chat.completions.create(**fields).choices
        chunks = list(client.chat.completions.create(**fields, stream=True))
    assert choice.finish_reason == "tool_calls" and choice.message.model_extra["reasoning_content"] == "sum them"
    call, = choice.message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments) == {"x": 17, "y": "abc"}
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert "".join(d.content or "" for d in deltas) == "Calling.\n"
    assert [json.loads(t.function.arguments) for d in deltas for t in d.tool_calls or []] == [{"x": 17, "y": "abc"}]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


# ---- bad requests ----------------------------------------------------------------------------------------------------

USER = [{"role": "user", "content": "47+85?"}]


@pytest.mark.parametrize("body, field, says", [
    ({"messages": []}, "messages", "at least one"),
    ({}, "messages", "at least one"),
    ({"messages": "hello"}, "messages", "must be a list"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages", "a role of"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages", "must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text parts"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages", "empty"),
    ({"messages": [{"role": "user", "content": "1" * 500}]}, "messages", "take 500 tokens, the longest text is 400"),
    ({"messages": USER, "temperature": -1}, "temperature", "number in 0..100"),
    ({"messages": USER, "temperature": "hot"}, "temperature", "number"),
    ({"messages": USER, "temperature": True}, "temperature", "number"),
    ({"messages": USER, "top_p": 0}, "top_p", "number in"),
    ({"messages": USER, "min_p": 2}, "min_p", "number in"),
    ({"messages": USER, "max_tokens": 0}, "max_tokens", "at least 1"),
    ({"messages": USER, "n": 17}, "n", "at most 16"),
    ({"messages": USER, "stream": "yes"}, "stream", "must be a bool"),
    ({"messages": USER, "stop": ["a"] * 5}, "stop", "at most four"),
    ({"messages": USER, "stop": [""]}, "stop", "at most four"),
    ({"messages": USER, "tools": [{}]}, "tools", "knows no tools"),
    ({"messages": USER, "rsa": {"N": 4, "C": 9, "beta": 9, "tau": 3}}, "rsa", "C must be at most"),
    ({"messages": USER, "rsa": {"N": 4, "rounds": 9}}, "rsa", "may hold"),
    ({"messages": USER, "rsa": {"N": 4, "C": 2, "beta": 300, "tau": 100}}, "rsa", "tokens of context"),
    ({"messages": USER, "rsa": {"N": 4, "C": 3, "beta": 300, "tau": 200}}, "rsa", "C times tau"),
    ({"messages": USER, "rsa": {"N": 2, "C": 1, "T": 1, "beta": 8, "tau": 4}, "stream": True}, "rsa", "no stream"),
    ({"messages": USER, "logit_bias": {}}, "logit_bias", "not supported"),
    ([1], None, "must be a JSON object"),
], ids=lambda value: str(value)[:40] if not isinstance(value, dict) else json.dumps(value)[:40])
def test_bad_requests_are_named(server, body, field, says):
    status, document = post(server, json.dumps(body))
    assert status == 400 and document["error"]["param"] == field, document
    assert says in document["error"]["message"]


def test_what_is_no_request(server):
    assert post(server, b"{not json")[0] == 400
    assert post(server, b"\xff\xfe")[0] == 400
    assert post(server, b"[" * 100_000)[0] == 400
    assert post(server, b"{}", path="/v1/completions")[0] == 404
    assert post(server, b"", headers={"Content-Length": str(10**9)})[0] == 400
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", "/secret")
    assert connection.getresponse().status == 404
    connection.close()
    assert client_works(server)


def client_works(server) -> bool:
    status, document = post(server, json.dumps({"messages": USER, "temperature": 0}))
    return status == 200 and document["choices"][0]["message"]["content"] == "132"


# ---- crowds and rudeness ---------------------------------------------------------------------------------------------


def test_a_hundred_at_once(server):
    """All are answered, each as it would be alone."""
    found = {}

    def one(i):
        a, b = 10 + i % 50, 12 + i % 70
        found[i] = post(server, json.dumps({"messages": [{"role": "user", "content": f"{a}+{b}?"}], "temperature": 0}))

    threads = [threading.Thread(target=one, args=(i, )) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in found.values()] == [200] * 100
    again = {i: post(server, json.dumps({"messages": [{"role": "user", "content": f"{10 + i % 50}+{12 + i % 70}?"}],
                                         "temperature": 0})) for i in range(0, 100, 17)}
    assert all(found[i][1]["choices"] == document["choices"] for i, (_, document) in again.items())


def test_disconnects_leave_nothing_behind(server):
    """Clients that send half a request, or hang up in the middle of a stream: their slots are free again, others go on."""
    rng = random.Random(0)
    for i in range(40):
        raw = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
        body = json.dumps({"messages": [{"role": "user", "content": "N999=998?"}], "stream": i % 2 == 0, "max_tokens": 390}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        whole = head + body
        raw.sendall(whole[: rng.randrange(1, len(whole))] if i % 4 == 1 else whole)
        if i % 4 == 0:
            raw.recv(rng.randrange(1, 200))
        raw.close()
    assert client_works(server)
    service = server.service
    for _ in range(400):
        if not service.answers and not service.engine.busy:
            break
        time.sleep(0.05)
    assert not service.answers and not service.engine.busy and not service.engine.done


def test_too_many_are_told_to_wait():
    model = tiny_model()
    with Service(model, TOKENIZER, slots=1, size=300, waiting=2) as service:
        with service.turn():  # nothing moves while we hold the turn
            answers = []
            with pytest.raises(Busy, match="2 requests are waiting"):
                for _ in range(9):
                    answers.append(service_ask(service))
        for answer in answers:
            answer.cancel()
        assert len(answers) == 2
    with pytest.raises(Busy, match="closed"):
        service.ask([1], 3)


def service_ask(service):
    """`ask` from within a held turn: the lock is reentrant for its own thread."""
    return service.ask([1, 2, 3], 250)


def test_an_engine_that_breaks_is_replaced(monkeypatch):
    model = tiny_model()
    with Service(model, TOKENIZER, slots=2, size=60) as service:
        monkeypatch.setattr(Engine, "step", lambda self: 1 / 0)
        with pytest.raises(RuntimeError, match="engine broke"):
            list(service.ask([1, 2], 5))
        monkeypatch.undo()
        assert len(list(service.ask([1, 2], 5))) == 5 and not service.answers


def test_a_service_answers_as_the_engine_does():
    model = tiny_model()
    with Service(model, TOKENIZER, slots=3, size=60) as service:
        answers = [service.ask([5, 6, i], 9, seed=i) for i in range(7)]
        got = [list(answer) for answer in answers]
    assert got == [generate(model, [[5, 6, i]], 9, seed=i)[0] for i in range(7)]
    assert all(answer.finish == "length" for answer in answers) and service.bytes == Engine(model, 3, 60).bytes


def test_pieces():
    assert held_back("abcd", ("de", "cdx")) == 2 and held_back("abc", ()) == 0 and held_back("ab\ufffd", ()) == 1
    reader = TaskReader()
    first, second = reader.feed("a1b2"), reader.feed("c#13")
    assert (first.reasoning, second.reasoning, second.content, reader.feed("2$").content) == ("a1b2", "c", "13", "2")
    with pytest.raises(Wrong, match="seed"):
        read_request({"messages": USER, "seed": 1.5}, TaskFormat(zoo.load("nano-reasoner")[1]), 100)
    assert torch.get_num_threads() >= 1


def test_the_command(tmp_path):
    """Starts on a free port, answers, and stops at Ctrl-C with exit code 0."""
    import signal
    import subprocess
    import sys
    process = subprocess.Popen([sys.executable, "-m", "minizaya", "serve", "--port", "0", "--slots", "4", "--size", "200"],
                               stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        url = line.split(" at ")[1].split(";")[0]
        assert url.startswith("http://127.0.0.1:") and "MiB" in line
        reply = openai.OpenAI(base_url=url, api_key="none").chat.completions.create(**ask())
        assert reply.choices[0].message.content == "132"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
