"""The chat server, asked by standard clients and by rude ones."""

import http.client
import json
import random
import socket
import threading
import time

import pytest
import torch

from chat_tools import events, post
from kill_pipeline import TOKENIZER, tiny_model
from minizaya.__main__ import main
from minizaya.data import tasks
from minizaya.hub import zoo
from minizaya.infer.endpoint import Endpoint
from minizaya.infer.engine import Engine
from minizaya.infer.generate import generate
from minizaya.infer.rsa import RSAConfig, delimited, markovian_rsa
from minizaya.serve.app import LARGEST_BODY, Chat
from minizaya.serve.formats import TaskFormat, TaskReader
from minizaya.serve.protocol import Wrong, read_request
from minizaya.serve.server import MOST_CONNECTIONS, Server
from minizaya.serve.service import Busy, Service
from minizaya.serve.telling import held_back

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


# ---- standard clients ------------------------------------------------------------------------------------------------


def test_an_answer_is_generates(server, client, reasoner):
    model, tokenizer = reasoner
    done = client.chat.completions.create(**ask())
    tokens, = generate(model, [tokenizer.encode("47+85?")], 300, temperature=0, stop=tokenizer.encode("$"))
    text = tokenizer.decode(tokens)
    choice, = done.choices
    assert choice.message.content == "132" and choice.finish_reason == "stop"
    assert choice.message.model_extra["reasoning_content"] + "#132$" == text
    assert done.usage.prompt_tokens == 6 and done.usage.completion_tokens == len(text)
    assert [m.id for m in client.models.list()] == ["nano-reasoner"]


def test_a_stream_is_the_answer_in_pieces(client):
    whole = client.chat.completions.create(**ask(temperature=1.0, seed=4))
    pieces, reasoning, finishes, usage = "", "", [], None
    fields = ask(temperature=1.0, seed=4, stream=True, stream_options={"include_usage": True})
    for chunk in client.chat.completions.create(**fields):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content", "")
            finishes.append(choice.finish_reason)
    assert pieces == whole.choices[0].message.content
    assert reasoning == whole.choices[0].message.model_extra["reasoning_content"]
    assert [f for f in finishes if f] == ["stop"] and usage.completion_tokens == whole.usage.completion_tokens


def test_n_seeds_budgets_and_stops(client):
    fields = ask(n=3, temperature=1.0, seed=7, messages=[{"role": "user", "content": "N944=32?"}])
    texts, again = ([choice.message.model_extra.get("reasoning_content")
                     for choice in client.chat.completions.create(**fields).choices] for _ in range(2))
    assert len(set(texts)) > 1 and texts == again
    short = client.chat.completions.create(**ask(max_completion_tokens=3))
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3
    stopped, = client.chat.completions.create(**ask(stop=["b"])).choices
    assert "b" not in stopped.message.model_extra["reasoning_content"] and stopped.finish_reason == "stop"
    streamed = "".join((c.choices[0].delta.model_extra or {}).get("reasoning_content", "")
                       for c in client.chat.completions.create(**ask(stop=["b0"], stream=True)))
    whole = client.chat.completions.create(**ask(stop=["b0"]))
    assert streamed == whole.choices[0].message.model_extra["reasoning_content"]


def test_markovian_rsa_in_the_engine(server, client, reasoner):
    """The field `rsa`: a problem that one trace cannot finish; more tokens than a trace may have; as the library's."""
    model, tokenizer = reasoner
    problem, = tasks.problems("modchain", "held_out", 20, 1, seed=2)
    config = dict(N=4, C=2, T=2, beta=48, tau=24)
    done = client.chat.completions.create(**ask(messages=[{"role": "user", "content": problem.prompt}],
                                                temperature=1.0, seed=3, extra_body={"rsa": config}))
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


def test_a_raw_prompt_is_completed_as_it_stands(server, client, reasoner):
    """All of what `generate` writes, but its stop token; the endpoint's client puts that back."""
    model, tokenizer = reasoner
    prompt = "47+85?"
    tokens, = generate(model, [tokenizer.encode(prompt)], 300, temperature=0, stop=tokenizer.encode("$"))
    done = client.completions.create(model="m", prompt=prompt, temperature=0, n=2, echo=False)
    assert [(c.text + "$", c.finish_reason) for c in done.choices] == [(tokenizer.decode(tokens), "stop")] * 2
    assert done.usage.completion_tokens == 2 * len(tokens)
    short = client.completions.create(model="m", prompt=[prompt], temperature=0, max_tokens=3).choices[0]
    assert (short.text, short.finish_reason) == (tokenizer.decode(tokens[:3]), "length")
    remote = Endpoint(server.url, "nano-reasoner", tokenizer, temperature=0, pause=0.01, raw=True, end="$")
    assert remote([tokenizer.encode(prompt)], 300) == [tokens]
    assert remote([tokenizer.encode(prompt)], 3) == [tokens[:3]]


