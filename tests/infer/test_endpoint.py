"""The endpoint client against a real HTTP server on loopback: delays, errors, cut connections, kills, resumed runs."""

import gzip
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from minizaya.data.tokenizer import ByteTokenizer, CharTokenizer
from minizaya.infer.endpoint import Endpoint, retry_after
from minizaya.infer.endpoint import client as the_client
from minizaya.infer.endpoint.answers import Refused, trace_of
from minizaya.infer.endpoint.run_file import RunFile
from minizaya.infer.rsa import RSAConfig, delimited, markovian_rsa

TOKENIZER = ByteTokenizer()


class Server(ThreadingHTTPServer):
    """Answers with the number of the user's message and the request's seed; `trouble(request number)` may spoil it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, trouble=lambda n: None, port=0, reply=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.trouble, self.reply = trouble, reply
        self.lock, self.requests, self.now, self.most = threading.Lock(), [], 0, 0

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append((self.path, dict(self.headers), request))
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.respond(server.trouble(number), request)
        finally:
            with server.lock:
                server.now -= 1

    def respond(self, trouble, request):
        if trouble == "slow":
            time.sleep(0.05)
        if trouble == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"choi")
            return
        if trouble == "hang up":
            self.connection.close()
            return
        if isinstance(trouble, tuple):
            status, headers = trouble
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"no luck today")
            return
        message = self.server.reply or {"content": f"{request['messages'][0]['content']}:{request['seed']}"}
        body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
        if trouble == "garbage":
            body = b"<html>"
        if isinstance(trouble, dict | list):
            body = json.dumps(trouble).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(*args, server=None, **settings):
    server = server or Server(*args, **settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def client(server, **settings):
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", TOKENIZER,
                    **dict(pause=0.001, timeout=5) | settings)


def ask(endpoint, *texts, room=99):
    found = endpoint([TOKENIZER.encode(text) for text in texts], room)
    return [None if tokens is None else TOKENIZER.decode(tokens) for tokens in found]


def test_a_request_is_what_the_protocol_says():
    with serving() as server:
        endpoint = client(server, api_key="secret", temperature=0.6, top_p=0.95)
        answers = ask(endpoint, "a", "b", "a")
        assert [answer.split(":")[0] for answer in answers] == ["a", "b", "a"]
        assert answers[0] != answers[2]  # copies of a prompt have seeds of their own
        path, headers, request = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert {key: request[key] for key in ("model", "max_tokens", "temperature", "top_p")} == {
        "model": "m", "max_tokens": 99, "temperature": 0.6, "top_p": 0.95}
    assert [message["role"] for message in request["messages"]] == ["user"] and 0 <= request["seed"] < 2**31
    assert (endpoint.sent, endpoint.reused, endpoint.repeated, endpoint.failed) == (3, 0, 0, 0)


def test_without_a_seed_it_is_zero():
    with serving() as server:
        plain, zero, one = (ask(client(server, **given), "a", "b") for given in ({}, {"seed": 0}, {"seed": 1}))
    assert plain == zero != one


@pytest.mark.parametrize("trouble", ["slow", "cut", "hang up", "garbage", (500, {}), (429, {"Retry-After": "0"}),
                                     (503, {}), (408, {})], ids=str)
def test_trouble_is_tried_again(trouble):
    with serving(lambda n: trouble if n < 2 else None) as server:
        endpoint = client(server)
        answer, = ask(endpoint, "x")
        assert answer.startswith("x:") and endpoint.failed == 0
        assert endpoint.repeated == (0 if trouble == "slow" else 2)


def test_thirty_percent_of_failures_lose_and_double_nothing():
    chance = random.Random(0)
    troubles = ["cut", "hang up", "garbage", (500, {}), (429, {"Retry-After": "0"}), (502, {})]
    with serving(lambda n: chance.choice(troubles) if chance.random() < 0.3 else None) as server:
        endpoint = client(server, concurrency=8)
        answers = ask(endpoint, *(f"q{i % 20}" for i in range(200)))
    assert [answer.split(":")[0] for answer in answers] == [f"q{i % 20}" for i in range(200)]
    assert len(set(answers)) == 200 and endpoint.sent == 200 and endpoint.repeated > 30
    assert server.most <= 8


def test_what_fails_for_good_is_none_and_counted():
    with serving(lambda n: (400, {})) as server:
        endpoint = client(server)
        assert ask(endpoint, "too long") == [None] and len(server.requests) == 1  # not worth another try
        assert endpoint.failed == 1 and "HTTP 400: no luck today" in endpoint.errors[0]
    with serving(lambda n: (500, {})) as server:
        endpoint = client(server, retries=2)
        assert ask(endpoint, "x") == [None] and len(server.requests) == 3


@pytest.mark.parametrize("status, error", [(401, PermissionError), (403, PermissionError), (404, LookupError)])
def test_a_wrong_key_or_name_stops_at_once(status, error):
    with serving(lambda n: (status, {})) as server:
        endpoint = client(server, api_key="secret", concurrency=1)
        with pytest.raises(error, match=f"HTTP {status}: no luck") as said:
            ask(endpoint, *"abcdefgh")
        assert len(server.requests) <= 3 and "secret" not in str(said.value)


def test_no_server_at_all():
    with serving() as server:
        endpoint = client(server, retries=1)
    assert ask(endpoint, "x") == [None] and "refused" in endpoint.errors[0]


def test_a_resumed_run_asks_only_for_what_is_missing(tmp_path):
    path, texts = tmp_path / "runs" / "run.jsonl", [f"q{i}" for i in range(30)] + ["q0"] * 5
    with serving(lambda n: (500, {}) if n % 3 == 2 else None) as server:
        first = client(server, retries=0, run_file=path, api_key="secret")
        before = ask(first, *texts)
        assert None in before and first.failed == before.count(None)
    assert "secret" not in path.read_text()
    with open(path, "ab") as file:
        file.write(b'{"key": "torn')  # killed in the middle of a line
    with serving() as server:
        again = client(server, run_file=path)
        after = ask(again, *texts)
        assert len(server.requests) == before.count(None) == again.sent and again.reused == 35 - again.sent
    assert None not in after and all(b is None or a == b for a, b in zip(after, before))
    keys = Counter(json.loads(line)["key"] for line in path.read_text().splitlines())
    assert len(keys) == 35 and set(keys.values()) == {1}


def test_a_server_that_is_killed_and_comes_back(tmp_path):
    """It goes down in the middle; the client waits for the new one on the same port."""
    with serving(lambda n: "slow") as server:
        port = server.server_port
        endpoint = client(server, pause=0.05, retries=12, concurrency=2, run_file=tmp_path / "run.jsonl")
        found = []
        thread = threading.Thread(target=lambda: found.extend(ask(endpoint, *(f"q{i}" for i in range(20)))))
        thread.start()
        while len(server.requests) < 6:
            time.sleep(0.005)
    time.sleep(0.1)
    with serving(port=port):
        thread.join(timeout=30)
    assert [answer.split(":")[0] for answer in found] == [f"q{i}" for i in range(20)] and endpoint.repeated > 0
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 20


@pytest.mark.parametrize("message, text", [
    ({"content": "4"}, "4"), ({"content": "4", "reasoning_content": "2+2"}, "<think>2+2</think>4"),
    ({"content": None, "reasoning": "2+2"}, "<think>2+2</think>"), ({"content": None}, "")])
def test_reasoning_is_put_back(message, text):
    with serving(reply=message) as server:
        assert ask(client(server), "x") == [text]


@pytest.mark.parametrize("content, finish, text", [
    ("4", "length", "<think>2+2</think>4"), ("4", "stop", "<think>2+2</think>4"), ("", "length", "<think>2+2"),
    ("", None, "<think>2+2"), ("", "stop", "<think>2+2</think>")])
def test_reasoning_that_was_cut_off_stays_open(content, finish, text):
    message = {"content": content, "reasoning_content": "2+2"}
    assert trace_of({"choices": [{"message": message, "finish_reason": finish}]}) == text


def test_a_longer_reading_keeps_its_end():
    with serving(reply={"content": "0123456789"}) as server:
        assert ask(client(server), "x", room=4) == ["6789"]


def test_markovian_rsa_over_an_endpoint(tmp_path):
    config = RSAConfig(N=4, C=2, T=2, beta=20, tau=6)
    layout = delimited(TOKENIZER.encode("|"), TOKENIZER.encode("~"))
    with serving(lambda n: (500, {}) if n % 4 == 0 else None) as server:
        runs = [markovian_rsa(client(server, run_file=tmp_path / "run.jsonl"), TOKENIZER.encode("q?"), config, layout)
                for _ in range(2)]
    assert runs[0] == runs[1] and runs[0].failed == 0
    assert [len(own) for own in runs[0].rounds] == [4, 4, 4]


def test_settings_and_files_are_checked(tmp_path):
    for name, value in (("concurrency", 0), ("retries", -1), ("timeout", 0), ("pause", -1)):
        with pytest.raises(ValueError, match=name):
            Endpoint("http://x/v1", "m", TOKENIZER, **{name: value})
    for url in ("localhost:80", "http://", "http://:80/v1", "http://h:x/v1", "http://h:99999/v1", "http://h:0/v1", b"http://h",
                "http://h/v1?a=b", "http://h/v1#a", "http://h h/v1", "http://h/v1\n", "http://me:secret@h/v1"):
        with pytest.raises(ValueError, match="url must") as error:
            Endpoint(url, "m", TOKENIZER)
        assert "secret" not in str(error.value)
    for line in ("nonsense", '{"key": "b"}', '{"key": "b", "text": null}', '{"key": 1, "text": "b"}', "[]", "3", ""):
        (tmp_path / "bad").write_text(f'{{"key": "a", "text": "b"}}\n{line}\n{{"key": "c", "text": "d"}}\n')
        with pytest.raises(ValueError, match="damaged in line 2"):
            RunFile(tmp_path / "bad")
    assert retry_after("3", 1.0) == 3.0 and retry_after(None, 1.0) == 1.0 and retry_after("Wed, 21 Oct", 1.0) == 1.0
    assert retry_after("-5", 1.0) == 0.0 and retry_after("1e9", 1.0) == 600.0
    assert retry_after("nan", 1.0) == 1.0


# ---- one prompt's trouble is its own ---------------------------------------------------------------------------------


def second(trouble):
    """A server that answers the prompt "bad" with this document, and every other one as ever."""
    server = Server()
    server.trouble = lambda n: trouble if server.requests[n][2]["messages"][0]["content"] == "bad" else None
    return server


@pytest.mark.parametrize("document, tries, says", [
    ({"choices": [{"message": None}]}, 2, "choices[0].message"), ({"choices": [{}]}, 2, "choices[0].message"),
    ({"choices": []}, 2, "choices[0].message"), ({"choices": None}, 2, "choices[0].message"),
    ({}, 2, "choices[0].message"), ([], 2, "choices[0].message"), ({"choices": {"0": 1}}, 2, "choices[0].message"),
    ({"choices": ["x"]}, 2, "choices[0]"), ({"choices": [{"message": "x"}]}, 2, "choices[0].message"),
    ({"choices": [{"message": {"content": 3}}]}, 2, "must be text"),
    ({"choices": [{"message": {"content": [{"type": "image_url"}]}}]}, 2, "must be text"),
    ({"choices": [{"message": {"content": [{"type": "text", "text": None}]}}]}, 2, "must be text"),
    ({"choices": [{"message": {"content": "x", "reasoning": {}}}]}, 2, "must be text"),
    ({"choices": [{"message": {"content": "\ud800"}}]}, 1, "lone surrogate"),
    ({"error": {"message": "no such luck"}}, 1, "no such luck"), ({"error": "no such luck"}, 1, "no such luck"),
    ({"error": {"message": "no luck", "code": 400}}, 1, "no luck"),
    ({"error": {"message": "no luck", "code": "x"}}, 1, "no luck"),
    ({"error": {"message": "busy", "code": 429}}, 2, "busy"), ({"error": {"message": "oh", "code": 502}}, 2, "oh"),
    ({"error": {"message": "busy", "code": "429"}}, 2, "busy"), ({"error": {"code": "0502"}}, 1, "0502"),
    ({"object": "error", "message": "oh no", "code": 503}, 2, "oh no"),
    ({"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": ""}}]}, 2, "upstream"),
    ({"choices": [{"message": {"content": "half a"}, "finish_reason": "content_filter"}]}, 1, "half a"),
    ({"choices": [{"message": {"content": None}, "finish_reason": "abort"}]}, 2, "'abort'"),
    ({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}, 2, "'error'"),
    ({"choices": [{"message": {"content": None, "refusal": "I will not"}}]}, 1, "I will not"),
    ({"choices": [{"message": {"content": None, "tool_calls": [{"function": {"name": "f"}}]}}]}, 1, "no tools were"),
    ({"choices": [{"message": {"content": None, "function_call": {"name": "f"}}}]}, 1, "no tools were offered"),
    ({"error": {"message": "oh", "code": 200}}, 1, "oh"), ({"error": {"code": True}, "choices": []}, 1, "code"),
], ids=lambda value: json.dumps(value)[:50])
def test_an_answer_of_another_form_is_one_prompts_trouble(document, tries, says):
    server = second(document)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    endpoint = client(server, retries=1, concurrency=1)
    first, bad, last = ask(endpoint, "a", "bad", "b")
    server.shutdown()
    server.server_close()
    assert bad is None and first.startswith("a:") and last.startswith("b:")
    assert len(server.requests) == 2 + tries and endpoint.failed == len(endpoint.errors) == 1
    assert says in endpoint.errors[0] and "KeyError" not in endpoint.errors[0]


@pytest.mark.parametrize("code, error", [(401, PermissionError), (403, PermissionError), (404, LookupError)])
def test_a_refusal_is_one_whatever_the_status(code, error):
    with (serving(lambda n: {"error": {"message": "no key", "code": code}}) as server,
          pytest.raises(error, match="no key")):
        ask(client(server), "x")


@pytest.mark.parametrize("message, text", [
    ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}, "42"), ({"content": []}, ""),
    ({"role": "assistant"}, ""),
    ({"content": "4", "reasoning_content": None, "reasoning": "2+2"}, "<think>2+2</think>4"),
    ({"content": "4", "reasoning_content": "2+2", "reasoning": "in short"}, "<think>2+2</think>4"),
    ({"content": "4", "reasoning_content": "", "reasoning": [{"type": "text", "text": "2"}]}, "<think>2</think>4")])
def test_texts_come_in_parts_and_by_two_names(message, text):
    with serving(reply=message) as server:
        assert ask(client(server), "x") == [text]


def test_what_the_tokenizer_cannot_read_fails_alone(tmp_path):
    """An alphabet that lacks a letter of one answer; the run file has the answer all the same."""
    letters = CharTokenizer("abx:0123456789")
    with serving() as server:
        server.reply = {"content": "ab"}
        endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", letters, run_file=tmp_path / "run")
        assert endpoint([letters.encode("a")], 9) == [letters.encode("ab")]
        server.reply = {"content": "Z"}
        assert endpoint([letters.encode("b"), letters.encode("a")], 9) == [None, None]
    assert endpoint.failed == 2 and "'Z'" in endpoint.errors[0]
    assert len((tmp_path / "run").read_bytes().splitlines()) == 3


# ---- a run file that several share -----------------------------------------------------------------------------------


def test_a_request_counts_as_kept_when_the_disk_has_it(tmp_path, monkeypatch):
    kept, there = RunFile(tmp_path / "run"), []
    monkeypatch.setattr(os, "fsync", lambda number: there.append(((tmp_path / "run").read_bytes(), dict(kept.texts))))
    kept.append("a", "1")
    assert there == [(b'{"key": "a", "text": "1"}\n', {})]


def test_a_run_file_may_be_shared(tmp_path):
    """Each learns what the others finished, nobody's line is torn by another, and it is open only while it is used."""
    path = tmp_path / "run"
    one, two = RunFile(path), RunFile(path)
    one.append("a", "1")
    two.append("b", "2\n")
    assert two.texts == {"a": "1", "b": "2\n"} and one.texts == {"a": "1"}
    with open(path, "ab") as file:
        file.write(b'{"key": "torn')  # a third one was killed
    one.append("c", "3")
    assert one.texts == RunFile(path).texts == {"a": "1", "b": "2\n", "c": "3"}
    assert [json.loads(line)["key"] for line in path.read_bytes().splitlines()] == ["a", "b", "c"]
    with open(path, "ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(ValueError, match="damaged in line 4"):
        two.append("d", "4")
    assert b'"d"' not in path.read_bytes()


def test_writers_at_once_lose_nothing(tmp_path):
    files = [RunFile(tmp_path / "run") for _ in range(4)]
    threads = [threading.Thread(target=lambda i=i: [files[i % 4].append(f"{i}/{j}", "x" * 500) for j in range(5)])
               for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(RunFile(tmp_path / "run").texts) == {f"{i}/{j}" for i in range(8) for j in range(5)}
    assert len((tmp_path / "run").read_bytes().splitlines()) == 40


def test_a_writer_waits_for_another(tmp_path):
    """Or it would take the other's half line for a torn one, and cut it off."""
    pytest.importorskip("fcntl")
    one, two = RunFile(tmp_path / "run"), RunFile(tmp_path / "run")
    thread = threading.Thread(target=two.append, args=("b", "2"))
    with one.opened() as file:
        file.write(b'{"key": "a", ')
        file.flush()
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive()
        file.write(b'"text": "1"}\n')
    thread.join(10)
    assert RunFile(tmp_path / "run").texts == two.texts == {"a": "1", "b": "2"}


# ---- how long, how often, and with which chance ----------------------------------------------------------------------


def waits_of(monkeypatch, error, retries=9):
    """The pauses of a request that always fails so."""
    waits, spans = [], set()
    monkeypatch.setattr(the_client.random, "uniform", lambda low, high: spans.add((low, high)) or 1.0)
    endpoint = Endpoint("http://x/v1", "m", TOKENIZER, retries=retries, pause=1.0)
    monkeypatch.setattr(endpoint, "over", SimpleNamespace(wait=waits.append))
    monkeypatch.setattr(endpoint, "post", lambda request: (_ for _ in ()).throw(error))
    assert endpoint.answer({}) is None and spans == {(0.5, 1.5)}
    return waits


def test_pauses_double_up_to_a_minute(monkeypatch):
    assert waits_of(monkeypatch, OSError("cut")) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize("status, again", [(408, 1), (409, 1), (425, 1), (429, 1), (500, 1), (503, 1), (599, 1),
                                           (400, 0), (405, 0), (413, 0), (422, 0), (499, 0)])
def test_which_refusals_are_worth_another_try(monkeypatch, status, again):
    assert waits_of(monkeypatch, Refused(status, "no", "7"), retries=1) == [7.0] * again


def test_seeds_and_copies_do_not_trade_places():
    asked = [Endpoint("http://x/v1", "m", TOKENIZER, seed=seed).request("q", 9, copy)["seed"]
             for seed in range(4) for copy in range(4)]
    assert len(set(asked)) == 16


def test_a_raw_prompt_goes_out_as_it_stands():
    """A text that ended by itself gets its end mark back; a text that is none is tried again."""
    answers = [{"choices": [{"text": "a#1", "finish_reason": why}]} for why in ("stop", "length")]
    wrong = [{"choices": [{"text": None}]}, {"choices": []}, {"error": "no"}]
    with serving(lambda n: [*answers, *wrong][n], reply={"content": ""}) as server:
        found = [ask(client(server, raw=True, end="$", top_k=40, retries=0), "1+1?") for _ in range(2)]
        broken = [ask(client(server, raw=True, retries=0), "1+1?") for _ in range(3)]
    assert found == [["a#1$"], ["a#1"]] and broken == [[None]] * 3
    path, _, sent = server.requests[0]
    assert path == "/v1/completions" and "messages" not in sent and (sent["prompt"], sent["top_k"]) == ("1+1?", 40)


# ---- whatever else comes ---------------------------------------------------------------------------------------------


@contextmanager
def sending(*pieces, pause=0.0):
    """A socket that reads each request to its end and answers with these bytes. Yields (port, requests read)."""
    read, listener = [], socket.create_server(("127.0.0.1", 0))

    def one(connection):
        with connection:
            data = b""
            while not data.endswith(b"}"):    # a request's body does
                if not (part := connection.recv(65536)):
                    return
                data += part
            read.append(data)
            with suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], read
    finally:
        listener.close()


def answered(*pieces, pause=0.0, **settings):
    """(the answer, what was said, seconds) of one request to a socket that sends this."""
    with sending(*pieces, pause=pause) as (port, _):
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "m", TOKENIZER, **dict(retries=0, timeout=5) | settings)
        began = time.monotonic()
        found, = ask(endpoint, "x")
        return found, "".join(endpoint.errors), time.monotonic() - began


