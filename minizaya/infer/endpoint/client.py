"""Any OpenAI-compatible server as a generator: Markovian RSA over the real ZAYA1-8B, served by vLLM or another.

    ask = Endpoint("http://localhost:8010/v1", "Zyphra/ZAYA1-8B", tokenizer, run_file="aime.jsonl")
    result = markovian_rsa(ask, tokenizer.encode(question), RSAConfig(beta=16384, tau=4096), in_words(tokenizer))

Markovian RSA speaks tokens, a chat server text. So a prompt is decoded and sent as one user message, to which the
server applies the model's chat template; the reply is encoded. A tail is then the last tau tokens of our tokenizer's
reading of the text. trap: read with another tokenizer than the server's, a reply may have more tokens than were asked
for; its end is kept, which is what is handed on.

With `raw` the prompt goes out as it stands, to /completions, and the reply is the trace as it stands: for models
without a chat template, such as our small reasoners.

The budget goes out as `max_tokens` and covers thinking and answer together. A server that splits off the reasoning
sends it as `reasoning_content` (or `reasoning`); the trace is put together again as <think>reasoning</think>answer, and
a trace that was cut off while thinking stays open.

Servers fail: requests are repeated with growing pauses, a trace that still fails is None, and the others go on. So it
is with whatever comes back: an answer of another form is tried again, an error document counts as one whatever the
status, and a text that the tokenizer cannot read fails alone. Only a server that refuses key or name ends a call. Ours,
and not the `openai` client: its pauses end at 8 s, it gives up where a server asks for more than two minutes, and it
takes a page that is not JSON for an answer; under tries of our own it would save three lines.
"""

import hashlib
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...config import check_settings
from ...data.tokenizer_base import Tokenizer
from .answers import Refused, text_as_it_stands, trace_of
from .run_file import RunFile

WRONG_REQUEST = (401, 403, 404)  # key, right or name are wrong: so they are for every other request, too
WORTH_ANOTHER_TRY = (408, 409, 425, 429)