@pytest.mark.parametrize("body, field", [
    ({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": ["a", "b"]}, "prompt"), ({"prompt": [1, 2]}, "prompt"),
    ({"prompt": "1" * 401}, "prompt"), ({"prompt": "1", "echo": True}, "echo"),
    ({"prompt": "1", "logprobs": 1}, "logprobs"), ({"prompt": "1", "stream": True}, "stream"),
    ({"prompt": "1", "messages": []}, "messages"), ({"prompt": "1", "rsa": "report"}, "rsa"),
    ({"prompt": "1", "top_p": 2}, "top_p"), ({"prompt": "1", "suffix": "x"}, "suffix")], ids=str)
def test_a_raw_prompts_bad_requests_are_named(server, body, field):
    status, document = post(server, json.dumps(body), path="/v1/completions")
    assert status == 400 and document["error"]["param"] == field and field in document["error"]["message"]


# ---- bad requests ----------------------------------------------------------------------------------------------------

USER = [{"role": "user", "content": "47+85?"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SMALL = {"N": 2, "C": 1, "T": 1, "beta": 8, "tau": 4}


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
    ({"messages": [{"role": "user", "content": 0}]}, "messages", "must be text"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages", "must be text"),
    ({"messages": [{"role": "user"}]}, "messages", "must be text"),
    ({"messages": USER, "tools": [ADD]}, "tools", "knows no tools"),
    ({"messages": USER, "tools": [{}]}, "tools", "tools[0] must be"),
    ({"messages": USER, "tools": [ADD, {"type": "function", "function": {"name": ""}}]}, "tools", "tools[1] must be"),
    ({"messages": USER, "tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools",
     "must be a dict"),
    ({"messages": USER, "tools": [ADD], "tool_choice": "required"}, "tool_choice", "cannot be enforced"),
    ({"messages": USER, "tool_choice": {"type": "function", "function": {"name": "add"}}}, "tool_choice",
     "cannot be enforced"),
    ({"messages": USER, "tools": [ADD], "parallel_tool_calls": False}, "parallel_tool_calls", "cannot be enforced"),
    ({"messages": USER, "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs",
     "no chat template"),
    ({"messages": USER, "rsa": {"N": 4, "C": 9, "beta": 9, "tau": 3}}, "rsa", "C must be at most"),
    ({"messages": USER, "rsa": {"N": 4, "rounds": 9}}, "rsa", "may hold"),
    ({"messages": USER, "rsa": {"N": 4, "C": 2, "beta": 300, "tau": 100}}, "rsa", "tokens of context"),
    ({"messages": USER, "rsa": {"N": 4, "C": 3, "beta": 300, "tau": 200}}, "rsa", "C times tau"),
    ({"messages": USER, "rsa": SMALL, "stream": True}, "rsa", "no stream"),
    ({"messages": USER, "rsa": SMALL, "max_tokens": 9}, "max_tokens", "beta is the budget"),
    ({"messages": USER, "rsa": SMALL, "stop": "b"}, "stop", "beta is the budget"),
    ({"messages": USER, "logit_bias": {"50": 100}}, "logit_bias", "not supported"),
    ({"messages": USER, "frequency_penalty": 2.0}, "frequency_penalty", "not supported, got 2.0"),
    ({"messages": USER, "presence_penalty": -1}, "presence_penalty", "not supported"),
    ({"messages": USER, "logprobs": True}, "logprobs", "not supported"),
    ({"messages": USER, "response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"messages": USER, "top_k": 5}, "top_k", "not supported"),
    ({"messages": USER, "functions": [{"name": "f"}]}, "functions", "not supported"),
    ({"messages": USER, "reasoning_effort": "low"}, "reasoning_effort", "not supported"),
    ({"messages": USER, "no such field": 1}, "no such field", "not supported"),
    ({"messages": USER, "stream_options": {"include_usage": 1}, "stream": True}, "stream_options", "true or false"),
    ({"messages": USER, "stream_options": {"usage": True}, "stream": True}, "stream_options", "may hold include_u"),
    ({"messages": USER, "stream_options": {"include_usage": True}}, "stream_options", "goes with stream = true"),
    ({"messages": USER, "tools": [ADD, ADD]}, "tools", "there is a function 'add' already"),
    ({"messages": USER, "metadata": {"x": float("nan")}}, None, "NaN is no finite number"),
    ({"messages": USER, "metadata": {"x": -float("inf")}}, None, "-Infinity is no finite number"),
    ([1], None, "must be a JSON object"),
], ids=lambda value: str(value)[:40] if not isinstance(value, dict) else json.dumps(value)[:40])
def test_bad_requests_are_named(server, body, field, says):
    status, document = post(server, json.dumps(body))
    assert status == 400 and document["error"]["param"] == field, document
    assert says in document["error"]["message"]


@pytest.mark.parametrize("field", [
    {"logit_bias": None}, {"logit_bias": {}}, {"functions": None}, {"function_call": None}, {"logprobs": None},
    {"logprobs": False}, {"response_format": {"type": "text"}}, {"top_k": -1}, {"frequency_penalty": 0},
    {"presence_penalty": 0.0}, {"no such field": None}, {"stop": None}, {"stop": []}, {"seed": None}, {"n": None},
    {"stream": None}, {"stream_options": None}, {"tools": None}, {"tools": []}, {"tools": [ADD], "tool_choice": "none"},
    {"tool_choice": "auto"}, {"parallel_tool_calls": True}, {"max_tokens": None}, {"rsa": None},
    {"chat_template_kwargs": {"enable_thinking": True}}, {"chat_template_kwargs": {"enable_thinking": None}},
    {"user": "me"}, {"metadata": {}}, {"store": False}, {"service_tier": "auto"},
    {"stream_options": {"include_usage": None}}, {"temperature": 0, "top_p": None, "min_p": None}], ids=json.dumps)
def test_what_changes_nothing_is_accepted(server, field):
    status, document = post(server, json.dumps({"messages": USER, "temperature": 0} | field))
    assert status == 200 and document["choices"][0]["message"]["content"] == "132", document


def test_errors_are_short(server):
    """However long, or deep, the wrong value is."""
    long, deep = "x" * 100_000, json.loads("[" * 900 + "]" * 900)
    for wrong in ({"temperature": long}, {long: 1}, {"max_tokens": deep}, {"rsa": {"N": deep}}, {"rsa": {long: 1}},
                  {"tools": [deep]}, {"tool_choice": long}, {"messages": [{"role": "user", "content": deep}]},
                  {"frequency_penalty": [long]}):
        status, document = post(server, json.dumps({"messages": USER} | wrong))
        assert status == 400 and len(json.dumps(document)) < 700, json.dumps(document)[:900]


def test_what_is_no_request(server):
    assert post(server, b"{not json")[0] == 400
    assert post(server, b"\xff\xfe")[0] == 400
    assert post(server, b"[" * 100_000)[0] == 400
    assert post(server, b"{}", path="/v1/embeddings")[0] == 404
    assert post(server, b"", headers={"Content-Length": str(10**9)})[0] == 413
    assert post(server, b"", headers={"Content-Length": "+5"})[0] == 400
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # says `curl -d`
    assert post(server, json.dumps({"messages": USER, "user": "&" * 5000}), headers=form)[0] == 200
    assert client_works(server)


def test_a_connection_stays_usable(server):
    """Whatever is asked first, and with whatever body, the next request on a connection is read from its beginning."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    for method, path, status in (("POST", "/nothing", 404), ("GET", "/secret", 404), ("GET", "/health?x=1", 200),
                                 ("PUT", "/v1/models", 405), ("DELETE", "/v1/chat/completions", 405),
                                 ("OPTIONS", "/v1/chat/completions", 405), ("PATCH", "/nothing", 404),
                                 ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405),
                                 ("GET", "/v1/models/none", 404), ("POST", "/v1/chat/completions?api-version=1", 200)):
        connection.request(method, path, json.dumps({"messages": USER, "temperature": 0}))
        socket_of = connection.sock
        response = connection.getresponse()
        document = json.loads(response.read())
        assert response.status == status and ("error" in document) == (status >= 400), (method, path, document)
        assert (response.headers["Allow"] is not None) == (status == 405) and connection.sock is socket_of
    connection.request("HEAD", "/v1/models")
    response = connection.getresponse()
    assert response.status == 405 and response.headers["Allow"] == "GET" and response.read() == b""
    connection.request("GET", "/v1/models")
    assert json.loads(connection.getresponse().read())["data"][0]["created"] > 10**9
    connection.close()


def test_bodies_of_no_length_or_too_long(server):
    """The error reaches a client that is still sending; then the connection ends."""
    status, document = post(server, b"x" * (LARGEST_BODY + 2**22))
    assert status == 413 and "at most 4194304 bytes" in document["error"]["message"]
    status, document = post(server, iter([b"{}"] * 3))  # http.client sends an iterator in chunks
    assert status == 411 and "chunks" in document["error"]["message"]
    assert b" 411 " in raw_answer(server, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n")
    for nonsense in (b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"FOO /v1/models HTTP/1.1\r\n\r\n",
                     b"\x16\x03\x01\x02\r\n\r\n"):
        head, _, body = raw_answer(server, nonsense).partition(b"\r\n\r\n")
        assert b"HTTP/1.1 " in head and json.loads(body)["error"]["message"]
    assert client_works(server)


def test_two_lengths_of_one_body(server):
    """Whichever was taken, the rest would be run as the next request: 400, and the connection ends. Equal ones do."""
    body, inner = b"{}", b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    for lengths in ((2, 2 + len(inner)), (2 + len(inner), 2), (0, 2)):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        answer = raw_answer(server, head + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % lengths + body + inner)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer
        assert b"unequal Content-Lengths" in answer, answer
    twice = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert raw_answer(server, twice).startswith(b"HTTP/1.1 200 ")


def raw_answer(server, sent: bytes) -> bytes:
    """All that comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as raw:
        raw.sendall(sent)
        return b"".join(iter(lambda: raw.recv(65536), b""))


def client_works(server) -> bool:
    status, document = post(server, json.dumps({"messages": USER, "temperature": 0}))
    return status == 200 and document["choices"][0]["message"]["content"] == "132"


# ---- crowds and rudeness ---------------------------------------------------------------------------------------------


def test_a_hundred_at_once(server):
    """All are answered, every other one in a stream, each as it would be alone."""
    found = {}

    def one(i):
        question = f"{10 + i % 50}+{12 + i % 70}?"
        body = json.dumps({"messages": [{"role": "user", "content": question}], "temperature": 0, "stream": i % 2 == 0})
        found[i] = streamed(server, body) if i % 2 == 0 else post(server, body)[1]["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=one, args=(i, )) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 100 and all(found.values())
    again = {i: post(server, json.dumps({"messages": [{"role": "user", "content": f"{10 + i % 50}+{12 + i % 70}?"}],
                                         "temperature": 0}))[1] for i in range(0, 100, 17)}
    assert all(found[i] == document["choices"][0]["message"]["content"] for i, document in again.items())


def streamed(server, body) -> str:
    """The content of a streamed answer."""
    *chunks, done = events(server, body)
    assert done == "[DONE]"
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_disconnects_leave_nothing_behind(server):
    """Clients that send half a request, or hang up in a stream: their slots are free again, others go on."""
    rng = random.Random(0)
    for i in range(40):
        raw = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
        body = json.dumps({"messages": [{"role": "user", "content": "N999=998?"}], "stream": i % 2 == 0,
                           "max_tokens": 390}).encode()
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


@pytest.fixture
def slow(monkeypatch):
    """A server whose engine takes its time: an answer of 900 tokens would be under way for 18 seconds."""
    step = Engine.step

    def late(engine):
        time.sleep(0.02)
        return step(engine)

    monkeypatch.setattr(Engine, "step", late)
    with Server(Service(tiny_model(), TOKENIZER, slots=4, size=1000, waiting=6), Endless(TOKENIZER), "slow") as running:
        yield running


class Endless(TaskFormat):
    """No token ends an answer."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.stop = ()


LONG = {"C": 2, "T": 1, "beta": 900, "tau": 8}


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 3}, {"rsa": {"N": 4} | LONG}],
                         ids=["whole", "stream", "three", "rsa"])
def test_hanging_up_ends_the_work(slow, fields):
    """In the middle of a long answer, and while it still waits in line."""
    asked = json.dumps({"messages": USER} | fields).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(asked)
    clients = [socket.create_connection(("127.0.0.1", slow.server_port), timeout=20) for _ in range(2)]
    for raw in clients:
        raw.sendall(head + asked)
    assert soon(lambda: slow.service.engine.active and max(len(r.tokens) for r in slow.service.engine.active) > 3)
    for raw in clients:
        raw.close()
    assert soon(lambda: not slow.service.answers and not slow.service.engine.busy and not slow.service.engine.done, 5)


def soon(true, seconds: float = 20) -> bool:
    """Does it become true in time?"""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(true())


def test_a_stop_text_ends_the_work(client, server):
    """A whole answer is over where a stream would be: same text, reason and count of tokens, long before the end."""
    for stop in (["b"], ["#1"], ["no such text"], ["+", "132"]):
        fields = ask(stop=stop, seed=3)
        whole = client.chat.completions.create(**fields)
        chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
        assert chunks[-1].usage == whole.usage and all(abs(chunk.created - whole.created) < 60 for chunk in chunks)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        assert text == whole.choices[0].message.content
        assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    full = client.chat.completions.create(**ask()).usage.completion_tokens
    assert client.chat.completions.create(**ask(stop=["b"])).usage.completion_tokens < full // 2


def test_without_a_seed_answers_differ(client):
    fields = ask(temperature=1.5, max_tokens=60, messages=[{"role": "user", "content": "N944=32?"}])
    answers = [client.chat.completions.create(**fields) for _ in range(6)]
    assert len({answer.choices[0].message.model_extra["reasoning_content"] for answer in answers}) > 1


def test_the_client_finds_the_model(client):
    assert client.models.retrieve("nano-reasoner").id == "nano-reasoner"
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("gpt/4")


def test_connections_are_bounded(reasoner):
    """Beyond the most there is a 503, at once; when one ends, there is room again. Whoever is connected goes on."""
    with Server(Service(*reasoner, slots=2, size=100), TaskFormat(reasoner[1]), "few") as few:
        few.most = 5
        inside = http.client.HTTPConnection("127.0.0.1", few.server_port, timeout=20)
        inside.connect()
        half = [socket.create_connection(("127.0.0.1", few.server_port), timeout=20) for _ in range(4)]
        for raw in half:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert soon(lambda: len(few._connections) == 5)
        for _ in range(60):  # more than are kept to read their answer
            status, document = post(few, json.dumps({"messages": USER}))
            assert status == 503 and "5 connections are open" in document["error"]["message"]
        inside.request("GET", "/health")
        assert inside.getresponse().read() and len(few._connections) == 5
        half.pop().close()
        assert soon(lambda: len(few._connections) == 4) and client_works(few)
        assert soon(lambda: not few.refused, 5)
        for raw in (inside, *half):
            raw.close()
        assert soon(lambda: not few._connections)


def test_the_bound_leaves_files_for_others(monkeypatch):
    """And it leaves room for all whom a service of 64 slots and 256 waiting places can answer, where it can."""
    for files, most in ((300, 150), (10**6, MOST_CONNECTIONS)):
        monkeypatch.setattr("minizaya.serve.server.files_allowed", lambda files=files: files)
        server = Server(None, None, "unused")
        server.socket.close()
        assert server.most == most
    assert MOST_CONNECTIONS > 64 + 256


@pytest.mark.parametrize("sent", [b"GET /health HTTP/1.1\r\nX: ",
                                  b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"],
                         ids=["head", "body"])
def test_a_request_has_a_deadline(monkeypatch, sent):
    """However often a byte comes: one for the head, from the end of the last request on, and one for the body."""
    monkeypatch.setattr("minizaya.serve.app.SLOW", 0.8)
    with (Server(Service(tiny_model(), TOKENIZER, slots=1, size=10), None, "hasty") as server,
          socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as raw):
        for _ in range(2):
            time.sleep(0.5)
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.sendall(sent)
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # of one that has been closed, at the second byte at the latest
            for _ in range(100):
                time.sleep(0.05)
                raw.sendall(b"a")
        assert 0.7 < time.monotonic() - began < 3


def test_a_client_that_does_not_read_is_left(monkeypatch):
    monkeypatch.setattr("minizaya.serve.app.SLOW", 0.5)
    monkeypatch.setattr(Chat, "answer", lambda self: {"much": "y" * 2**25})
    with (Server(Service(tiny_model(), TOKENIZER, slots=1, size=10), None, "full") as server,
          socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as raw):
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert soon(lambda: server.work) and soon(lambda: not server.work and not server._connections)


def test_an_error_in_a_stream_is_its_last_event(server, monkeypatch):
    """The head has gone out, so a second one would be garbage in the body."""
    body = json.dumps({"messages": USER, "stream": True, "temperature": 0})
    decode, calls = type(server.form.tokenizer).decode, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) > 5:
            raise ValueError("no such id")
        return decode(self, *args)

    monkeypatch.setattr(type(server.form.tokenizer), "decode", failing)
    *chunks, last = events(server, body)
    assert "no such id" in last["error"]["message"] and last["error"]["type"] == "server_error" and len(chunks) > 2
    monkeypatch.undo()
    monkeypatch.setattr(Engine, "step", lambda self: 1 / 0)
    assert "engine broke" in events(server, body)[-1]["error"]["message"]
    assert post(server, json.dumps({"messages": USER}))[0] == 500
    monkeypatch.undo()
    assert client_works(server)


def test_rsa_that_finds_no_room_leaves_nothing_behind(slow):
    """Four slots and six waiting places for twelve traces: 503, and those that were in line are out of it."""
    status, document = post(slow, json.dumps({"messages": USER, "rsa": {"N": 12} | LONG}))
    assert status == 503 and document["error"]["type"] == "overloaded"
    assert soon(lambda: not slow.service.answers and not slow.service.engine.busy, 5)


def test_closing_tells_those_who_wait(slow):
    found = []
    asking = threading.Thread(target=lambda: found.append(post(slow, json.dumps({"messages": USER}))))
    asking.start()
    assert soon(lambda: slow.service.engine.active)
    slow.service.close()
    asking.join(10)
    assert found[0][0] == 503 and "closed" in found[0][1]["error"]["message"]


def test_closing_waits_for_answers_that_go_out(monkeypatch):
    """A client that keeps its connection, and asks nothing, is not waited for."""
    answer, gone_out = Chat.answer, []

    def slowly(self):
        try:
            return answer(self)
        finally:
            time.sleep(0.3)
            gone_out.append(1)

    monkeypatch.setattr(Chat, "answer", slowly)
    monkeypatch.setattr(Engine, "step", lambda self: time.sleep(0.02) or [])
    found = []
    with Server(Service(tiny_model(), TOKENIZER, slots=4, size=100), Endless(TOKENIZER), "slow") as server:
        asking = [threading.Thread(target=lambda: found.append(post(server, json.dumps({"messages": USER}))))
                  for _ in range(6)]
        for thread in asking:
            thread.start()
        assert soon(lambda: len(server.service.answers) == 6)
    assert len(gone_out) == 6
    for thread in asking:
        thread.join(10)
    assert [status for status, _ in found] == [503] * 6
    assert all("closed" in document["error"]["message"] for _, document in found)
    with Server(Service(tiny_model(), TOKENIZER, slots=4, size=100), Endless(TOKENIZER), "idle") as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        idle.request("GET", "/health")
        assert idle.getresponse().read()
        began = time.monotonic()
    assert time.monotonic() - began < 0.9
    idle.close()


def test_head_and_body_go_out_together(server, monkeypatch):
    """A client that has the head of an answer has its body, too, whatever becomes of the process."""
    sent, send = [], socket.socket.send

    def noting(self, data, *flags):
        sent.append(bytes(data))
        return send(self, data, *flags)

    monkeypatch.setattr(socket.socket, "send", noting)
    assert client_works(server) and post(server, b"{}", path="/nothing")[0] == 404
    answers = [data for data in sent if data.startswith(b"HTTP/1.1 ")]
    assert len(answers) == 2 and all(json.loads(data.partition(b"\r\n\r\n")[2]) for data in answers)


def test_ipv6_loopback(reasoner):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with Server(Service(*reasoner, slots=2, size=100), TaskFormat(reasoner[1]), "six", host="::1") as running:
        assert running.url.startswith("http://[::1]:")
        reply = openai.OpenAI(base_url=running.url, api_key="none").chat.completions.create(**ask())
    assert reply.choices[0].message.content == "132"


def test_where_nobody_can_listen(server):
    """The error says where."""
    for host, port, says in (("127.0.0.1", server.server_port, "in use"), ("no.such.host.invalid", 80, "")):
        with pytest.raises(OSError, match=f"cannot listen on host {host}, port {port}: .*{says}"):
            Server(None, None, "second", host, port)


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
        with pytest.raises(RuntimeError, match="engine broke.*: ZeroDivisionError: division by zero"):
            list(service.ask([1, 2], 5))
        monkeypatch.undo()
        assert len(list(service.ask([1, 2], 5))) == 5 and not service.answers


def test_a_model_that_fails_at_one_answer_fails_at_that_one():
    """Each asker has an answer or a reason of its own, and the service goes on with the same engine."""
    model = tiny_model()
    wanted = [generate(model, [[5, 6, i]], 9, seed=i)[0] for i in range(4)]

    def fail(module, args):
        if bool((args[0][:, :3] == torch.tensor([5, 6, 2])).all(-1).any()):
            raise RuntimeError("CUDA out of memory")

    hook = model.register_forward_pre_hook(fail)
    with Service(model, TOKENIZER, slots=3, size=60) as service:
        engine = service.engine
        with service.turn():
            answers = [service.ask([5, 6, i], 9, seed=i) for i in range(4)]
        for i, answer in enumerate(answers):
            if i == 2:
                with pytest.raises(RuntimeError, match="while it wrote this answer: RuntimeError: CUDA out of memory"):
                    list(answer.read(patience()))
            else:
                assert list(answer.read(patience())) == wanted[i]
        hook.remove()
        assert list(service.ask([5, 6, 2], 9, seed=2).read(patience())) == wanted[2] and service.engine is engine


def test_an_old_answer_cannot_cancel_a_new_one(monkeypatch):
    """trap: a fresh engine counts from 0 again, and the old answer's number is somebody else's."""
    with Service(tiny_model(), TOKENIZER, slots=2, size=60) as service:
        monkeypatch.setattr(Engine, "step", lambda self: 1 / 0)
        old = service.ask([1, 2], 5)
        with pytest.raises(RuntimeError, match="engine broke"):
            list(old)
        monkeypatch.undo()
        with service.turn():
            new = service.ask([1, 2], 5)
            assert new.number == old.number
            old.cancel()
        assert len(list(new.read(patience()))) == 5 and new.finish == "length"
        assert list(new.read(patience())) == []  # a second reading finds the end


def patience(seconds: float = 20):
    """A watch for `Answer.read`: a test must not wait for ever, either."""
    until = time.monotonic() + seconds

    def watch():
        if time.monotonic() > until:
            raise TimeoutError("nothing comes")

    return watch


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_reader_waits_for_an_engine_that_cannot_be_replaced(monkeypatch):
    """No memory for a new one, say: all hear of it, and whoever comes later is refused."""
    with Service(tiny_model(), TOKENIZER, slots=1, size=60) as service:
        with service.turn():
            answers = [service.ask([1, 2], 5) for _ in range(3)]
            monkeypatch.setattr(Engine, "step", lambda self: 1 / 0)
            monkeypatch.setattr("minizaya.serve.service.Engine", lambda *args: 1 / 0)
        for answer in answers:
            with pytest.raises(RuntimeError, match="engine broke"):
                list(answer.read(patience()))
        assert soon(lambda: service.closed)
        with pytest.raises(Busy, match="closed"):
            service.ask([1, 2], 5)


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
    command = [sys.executable, "-m", "minizaya", "serve", "--port", "0", "--slots", "4", "--size", "200"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            url = line.split(" at ")[1].split(";")[0]
            assert url.startswith("http://127.0.0.1:") and "MiB" in line
            with openai.OpenAI(base_url=url, api_key="none") as client:
                reply = client.chat.completions.create(**ask())
            assert reply.choices[0].message.content == "132"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("flags, says", [
    (["--host", ""], ["--host must name an address"]),
    (["--size", "100000000000"], ["--size 100000000000", "--slots 64", " bytes"]),
    (["--size", "9" * 30, "--slots", "2"], ["--size " + "9" * 30, "--slots 2", " bytes"]),
    (["--slots", "9" * 18], ["--size 1024", "--slots " + "9" * 18, " bytes"]),
], ids=["host", "size", "longer than 64 bits", "slots"])
def test_flags_that_cannot_be(capsys, monkeypatch, flags, says):
    """Exit code 2, and one line."""
    monkeypatch.setattr(Server, "__enter__", lambda server: server.socket.close() or 1 / 0)  # or it served for ever
    assert main(["serve", "--port", "0", *flags]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("minizaya serve: ") and all(part in line for part in says)
