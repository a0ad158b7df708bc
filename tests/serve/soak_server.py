"""An hour of rude clients: does the server's memory stay flat? `python tests/serve/soak_server.py --minutes 60`

Two servers in processes of their own: nano-reasoner, and a chat model of random weights (micro, paged, with a chat
template of its own). A few clients each: they ask in every way that there is, whole, streamed, several choices, stop
texts, Markovian RSA, conversations with tools; they hang up in the middle of any of these, send half a request,
nonsense, prompts that are too long, and wait without a word.

Every ten seconds the servers' memory is read from /proc, and each is asked a control question whose answer is known.
Prints a line a minute, then one JSON document, then the verdict. The exit code is 1 if a server died, if a control
answer was wrong, or if memory grew: the median of the last tenth of the samples against that of the second tenth, by
more than 5%. A server warms up for some five minutes (threads, and what the allocator keeps for them), so a run of
less than half an hour proves little.
"""

import argparse
import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

TEMPLATE = """{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<zyphra_tool_call>' ~ call.function.name ~ '</zyphra_tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}{{ '<|im_start|>assistant\\n' }}"""
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


class Running:
    """A server, what its memory was, and how its control question was answered."""

    def __init__(self, name: str, flags: list[str], ways):
        self.name, self.ways, self.samples, self.right, self.seen = name, ways, [], [], Counter()
        self.process = subprocess.Popen([sys.executable, "-m", "minizaya", "serve", "--port", "0", *flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found = None
        while found is None:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{name}: the server did not start")
            found = re.search(r"http://[^:]+:(\d+)", line)
        self.port, self.first = int(found[1]), None
        read_on = threading.Thread(target=lambda: [None for _ in self.process.stdout], daemon=True)
        read_on.start()  # it may not block on its log

    def sample(self) -> None:
        """Reads the memory (resident bytes), and asks the control question."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.samples.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024)
        try:
            answer = self.control()
            self.first = self.first or answer
            self.right.append(answer == self.first and (self.name == "chat" or answer["content"] == "132"))
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            self.seen[f"control: {type(error).__name__}"] += 1
            self.right.append(False)

    def control(self) -> dict:
        """47+85, which nano-reasoner knows; random weights must say at least the same each time."""
        body = json.dumps({"messages": [{"role": "user", "content": "47+85?"}], "temperature": 0, "max_tokens": 60})
        for _ in range(200):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            connection.request("POST", "/v1/chat/completions", body)
            response = connection.getresponse()
            document = json.loads(response.read())
            connection.close()
            if response.status != 503:  # busy: that is an answer, too, but not this one's
                break
            time.sleep(0.2)
        return document["choices"][0]["message"]

    def growth(self) -> tuple[float, float, float]:
        """Median memory of the second tenth of the samples, of the last tenth, and by how much it grew."""
        tenth = max(1, len(self.samples) // 10)
        early, late = (statistics.median(part or self.samples)
                       for part in (self.samples[tenth: 2 * tenth], self.samples[-tenth:]))
        return early, late, late / early - 1


def wrong_ones(chance: random.Random) -> list:
    """What no server may answer."""
    long = {"messages": [{"role": "user", "content": "9" * chance.randrange(2000, 200000)}]}
    user = {"messages": [{"role": "user", "content": "1+1?"}]}
    return [{"messages": []}, user | {"temperature": "hot"}, user | {"max_tokens": -chance.randrange(9)}, long,
            user | {"n": 10**6}, [1, 2, 3], user | {"rsa": {"N": chance.randrange(-3, 3)}},
            user | {"frequency_penalty": 2}, user | {"tools": [{"x" * 50000: 1}]}]


def task_ways(chance: random.Random) -> list[dict]:
    """Requests that nano-reasoner answers."""
    user = {"role": "user", "content": f"{chance.randrange(10, 99)}+{chance.randrange(10, 99)}?"}
    asked = {"messages": [user], "temperature": chance.random()}
    rsa = {"N": chance.randrange(2, 7), "C": 2, "T": chance.randrange(3), "beta": 48, "tau": 24}
    return [asked, asked | {"stream": True}, asked | {"n": chance.randrange(2, 6)}, asked | {"stop": ["b", "#1"]},
            asked | {"rsa": rsa},
            asked | {"n": 2, "stream": True, "stop": "7", "stream_options": {"include_usage": True}}]


def chat_ways(chance: random.Random) -> list[dict]:
    """Requests that the chat model answers, with nonsense."""
    user = {"role": "user", "content": "Hi <|im_end|> é" * chance.randrange(1, 4)}
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    tools = [user, {"role": "assistant", "content": None, "tool_calls": [call]},
             {"role": "tool", "tool_call_id": "c", "content": "2"}]
    asked = {"messages": [user], "max_tokens": chance.randrange(1, 80)}
    rsa = {"messages": [user], "rsa": {"N": 2, "C": chance.randrange(1, 3), "T": 1, "beta": 20, "tau": 10}}
    return [asked, asked | {"stream": True}, asked | {"messages": tools, "tools": [TOOL]},
            asked | {"n": 2, "stop": ["a", "[1"]}, rsa,
            asked | {"messages": tools, "tools": [TOOL], "tool_choice": "none", "stream": True}]


def client(server: Running, seed: int, until: float) -> None:
    chance = random.Random(seed)
    while time.monotonic() < until:
        good = chance.random() < 0.6
        body = json.dumps(chance.choice(server.ways(chance) if good else wrong_ones(chance))).encode()
        if chance.random() < 0.1:
            good, body = False, body[: chance.randrange(len(body))]
        length = len(body)
        if chance.random() < 0.05:
            good, length = False, chance.randrange(0, 10**7)
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                f"Content-Length: {length}\r\n\r\n").encode()
        manner = chance.choice(("half", "nonsense", "hang up early", "hang up late", "to the end", "to the end"))
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
                if manner == "half":
                    raw.sendall((head + body)[: chance.randrange(1, len(head) + len(body) + 1)])
                elif manner == "nonsense":
                    raw.sendall(bytes(chance.randrange(256) for _ in range(chance.randrange(1, 400))))
                else:
                    raw.sendall(head + body)
                    if manner == "hang up late":
                        time.sleep(chance.random())       # in the middle of a whole answer, or of a round
                    elif manner == "to the end":
                        raw.settimeout(60 if good else 1)
                        said = raw.recv(65536)
                        server.seen[said[9:12].decode("latin-1") if said.startswith(b"HTTP/") else "no answer"] += 1
                        while b"text/event-stream" in said and raw.recv(65536):
                            pass                          # the end of a stream is the end of its connection
            server.seen[manner] += 1
        except OSError as error:
            server.seen[type(error).__name__] += 1
        time.sleep(chance.random() * 0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=6, help="of each server (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "minizaya", "materialize", "micro", f"{folder}/micro"], check=True,
                       capture_output=True)
        Path(folder, "micro", "chat_template.jinja").write_text(TEMPLATE)
        servers = [Running("tasks", ["--model", "nano-reasoner"], task_ways),
                   Running("chat", ["--weights", f"{folder}/micro", "--slots", "8", "--size", "700"], chat_ways)]
        try:
            return soak(servers, args.minutes, args.clients)
        finally:
            for server in servers:
                server.process.terminate()
                server.process.wait()


def soak(servers: list[Running], minutes: float, clients: int) -> int:
    start = time.monotonic()
    until = start + 60 * minutes
    for server in servers:
        for seed in range(clients):
            threading.Thread(target=client, args=(server, seed, until), daemon=True).start()
    minute = 1
    while time.monotonic() < until and all(server.process.poll() is None for server in servers):
        time.sleep(max(0, min(10, until - time.monotonic())))
        for server in servers:
            if server.process.poll() is None:
                server.sample()
        if time.monotonic() - start >= 60 * minute or time.monotonic() >= until:
            states = "; ".join(f"{s.name}: {s.samples[-1] / 1e6:.0f} MB, {sum(s.right)} of {len(s.right)} controls "
                               f"right, {s.seen.total()} events" for s in servers)
            print(f"{(time.monotonic() - start) / 60:.0f} min  {states}", flush=True)
            minute += 1
    report, well = {"minutes": minutes}, True
    for s in servers:
        early, late, growth = s.growth()
        alive = s.process.poll() is None
        well &= alive and all(s.right) and growth < 0.05
        report[s.name] = dict(requests=dict(s.seen), alive=alive, right=sum(s.right), asked=len(s.right),
                              start_mb=round(s.samples[0] / 1e6, 1), early_mb=round(early / 1e6, 1),
                              late_mb=round(late / 1e6, 1), most_mb=round(max(s.samples) / 1e6, 1),
                              growth=round(growth, 4))
    print(json.dumps(report))
    facts = "; ".join(f"{s.name}: {sum(s.right)} of {len(s.right)} control answers right, memory at most "
                      f"{max(s.samples) / 1e6:.0f} MB, at last {s.samples[-1] / 1e6:.0f} MB ({s.growth()[2]:+.1%})"
                      f"{'' if s.process.poll() is None else ', DIED'}" for s in servers)
    print(f"{'GOOD' if well else 'BAD'}: {facts}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
