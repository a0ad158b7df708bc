"""A very small chat server on this machine, for lesson 10: enough of the OpenAI protocol for `infer.endpoint`.

It takes the user's message as the prompt as it stands, without a chat template, and answers one request at a time.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..arch.model import Zaya
from ..data.tasks import END
from ..data.tokenizer import Tokenizer
from ..infer.generate import generate


class LittleServer:
    """Serves `model` on a free port of the loopback interface while its `with` block runs;
    `url` is what a client needs.

    fail_every: every so many requests one is answered with an error 503; 0: none is.
    """

    def __init__(self, model: Zaya, tokenizer: Tokenizer, fail_every: int = 0):
        self.model, self.tokenizer, self.fail_every = model, tokenizer, fail_every
        self.requests, self.lock = 0, threading.Lock()

    def __enter__(self) -> "LittleServer":
        little = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, document = little.answer(request)
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: dict) -> tuple[int, dict]:
        """(HTTP status, document) for one chat request."""
        with self.lock:
            self.requests += 1
            if self.fail_every and self.requests % self.fail_every == 0:
                return 503, {"error": {"message": "busy"}}
            prompt = self.tokenizer.encode(request["messages"][-1]["content"])
            tokens, = generate(self.model, [prompt], request["max_tokens"], request.get("temperature", 1.0),
                               stop=self.tokenizer.encode(END), seed=request.get("seed", 0))
        ended = self.tokenizer.decode(tokens[-1:]) == END
        message = {"role": "assistant", "content": self.tokenizer.decode(tokens)}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop" if ended else "length"}]}
