"""Honest figures: the loss on text that was held out, and the share of held-out problems solved."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arch.model import Zaya
from ..data import tasks
from ..data.tokenizer import Tokenizer
from ..infer.generate import answering, generate
from ..notebook import tqdm

# where a model card looks: an easy problem, two in between, a hard one
LEVELS = {"addition": (2, 6, 10, 16), "base": (1, 2, 3, 5), "chain100": (2, 6, 12, 20), "copy": (4, 10, 16, 24),
          "countdown": (1, 2, 3, 4), "falsify": (1, 2, 3, 5), "invert": (1, 2, 3, 5), "modchain": (3, 8, 14, 22),
          "parity": (3, 8, 14, 20), "program": (1, 3, 5, 8), "reverse": (4, 10, 16, 24), "rule": (1, 2, 3),
          "sheet": (1, 3, 12, 24), "sorting": (3, 6, 9, 12)}
ROWS = 256  # sequences decoded at a time


def held_out_loss(model: Zaya, tokens: Tensor, window: int = 128, batch: int = 16) -> float:
    """Mean loss in nats a token over `tokens`, int64 (n,): every token but the first is predicted exactly once.

    Windows of `window` tokens overlap by half, and only the second half of each is scored, so every prediction sees at
    least `window` / 2 tokens (at the very start of the text: all there are) and never a later one. The routing biases
    stay as they are, and these tokens do not count in any load.

    trap: no window longer than the rows of training. Distances that RoPE never turned through in training confuse the
    model: after 300 steps on rows of 128 a window of 256 cost 0.2 nats a character, the extra context notwithstanding.
    """
    if window < 2 or window % 2:
        raise ValueError(f"window must be an even number, at least 2, got {window}")
    if tokens.dim() != 1 or len(tokens) < 2:
        raise ValueError(f"tokens must be one-dimensional, at least 2 long, got {tuple(tokens.shape)}")
    device = model.embed.weight.device
    half, last = window // 2, len(tokens) - 1           # inputs 0 .. last - 1 predict targets 1 .. last
    total = 0.0
    # spans (first input, inputs before the first scored one, inputs in all)
    spans = [(0, 0, min(window, last))]
    spans += [(start, half, min(window, last - start)) for start in range(half, last - half, half)]
    full = [span for span in spans[1:] if span[2] == window]
    groups = [spans[:1], *(full[i: i + batch] for i in range(0, len(full), batch)),
              [span for span in spans[1:] if span[2] < window]]
    with answering(model):
        for group in filter(None, groups):
            inputs = torch.stack([tokens[start: start + length] for start, _, length in group]).to(device)
            targets = torch.stack([tokens[start + 1: start + length + 1] for start, _, length in group]).to(device)
            skip = group[0][1]
            logits = model(inputs).logits[:, skip:]
            total += F.cross_entropy(logits.flatten(0, 1), targets[:, skip:].flatten(), reduction="sum").item()
    return total / last


def answers(model: Zaya, tokenizer: Tokenizer, problems: list[tasks.Problem], rooms: list[int], temperature: float,
            seed: int, rows: int = ROWS, bar: bool = True) -> list[list[int]]:
    """One answer to each problem, token ids up to the end mark, at most as many as `rooms` says; in the given order."""
    order = sorted(range(len(problems)), key=rooms.__getitem__)  # batch mates of one length: no row waits long
    found, stop = [[]] * len(problems), tokenizer.encode(tasks.END)
    for first in tqdm(range(0, len(order), rows), desc="solve", unit="batch", disable=not bar):
        group = order[first: first + rows]
        prompts = [tokenizer.encode(problems[i].prompt) for i in group]
        written = generate(model, prompts, rooms[group[-1]], temperature, stop=stop, seed=seed)
        for i, answer in zip(group, written):
            found[i] = answer[: rooms[i]]
    return found


def solve(model: Zaya, tokenizer: Tokenizer, problems: list[tasks.Problem]) -> tuple[list[int], list[str]]:
    """Puts `problems` to the model. Returns 1 or 0 for each, and what the model wrote.

    It reads the prompt alone and writes at temperature 0 up to the end mark; the task's own `verify` judges what it
    wrote. It may write as much as the longest of the worked solutions, and four tokens more.
    """
    room = max(len(tokenizer.encode(problem.completion)) for problem in problems) + 4
    written = answers(model, tokenizer, problems, [room] * len(problems), 0.0, 0, rows=128)
    texts = [tokenizer.decode(ids) for ids in written]
    return [tasks.get(problem.task).verify(problem, text) for problem, text in zip(problems, texts)], texts


def accuracies(model: Zaya, tokenizer: Tokenizer, levels: dict, problems: int, temperature: float = 1.0,
               seed: int = 1) -> dict:
    """{task: {difficulty: {"accuracy", "stderr", "tokens"}}}: one rollout for each of `problems` held-out problems.

    A rollout may be half as long again as the longest worked solution among the problems. tokens: the mean length.
    """
    asked, rooms = [], []
    for name, difficulties in levels.items():
        for difficulty in difficulties:
            drawn = tasks.problems(name, "held_out", difficulty, problems, seed)
            room = max(len(tokenizer.encode(problem.completion)) for problem in drawn)
            asked, rooms = asked + drawn, rooms + [room + room // 2] * len(drawn)
    scores: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for problem, answer in zip(asked, answers(model, tokenizer, asked, rooms, temperature, seed)):
        right = tasks.get(problem.task).verify(problem, tokenizer.decode(answer))
        scores.setdefault((problem.task, problem.difficulty), []).append((right, len(answer)))
    return {name: {str(difficulty): summary(scores[name, difficulty]) for difficulty in difficulties}
            for name, difficulties in levels.items()}


def summary(scores: list[tuple[int, int]]) -> dict:
    """Mean and standard error of the zeros and ones, and the mean length."""
    n = len(scores)
    mean = sum(right for right, _ in scores) / n
    return {"accuracy": round(mean, 4), "stderr": round((mean * (1 - mean) / n) ** 0.5, 4),
            "tokens": round(sum(length for _, length in scores) / n, 1)}
