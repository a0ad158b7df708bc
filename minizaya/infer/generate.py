"""Answering many prompts at once; beside it the plain loop that defines what the answer is.

Prompts of different lengths are padded on the left, so that all of them end, and grow, at the same column. One forward
pass reads them into a cache; every further pass adds one token to each. A sequence that is done leaves the batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..data.ids import token_ids
from ..native.step import reader
from ..notebook import text_bar, tqdm
from .sample import check_sampling, choose, draw_uniforms


def generate(model: Zaya, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, min_p: float = 0.0, stop: Iterable[int] = (), seed: int = 0,
             progress: bool = False, rows: int | None = None, compiled: bool | None = None) -> list[list[int]]:
    """Continues every prompt by at most `max_new_tokens` tokens.

    Args:
        prompts: token ids, one sequence per prompt, of any lengths from 1. They are not changed.
        temperature, top_p, min_p: see `infer.sample`; temperature 0 is greedy and reads neither filter nor seed.
        stop: token ids that end an answer. The stop token is the last token of the answer, so `answer[-1] in stop`
            tells an answer that ended from one that ran out of budget. Empty: every answer uses its whole budget.
        seed: with the prompt's tokens it fixes an answer, whatever the batch mates (up to rounding: another batch
            size can change a logit's last digit). Copies of one prompt get different answers.
        progress: show a bar over the steps.
        rows: decode at most so many prompts at a time, those of like length together; None: all at once. It bounds the
            memory and changes no answer.
        compiled: decode with `native/step.cpp` (True), the plain way (False), or with it where it can be (None); see
            `native.step.reader`.
    Returns:
        The new tokens of each prompt, in the order of `prompts`. Equal to `generate_reference`.
    Raises:
        ValueError: no prompt, an empty prompt, ids outside the vocabulary, a setting out of range, or compiled=True
            for a model that cannot be.

    The model runs without gradients and in eval mode, and gets its modes back.
    """
    prompts, stop = check_request(model, prompts, max_new_tokens, temperature, top_p, min_p, stop, seed)
    answers: list[list[int]] = [[] for _ in prompts]
    if rows is not None and (not isinstance(rows, int) or rows < 1):
        raise ValueError(f"rows must be None or an integer of at least 1, got {rows!r}")
    if max_new_tokens == 0:
        return answers
    uniforms = None if temperature == 0 else draw_uniforms(prompts, max_new_tokens, seed).to(model.embed.weight.device)
    by_length = range(len(prompts)) if rows is None else sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    rows = rows or len(prompts)
    groups = [list(by_length[first: first + rows]) for first in range(0, len(prompts), rows)]
    choose_next = partial(choose, temperature=temperature, top_p=top_p, min_p=min_p)
    read = reader(model, compiled)
    with answering(model), tqdm(total=len(groups) * max_new_tokens, desc="tokens", disable=not progress) as bar:
        for group in groups:
            own = None if uniforms is None else uniforms[group]
            batch = decode(model, read, [prompts[i] for i in group], max_new_tokens, choose_next, stop, own, bar)
            for i, answer in zip(group, batch):
                answers[i] = answer
    return answers


def decode(model: Zaya, read: Callable, prompts: list[list[int]], max_new_tokens: int, choose_next: Callable,
           stop: frozenset[int], uniforms: Tensor | None, bar: text_bar) -> list[list[int]]:
    """One batch of `generate`, in eval mode already. read: `reader(model)`. choose_next: logits (n, v) and uniforms
    (n,) to int64 (n,)."""
    answers: list[list[int]] = [[] for _ in prompts]
    device = model.embed.weight.device
    alive = list(range(len(prompts)))  # the prompt behind each row of the batch
    texts, rows = distinct(prompts)
    tokens, mask = left_pad(texts, device)
    cache = model.new_cache(len(texts))
    for step in range(max_new_tokens):
        logits = read(tokens, cache=cache, mask=mask, last_only=True).logits[:, 0]
        if len(logits) < len(alive):   # equal prompts have been read once
            logits = logits[rows]
            cache.select(torch.tensor(rows, device=device))
        chosen = choose_next(logits, uniforms=None if uniforms is None else uniforms[:, step])
        bar.update()
        going = []
        for row, token in enumerate(chosen.tolist()):
            answers[alive[row]].append(token)
            if token not in stop:
                going.append(row)
        if not going:
            break
        if len(going) < len(alive):
            going = from_the_end(going)
            rows = torch.tensor(going, device=device)
            cache.select(rows)
            chosen, uniforms = chosen[rows], None if uniforms is None else uniforms[rows]
            alive = [alive[row] for row in going]
        tokens, mask = chosen[:, None], None
    return answers


def distinct(prompts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Each different prompt once, and for each of `prompts` its place among them."""
    places = {text: row for row, text in enumerate(dict.fromkeys(map(tuple, prompts)))}
    return [list(text) for text in places], [places[tuple(prompt)] for prompt in prompts]


