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
status, and a text that the tokenizer cannot read fails alone. What is said of it holds the beginning of what came. Only
a server that refuses key or name ends a call, and at once: pauses under way end with it. Redirections are not followed:
a request would arrive without its body, and the key at another server. Proxies are those of the environment. Ours,
and not the `openai` client: its pauses end at 8 s, it gives up where a server asks for more than two minutes, and it
takes a page that is not JSON for an answer; under tries of our own it would save three lines.
"""

import hashlib
import json
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path

from ...config import check_settings
from ...data.tokenizer_base import Tokenizer
from .answers import Refused, read_json, text_as_it_stands, trace_of
from .run_file import RunFile

WRONG_REQUEST = (401, 403, 404)  # key, right or name are wrong: so they are for every other request, too
WORTH_ANOTHER_TRY = (408, 409, 425, 429)
LARGEST = 2**26                  # bytes of an answer


class Endpoint:
    """A generator: called with (prompts, max_new_tokens) it returns new tokens, or None for a trace that failed.

    Args:
        url: up to and including /v1, without a query or a password. model: the name the server knows. tokenizer: encode
            and decode.
        temperature, top_p, top_k: of the server's sampling; top_k goes out only if it is given, for not all know it.
            seed: goes out with each request, mixed with its prompt.
        concurrency: requests under way at a time. timeout: seconds for one request, whole: a server that sends a byte
            now and then does not gain any.
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
        check_url(url)
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
        self.lock, self.over = threading.Lock(), threading.Event()    # over: a call is ending, nobody waits longer
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
        traces = self.together(self.trace, requests, self.concurrency)
        return [None if trace is None else trace[-max_new_tokens:] for trace in traces]

    def together(self, work: Callable, things: Sequence, at_once: int) -> list:
        """`work` on each of the things, so many at once. The first error, whosever it is, ends them all: what has not
        begun does not begin, and nobody pauses or asks again."""
        with ThreadPoolExecutor(max(1, at_once)) as pool:
            futures = [pool.submit(work, thing) for thing in things]
            try:
                ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                return [future.result() for future in futures]
            except BaseException:
                self.over.set()
                pool.shutdown(cancel_futures=True)
                self.over.clear()
                raise

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
            pause = min(60.0, self.pause * 2**attempt) * random.uniform(0.5, 1.5)
            try:
                text = self.post(request)
            except Refused as error:
                words = str(error)
                if error.status in WRONG_REQUEST:
                    kind = LookupError if error.status == 404 else PermissionError
                    raise kind(f"{self.url} answered {words}") from None
                if error.status < 500 and error.status not in WORTH_ANOTHER_TRY:
                    break
                pause = retry_after(error.wait, pause)
            except (OSError, ValueError) as error:
                words = f"{type(error).__name__}: {error}"   # no connection, a broken one, or an answer that is none
            else:
                if self.run_file is not None:
                    self.run_file.append(key, text)
                return text
            if attempt < self.retries:
                self.count("repeated")
                if self.over.wait(pause):
                    break
        return self.give_up(words)

    def give_up(self, words: str) -> None:
        self.count("failed")
        with self.lock:
            self.errors.append(words)

    def post(self, request: dict) -> str:
        """Sends one request, returns the trace as text.

        Raises `Refused`, OSError for a connection that fails or takes too long, ValueError for another answer.
        """
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        message = urllib.request.Request(self.url, json.dumps(request).encode(), headers)
        until = time.monotonic() + self.timeout
        try:
            with urllib.request.build_opener(Stay).open(message, timeout=self.timeout) as response:
                body = read_whole(response, until)
        except urllib.error.HTTPError as error:
            with error:
                said = read_some(error, until) or error.reason
            moved = f"moved to {error.headers['Location']}, " if "Location" in error.headers else ""
            raise Refused(error.code, f"HTTP {error.code}: {moved}{said}", error.headers.get("Retry-After")) from None
        except Exception as error:  # http.client has a dozen kinds of broken connection
            raise OSError(f"{type(error).__name__}: {error}") from error
        document = read_json(body, response.headers)
        return text_as_it_stands(document, self.end) if self.raw else trace_of(document)

    def count(self, name: str) -> None:
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)


class Stay(urllib.request.HTTPRedirectHandler):
    """A redirection is a refusal that says where to."""

    def redirect_request(self, *args) -> None:
        return None


def check_url(url: str) -> None:
    """Raises ValueError for a url that no request can go to. trap: one with a password would stand in errors."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"url must start with http:// or https://, got {url!r}")
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must hold no name and no password; a key is api_key's")
    try:
        fits = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:   # of the port
        fits = False
    if not fits or parts.query or parts.fragment:
        raise ValueError(f"url must be of the form http://host:port/v1, without a query, got {url!r}")


def read_whole(response: HTTPResponse, until: float) -> bytes:
    """The body. Raises TimeoutError at `until`, of `time.monotonic`; IncompleteRead, OSError for more than LARGEST."""
    body = bytearray()
    while part := response.read1(2**16):
        body += part
        if len(body) > LARGEST:
            raise OSError(f"an answer of more than {LARGEST} bytes, beginning {bytes(body[:200])!r}")
        if time.monotonic() > until:
            raise TimeoutError(f"after {len(body)} bytes of the answer, beginning {bytes(body[:200])!r}")
    if response.length:     # of what was announced
        raise IncompleteRead(bytes(body[:200]), response.length)
    return bytes(body)


def read_some(error: urllib.error.HTTPError, until: float) -> str:
    """The beginning of what an error says; "" where the connection breaks meanwhile."""
    try:
        return read_whole(error.fp, until)[:2000].decode("utf-8", "replace").strip()
    except Exception:  # as in `post`
        return ""


def retry_after(header: str | None, otherwise: float) -> float:
    """The seconds that a server asks to wait, at most ten minutes; `otherwise` if it does not say, or gives a date."""
    try:
        seconds = float(header)
    except (TypeError, ValueError):
        return otherwise
    return min(600.0, max(0.0, seconds)) if seconds == seconds else otherwise    # "nan" is none