def head(*lines, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode()


BODY = json.dumps({"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}).encode()
CHUNKED = head("Transfer-Encoding: chunked")


@pytest.mark.parametrize("pieces", [
    [head(), BODY], [head("Content-Type: text/plain", f"Content-Length: {len(BODY)}"), BODY],
    [CHUNKED, b"5\r\n" + BODY[:5] + b"\r\n", f"{len(BODY) - 5:x}\r\n".encode() + BODY[5:] + b"\r\n0\r\n\r\n"],
    [head("Content-Encoding: identity"), b"\xef\xbb\xbf" + BODY], [head(), b"  \n \n" + BODY + b"\n"],
    [b"HTTP/1.1 100 Continue\r\n\r\n", head(), BODY], [head(), BODY.decode().encode("utf-16")],
], ids=range(7))
def test_an_answer_however_it_is_sent(pieces):
    assert answered(*pieces)[0] == "42"


@pytest.mark.parametrize("pieces, says", [
    ([head("Content-Type: text/html"), b"<html>Bad gateway</html>"], "'text/html', 24 bytes, beginning b'<html>Bad"),
    ([head()], "of no type', 0 bytes, beginning b''"), ([head(status="204 No Content")], "0 bytes"),
    ([head("Content-Type: text/event-stream"), b'data: {"choices": []}\n\n'], "beginning b'data: {"),
    ([head("Content-Encoding: gzip"), gzip.compress(BODY)], "Content-Encoding 'gzip'"),
    ([head(), gzip.compress(BODY)], r"beginning b'\x1f\x8b"), ([head(), BODY[:-9]], "beginning b'{\"choices"),
    ([head("Content-Length: 999"), BODY], "IncompleteRead"), ([CHUNKED, b"ffff\r\n" + BODY], "IncompleteRead"),
    ([CHUNKED, b"what\r\n"], "IncompleteRead"), ([b"220 smtp.example.org ESMTP\r\n"], "220 smtp"), ([b""], "Remote"),
    ([head(), b"[" * 99999], "RecursionError"), ([head(), b'"' + b"\xff" * 99 + b'"'], r"""beginning b'"\xff"""),
    ([head("Location: http://127.0.0.1:9/v1", status="301 Moved")], "HTTP 301: moved to http://127.0.0.1:9/v1"),
    ([head("Location: /login", status="302 Found"), b"<html>"], "HTTP 302: moved to /login, <html>"),
    ([head("Location: /x", status="307 T"), b"x"], "HTTP 307: moved to /x"), ([head(status="304 N")], "HTTP 304"),
    ([head("Content-Type: text/html", status="502 Bad"), b"<html>nginx</html>"], "HTTP 502: <html>nginx"),
    ([head("Content-Length: 99", status="500 Oh"), b"half"], "HTTP 500: Oh"),
], ids=lambda value: repr(value)[-40:])
def test_what_is_said_of_an_answer_holds_what_came(pieces, says):
    found, said, _ = answered(*pieces)
    assert found is None and (says in said or says == "RecursionError" and "no JSON" in said), said


def test_a_redirection_takes_no_key_along():
    with sending(head(), BODY) as (other, there):
        moved = head(f"Location: http://127.0.0.1:{other}/v1/chat/completions", status="302 Found")
        assert answered(moved, api_key="secret")[0] is None
        assert there == []


@pytest.mark.parametrize("start", [head(), head(status="500 Oh"), CHUNKED])
def test_the_timeout_is_that_of_the_whole_answer(start):
    """A byte now and then is no answer."""
    found, said, took = answered(start, *[b"1\r\n \r\n" if start is CHUNKED else b" "] * 99, pause=0.05, timeout=0.4)
    assert found is None and took < 2 and ("TimeoutError: after" in said or "HTTP 500: Oh" in said)


def test_an_endless_answer_is_not_kept_in_memory(monkeypatch):
    monkeypatch.setattr(the_client, "LARGEST", 2**16)
    found, said, _ = answered(head(), *[b"x" * 2**16] * 20)
    assert found is None and "more than 65536 bytes, beginning b'xxx" in said


def test_a_call_that_ends_waits_for_no_pause():
    """One prompt learns that the key is wrong while another is told to come back in ten minutes."""
    server = Server()
    server.trouble = lambda n: ((429, {"Retry-After": "600"}) if server.requests[n][2]["messages"][0]["content"] == "a"
                                else time.sleep(0.2) or (401, {}))
    with serving(server=server):
        began = time.monotonic()
        with pytest.raises(PermissionError):
            ask(client(server, concurrency=2), "a", "b")
        assert time.monotonic() - began < 5


def test_a_server_that_says_when_is_asked_then():
    with serving(lambda n: (429, {"Retry-After": "1"}) if n == 0 else None) as server:
        began = time.monotonic()
        assert ask(client(server), "a")[0].startswith("a:") and time.monotonic() - began > 0.9


def test_a_call_after_one_that_ended_tries_again_as_the_first_did():
    with serving(lambda n: {0: (401, {}), 1: (500, {})}.get(n)) as server:
        endpoint = client(server, concurrency=1)
        with pytest.raises(PermissionError):
            ask(endpoint, "a")
        assert ask(endpoint, "b")[0].startswith("b:") and endpoint.repeated == 1
