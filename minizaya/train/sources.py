"""What a step reads: windows of text, and problems of a task, as micro-batches."""

import copy
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import check_settings
from ..data import tasks
from ..data.aggregation import solution_chat
from ..data.chat import Chat
from ..data.pack import IGNORE, lay_out, pack
from ..data.text import Batches
from ..data.tokenizer import Tokenizer
from ..data.trim import cut


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one source.

    inputs: int64 (b, t). targets: int64 (b, t), the token after each input, or IGNORE. valid: bool (b, t), False where
    an input is padding, or None. Padding stands on the right, where no real token sees it, so the model needs no mask.
    doc_ids: int64 (b, t), the document of each token where a row holds several, or None: one document a row.
    Raises ValueError for another shape than that of the inputs, a valid that is not bool, or padding elsewhere.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    valid: Tensor | None = None
    doc_ids: Tensor | None = None

    def __post_init__(self):
        for name in ("targets", "valid", "doc_ids"):
            value = getattr(self, name)
            if value is not None and value.shape != self.inputs.shape:
                raise ValueError(f"{name} must have the shape of inputs, {tuple(self.inputs.shape)}, "
                                 f"got {tuple(value.shape)}")
        if self.valid is not None and self.valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool, got {self.valid.dtype}")
        if self.valid is not None and bool((self.valid[:, 1:] & ~self.valid[:, :-1]).any()):
            raise ValueError("valid: padding must stand on the right of every row")

    def to(self, device: torch.device) -> "Batch":
        """The same batch there; sources make theirs on the CPU, the trainer moves them to its model."""
        moved = copy.copy(self)  # not checked again: a look at numbers on a GPU waits for them
        for name in ("inputs", "targets", "valid", "doc_ids"):
            value = getattr(self, name)
            object.__setattr__(moved, name, None if value is None else value.to(device))
        return moved


Source = Callable[[int], Batch]  # step (from 0) -> micro-batch; a pure function, so a resumed run reads the same
SEARCH_LIMIT = 1000              # draws in a row that may fail before a source says that it cannot go on


def seed_of(*parts: str | int) -> int:
    """A seed for whoever these names and numbers say, 0..2^63 - 1: other parts, or another order, another seed.

    trap: sums collide. seed + stage gives seed 0, stage 2 and seed 1, stage 1 the same chances.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def text_source(tokens: Sequence[int] | Tensor, rows: int, seq: int, seed: int) -> Source:
    """`rows` random windows of `seq` tokens; every token is scored. Raises ValueError as `data.text.Batches`."""
    windows = Batches(tokens, rows, seq, seed)
    return lambda step: Batch("text", *windows(step))


def task_source(name: str, difficulty: int, tokenizer: Tokenizer, rows: int, seed: int) -> Source:
    """`rows` training problems of one task, one a row, padded on the right; only the completion is scored.

    The prompt is not: its digits are drawn at random, so there is nothing to learn, and their noise would drown the
    signal of the few tokens that follow a rule. Raises ValueError for an unknown task, a bad difficulty or rows < 1.
    """
    check_settings(locals(), rows=1)
    tasks.get(name).generate(0, difficulty)  # a wrong difficulty is an error now, not at the first step

    def batch(step: int) -> Batch:
        # one seed a step: problems(..., seed) draws its list afresh from it
        problems = tasks.problems(name, "train", difficulty, rows, seed=seed * 1_000_003 + step)
        return problem_batch(problems, tokenizer)

    return batch


def problem_batch(problems: list[tasks.Problem], tokenizer: Tokenizer) -> Batch:
    """The problems as one padded micro-batch, prompts and padding unscored."""
    texts = [tokenizer.encode(problem.text) for problem in problems]
    prompts = [len(tokenizer.encode(problem.prompt)) for problem in problems]
    longest = max(map(len, texts))
    padded = torch.full((len(texts), longest), tokenizer.pad_id, device="cpu")
    valid = torch.zeros_like(padded, dtype=torch.bool)
    scored = torch.zeros_like(valid)
    for row, (text, prompt) in enumerate(zip(texts, prompts)):
        padded[row, : len(text)] = torch.tensor(text, device="cpu")
        valid[row, : len(text)] = True
        scored[row, prompt: len(text)] = True
    targets = torch.where(scored, padded, IGNORE)[:, 1:]
    # the last token of a row is only ever a target; as an input it would teach nothing
    return Batch("task", padded[:, :-1], targets, valid[:, 1:])


def packed_source(name: str, draw: Callable[[random.Random], Chat], rows: int, capacity: int, pad_id: int,
                  seed: int) -> Source:
    """About `rows` rows of whole documents, packed; a document longer than `capacity` loses reasoning, not its answer.

    Args:
        draw: makes one document; all its chance comes from the generator it is given.
        rows: full rows' worth of tokens to draw a step. Packing leaves small gaps, so there may be a row more.
        capacity: tokens in a row, and the budget of the trimming.
    Raises ValueError at a step where 1,000 documents in a row have an answer that does not fit, or no token at all.
    """
    check_settings(locals(), rows=1, capacity=1)

    def batch(step: int) -> Batch:
        rng = random.Random(f"{name}/{seed}/{step}")
        documents, tokens, misses = [], 0, 0
        while tokens < rows * capacity:
            trimmed = cut(draw(rng), capacity)
            if trimmed and trimmed.tokens:  # None: even its answer does not fit
                documents.append(trimmed)
                tokens, misses = tokens + len(trimmed.tokens), 0
            elif (misses := misses + 1) == SEARCH_LIMIT:
                raise ValueError(f"capacity must hold the documents of {name}, at least their answers: none of "
                                 f"{SEARCH_LIMIT} in a row fits into {capacity} tokens")
        bins = pack([len(document.tokens) for document in documents], capacity)
        laid = lay_out([d.tokens for d in documents], bins, capacity, pad_id, [d.loss_mask for d in documents])
        return Batch(name, laid.tokens, laid.targets, laid.mask, laid.doc_ids)

    return batch


def problem_documents(levels: dict[str, tuple[int, int]], tokenizer: Tokenizer,
                      focus: str | None = None) -> Callable[[random.Random], Chat]:
    """Draws worked problems of the training part.

    levels: task name -> lowest and highest difficulty, both included. focus: a task that half of the problems are of,
    beside its turn among all.
    """
    names = sorted(levels)
    for name in names:
        for difficulty in levels[name]:
            tasks.get(name).generate(0, difficulty)  # a wrong difficulty is an error now, not at the first step

    def draw(rng: random.Random) -> Chat:
        name = focus if focus and rng.random() < 0.5 else rng.choice(names)
        _, problem = training_problem(name, rng.randint(*levels[name]), rng)
        return solution_chat(problem, *tasks.get(name).practice(problem, rng), tokenizer)

    return draw


def training_problem(name: str, difficulty: int, rng: random.Random) -> tuple[int, tasks.Problem]:
    """A problem of the training part, and the number that `generate` makes it from. ValueError if there is none."""
    for _ in range(tasks.SEARCH_LIMIT):
        number = rng.getrandbits(63)
        problem = tasks.get(name).generate(number, difficulty)
        if tasks.split(problem) == "train":
            return number, problem
    raise ValueError(f"difficulty: {name} at {difficulty} has no train problem in {tasks.SEARCH_LIMIT} draws")


def mixture(*sources: Source) -> Callable[[int], list[Batch]]:
    """All sources at every step: one micro-batch each."""
    if not sources:
        raise ValueError("sources must hold at least one source, got none")
    return lambda step: [source(step) for source in sources]
