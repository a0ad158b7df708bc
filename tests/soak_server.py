"""An hour of rude clients: does the server's memory stay flat? `python tests/soak_server.py --minutes 60` prints one JSON document.

A server in a process of its own, nano-reasoner on it, and a few clients that ask, hang up in the middle of a stream, send half a request,
nonsense, prompts that are too long, and connections that say nothing. Every ten seconds its memory is read from /proc. The exit code is 1 if
it died, if it stopped giving the right answer, or if memory grew: the median of the last tenth of the samples against that of the second
tenth, by more than 5%.
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
import threading
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm


def body_of(chance: random.Random) -> bytes:
    """What a client sends: most of it wrong."""
    question = {"role": "user", "content": f"{chance.randrange(10, 99)}+{chance.randrange(10, 99)}?"}
    good = {"model": "nano-reasoner", "messages": [question], "temperature": chance.random(), "stream": chance.random() < 0.5}
    kind = chance.randrange(8)
    wrong = [good, good | {"messages": []}, good | {"temperature": "hot"}, good | {"max_tokens": -chance.randrange(9)},
             good | {"messages": [{"role": "user", "content": "9" * chance.randrange(2000, 200000)}]}, good | {"n": 10 ** 6},
             good | {"rsa": {"N": chance.randrange(-3, 3)}}, [1, 2, 3]][kind]
    text = json.dumps(wrong).encode()
    return text[: chance.randrange(len(text))] if chance.random() < 0.2 else text


def client(port: int, seed: int, until: float, seen: Counter) -> None:
    chance = random.Random(seed)
    while time.monotonic() < until:
        body, manner = body_of(chance), chance.randrange(5)
        length = len(body) if chance.random() < 0.9 else chance.randrange(0, 10 ** 7)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                if manner == 0:
                    raw.sendall((head + body)[: chance.randrange(1, len(head) + len(body) + 1)])      # half a request
                elif manner == 1:
                    raw.sendall(bytes(chance.randrange(256) for _ in range(chance.randrange(1, 400))))  # nonsense
                elif manner == 2:
                    raw.sendall(head + body)
                    raw.recv(chance.randrange(1, 300))                                                # hangs up early
                else:
                    raw.sendall(head + body)
                    raw.settimeout(chance.choice((0.2, 5)))
                    while raw.recv(65536) and manner == 3:
                        pass
            seen[("half", "nonsense", "hang up", "whole", "one read")[manner]] += 1
        except OSError as error:
            seen[type(error).__name__] += 1
        time.sleep(chance.random() * 0.05)


def right_answer(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(
        {"model": "nano-reasoner", "messages": [{"role": "user", "content": "47+85?"}], "temperature": 0}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return "132" in answer["choices"][0]["message"]["content"]


def memory(process) -> int:
    """Resident bytes."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=6)
    args = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-m", "minizaya", "serve", "--port", "0"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    port = None
    while port is None:
        line = server.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        found = re.search(r"http://[^:]+:(\d+)", line)
        port = int(found[1]) if found else None
    threading.Thread(target=lambda: [None for _ in server.stdout], daemon=True).start()      # nobody may block on its log
    until, seen, samples, right = time.monotonic() + 60 * args.minutes, Counter(), [], []
    for seed in range(args.clients):
        threading.Thread(target=client, args=(port, seed, until, seen), daemon=True).start()
    for _ in tqdm(range(int(6 * args.minutes)), unit="sample"):
        time.sleep(10)
        if server.poll() is not None:
            break
        samples.append(memory(server))
        right.append(right_answer(port))
    tenth = max(1, len(samples) // 10)
    early, late = statistics.median(samples[tenth:2 * tenth] or [0]), statistics.median(samples[-tenth:] or [0])
    alive = server.poll() is None
    server.terminate()
    growth = late / early - 1 if early else 1.0
    print(json.dumps(dict(minutes=args.minutes, requests=dict(seen), alive=alive, right=sum(right), asked=len(right),
                          start_mb=round(samples[0] / 1e6, 1), early_mb=round(early / 1e6, 1), late_mb=round(late / 1e6, 1),
                          most_mb=round(max(samples) / 1e6, 1), growth=round(growth, 4))))
    return 0 if alive and all(right) and growth < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