class Endpoint:
    """A generator: called with (prompts, max_new_tokens) it returns new tokens, or None for a trace that failed.

    Args:
        url: up to and including /v1. model: the name the server knows. tokenizer: encode and decode.
        temperature, top_p, top_k: of the server's sampling; top_k goes out only if it is given, for not all know it.
            seed: goes out with each request, mixed with its prompt.
        concurrency: requests under way at a time. timeout: seconds for one request.
        retries: further tries after the first. pause: seconds before the first of them; doubled each time, up to a
            minute, and varied by half, so that clients do not come back all at once. A Retry-After is obeyed.
        api_key: sent as a bearer token; it is never written anywhere.
        raw: prompts as they stand. end: with raw, what a text that ended by itself ends with; a server leaves it out.
        run_file: finished requests are appended here, one JSON line each; another run with this file asks only for what
            is missing. None: nothing is kept.
    Attributes:
        sent, reused, repeated, failed: counts of requests made, read from the run file, tried again, given up.
        errors: the last words of those given up.
    Raises ValueError for settings out of range or a damaged run file.
    """

    def __init__(self, url: str, model: str, tokenizer: Tokenizer, temperature: float = 1.0,
                 top_p: float = 1.0, seed: int = 0, concurrency: int = 16, timeout: float = 1800.0,
                 retries: int = 6, pause: float = 1.0, api_key: str | None = None, run_file: str | Path | None = None,
                 top_k: int | None = None, raw: bool = False, end: str = ""):
        if not str(url).startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {url!r}")
        if not isinstance(model, str) or not model:
            raise ValueError(f"model must be the name that the server knows, got {model!r}")
        check_settings(locals(), temperature="[0, inf)", top_p="(0, 1]", seed=int, concurrency=1, timeout="(0, inf)",
                       retries=0, pause="[0, inf)", raw=bool)
        if top_k is not None:
            check_settings(locals(), top_k=-1)      # -1 and 0: servers take both for all tokens
        if not isinstance(end, str) or (end and not raw):
            raise ValueError(f"end must be a text, and needs raw, got {end!r}")
        if api_key is not None and not (isinstance(api_key, str) and api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key must be a text of printable ASCII characters, got another")   # never shown
        self.url = url.rstrip("/") + ("/completions" if raw else "/chat/completions")
        self.model, self.tokenizer, self.raw, self.end, self.top_k = model, tokenizer, raw, end, top_k
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self.concurrency, self.timeout, self.retries, self.pause = concurrency, timeout, retries, pause
        self.api_key = api_key
        self.sent = self.reused = self.repeated = self.failed = 0
        self.errors: list[str] = []
        self.copies: Counter = Counter()    # how often each prompt has been asked: its copies have different chances
        self.lock = threading.Lock()
        self.run_file = None if run_file is None else RunFile(Path(run_file))

    def __call__(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int] | None]:
        """The new tokens of each prompt, at most `max_new_tokens`; None where the request failed for good.

        Raises PermissionError or LookupError when the server refuses key or model: no other request would fare better;
        ValueError for a budget below one token.
        """
        check_settings(locals(), max_new_tokens=1)
        requests = []
        for prompt in prompts:
            text = self.tokenizer.decode(prompt)
            requests.append(self.request(text, max_new_tokens, self.copies[text]))
            self.copies[text] += 1
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self.trace, request) for request in requests]
            try:
                traces = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [None if trace is None else trace[-max_new_tokens:] for trace in traces]

    def request(self, text: str, max_new_tokens: int, copy: int) -> dict:
        """What is sent. Its seed tells copies apart, so the request as a whole is the key of the run file."""
        digest = hashlib.sha256(f"{self.seed}/{copy}/{text}".encode()).digest()
        asked = {"prompt": text} if self.raw else {"messages": [{"role": "user", "content": text}]}
        return {"model": self.model, **asked, "max_tokens": max_new_tokens,
                "temperature": self.temperature, "top_p": self.top_p, "seed": int.from_bytes(digest[:4], "big") >> 1,
                **({} if self.top_k is None else {"top_k": self.top_k})}

    def trace(self, request: dict) -> list[int] | None:
        """One request's trace; None where the request failed for good, or says what our tokenizer cannot read."""
        text = self.answer(request)
        try:
            return None if text is None else self.tokenizer.encode(text)
        except ValueError as error:
            return self.give_up(f"the tokenizer cannot read the answer: {error}")

    def answer(self, request: dict) -> str | None:
        """One request's trace as text: from the run file, or from the server in as many tries as allowed."""
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        if self.run_file is not None and key in self.run_file.texts:
            self.count("reused")
            return self.run_file.texts[key]
        self.count("sent")
        words = ""
        for attempt in range(self.retries + 1):
            wait = min(60.0, self.pause * 2**attempt) * random.uniform(0.5, 1.5)
            try:
                text = self.post(request)
            except Refused as error:
                words = str(error)
                if error.status in WRONG_REQUEST:
                    kind = LookupError if error.status == 404 else PermissionError
                    raise kind(f"{self.url} answered {words}") from None
                if error.status < 500 and error.status not in WORTH_ANOTHER_TRY:
                    break
                wait = retry_after(error.wait, wait)
            except (OSError, ValueError) as error:
                words = f"{type(error).__name__}: {error}"   # no connection, a broken one, or an answer that is none
            else:
                if self.run_file is not None:
                    self.run_file.append(key, text)
                return text
            if attempt < self.retries:
                self.count("repeated")
                time.sleep(wait)
        return self.give_up(words)

    def give_up(self, words: str) -> None:
        self.count("failed")
        with self.lock:
            self.errors.append(words)

    def post(self, request: dict) -> str:
        """Sends one request, returns the trace as text.

        Raises `Refused`, OSError for a connection that fails, ValueError for an answer of another form.
        """
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        message = urllib.request.Request(self.url, json.dumps(request).encode(), headers)
        try:
            with urllib.request.urlopen(message, timeout=self.timeout) as response:
                document = json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                said = read_some(error) or error.reason
            raise Refused(error.code, f"HTTP {error.code}: {said}", error.headers.get("Retry-After")) from None
        except Exception as error:  # http.client has a dozen kinds of broken connection
            raise OSError(f"{type(error).__name__}: {error}") from error
        return text_as_it_stands(document, self.end) if self.raw else trace_of(document)

    def count(self, name: str) -> None:
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)


def read_some(error: urllib.error.HTTPError) -> str:
    """The beginning of what an error says; "" where the connection breaks meanwhile."""
    try:
        return error.read(2000).decode("utf-8", "replace").strip()
    except Exception:  # as in `post`
        return ""


def retry_after(header: str | None, otherwise: float) -> float:
    """The seconds that a server asks to wait, at most ten minutes; `otherwise` if it does not say, or gives a date."""
    try:
        return min(600.0, max(0.0, float(header)))
    except (TypeError, ValueError):
        return otherwise