def from_the_end(going: list[int]) -> list[int]:
    """The same rows, ascending no more: the last ones stand where others left, and the rest keep their places.

    [0, 2, 3, 5] -> [0, 5, 2, 3]: only row 5 moves, so that the cache has one row to copy and not three.
    """
    kept = {row for row in going if row < len(going)}
    last = (row for row in going if row >= len(going))
    return [row if row in kept else next(last) for row in range(len(going))]


def generate_reference(model: Zaya, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float = 1.0,
                       top_p: float = 1.0, min_p: float = 0.0, stop: Iterable[int] = (),
                       seed: int = 0) -> list[list[int]]:
    """What `generate` means: one sequence at a time, no padding, no cache, the whole text read anew for each token."""
    prompts, stop = check_request(model, prompts, max_new_tokens, temperature, top_p, min_p, stop, seed)
    uniforms = draw_uniforms(prompts, max_new_tokens, seed).to(model.embed.weight.device)
    answers = []
    with answering(model):
        for prompt, stream in zip(prompts, uniforms):
            text = list(prompt)
            for step in range(max_new_tokens):
                logits = model(torch.tensor([text], device=stream.device)).logits[:, -1]
                text.append(int(choose(logits, temperature, top_p, min_p, stream[step: step + 1])))
                if text[-1] in stop:
                    break
            answers.append(text[len(prompt):])
    return answers


def left_pad(prompts: list[list[int]], device: torch.device | None = None) -> tuple[Tensor, Tensor | None]:
    """Tokens int64 (n, longest) and mask bool (n, longest), False on the padding at the left, or None without padding.

    The padding repeats a prompt's first token: any id does, since no other token sees it.
    """
    longest = max(map(len, prompts))
    tokens = torch.tensor([prompt[:1] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    if all(len(prompt) == longest for prompt in prompts):
        return tokens, None
    starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    return tokens, torch.arange(longest, device=device) >= starts[:, None]


@contextmanager
def answering(model: torch.nn.Module, parts: Iterable[torch.nn.Module] | None = None) -> Iterator[None]:
    """No gradients and eval mode inside; afterwards every module is in the mode it was in, also after an error.

    parts: `model.modules()`, from someone who has asked for them before: to find them takes longer than a small step.
    """
    training = [module for module in (model.modules() if parts is None else parts) if module.training]
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def check_request(model: Zaya, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, top_p: float,
                  min_p: float, stop: Iterable[int], seed: int) -> tuple[list[list[int]], frozenset[int]]:
    """The prompts as lists and the stop tokens as a set, or one clear ValueError."""
    check_sampling(temperature, top_p, min_p)
    for name, value in (("max_new_tokens", max_new_tokens), ("seed", seed)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} must be an integer, got {value!r}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be >= 0, got {max_new_tokens}")
    if isinstance(prompts, str) or not hasattr(prompts, "__len__") or len(prompts) == 0:
        raise ValueError(f"prompts must be a non-empty list of token lists, got {prompts!r}")
    vocabulary = model.config.vocab_size
    checked = [token_ids(f"prompts[{i}]", prompt, vocabulary) for i, prompt in enumerate(prompts)]
    for i, prompt in enumerate(checked):
        if not prompt:
            raise ValueError(f"prompts[{i}] is empty; a prompt needs at least one token")
    return checked, frozenset(token_ids("stop", stop, vocabulary))
