"""Honest figures: the loss on text that was held out, and the share of held-out problems solved."""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..data import tasks
from ..data.tasks import END
from ..infer.generate import generate

# where a model card looks: an easy problem, two in between, a hard one
LEVELS = {"addition": (2, 6, 10, 16), "base": (1, 2, 3, 5), "chain100": (2, 6, 12, 20), "copy": (4, 10, 16, 24),
          "countdown": (1, 2, 3, 4), "falsify": (1, 2, 3, 5), "invert": (1, 2, 3, 5), "modchain": (3, 8, 14, 22),
          "parity": (3, 8, 14, 20), "program": (1, 3, 5, 8), "reverse": (4, 10, 16, 24), "sorting": (3, 6, 9, 12)}
ROWS = 256  # sequences decoded at a time


@torch.no_grad()
def held_out_loss(model, tokens: Tensor, window: int = 128, batch: int = 16) -> float:
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
    half, last = window // 2, len(tokens) - 1           # inputs 0 .. last - 1 predict targets 1 .. last
    was_training = model.training
    model.eval()
    total = 0.0
    # spans (first input, inputs before the first scored one, inputs in all)
    spans = [(0, 0, min(window, last))]
    spans += [(start, half, min(window, last - start)) for start in range(half, last - half, half)]
    full = [span for span in spans[1:] if span[2] == window]
    groups = [spans[:1], *(full[i: i + batch] for i in range(0, len(full), batch)), [s for s in spans[1:] if s[2] < window]]
    for group in filter(None, groups):
        inputs = torch.stack([tokens[start: start + length] for start, _, length in group])
        targets = torch.stack([tokens[start + 1: start + length + 1] for start, _, length in group])
        skip = group[0][1]
        logits = model(inputs).logits[:, skip:]
        total += F.cross_entropy(logits.flatten(0, 1), targets[:, skip:].flatten(), reduction="sum").item()
    model.train(was_training)
    return total / last


def solve(model, tokenizer, task, problems: list, batch: int = 128) -> tuple[list[int], list[str]]:
    """Puts `problems` to the model. Returns 1 or 0 for each, and what the model wrote.

    It reads the prompt alone and writes at temperature 0 up to the end mark; the task's own `verify` judges what it
    wrote. It may write as much as the longest of the worked solutions, and four tokens more.
    """
    end, = tokenizer.encode(END)
    room = max(len(tokenizer.encode(problem.completion)) for problem in problems) + 4
    texts = []
    for first in tqdm(range(0, len(problems), batch), desc=f"solve {task.name}", unit="batch"):
        group = problems[first: first + batch]
        prompts = [tokenizer.encode(problem.prompt) for problem in group]
        written = generate(model, prompts, room, temperature=0.0, stop=(end,))
        texts += [tokenizer.decode(ids) for ids in written]
    right = [task.verify(problem, answer) for problem, answer in zip(problems, texts)]
    return right, texts


def accuracies(model, tokenizer, levels: dict, problems: int, temperature: float = 1.0, seed: int = 1) -> dict:
    """{task: {difficulty: {"accuracy", "stderr", "tokens"}}}: one rollout for each of `problems` held-out problems.

    A rollout may be half as long again as the longest worked solution among the problems. tokens: the mean length.
    """
    asked = []
    for name, difficulties in levels.items():
        for difficulty in difficulties:
            drawn = tasks.problems(name, "held_out", difficulty, problems, seed)
            room = max(len(tokenizer.encode(problem.completion)) for problem in drawn)
            asked += [(problem, room + room // 2) for problem in drawn]
    asked.sort(key=lambda pair: pair[1])  # batch mates of one length: no row waits for a long one
    scores: dict[tuple[str, int], list[tuple[int, int]]] = {}
    stop = tokenizer.encode(tasks.END)
    for first in tqdm(range(0, len(asked), ROWS), desc="solve", unit="batch", file=sys.stderr):
        group = asked[first: first + ROWS]
        prompts = [tokenizer.encode(problem.prompt) for problem, _ in group]
        answers = generate(model, prompts, group[-1][1], temperature, stop=stop, seed=seed)
        for (problem, room), answer in zip(group, answers):
            right = tasks.get(problem.task).verify(problem, tokenizer.decode(answer[:room]))
            scores.setdefault((problem.task, problem.difficulty), []).append((right, min(room, len(answer))))
    return {name: {str(difficulty): summary(scores[name, difficulty]) for difficulty in difficulties}
            for name, difficulties in levels.items()}


def summary(scores: list[tuple[int, int]]) -> dict:
    """Mean and standard error of the zeros and ones, and the mean length."""
    n = len(scores)
    mean = sum(right for right, _ in scores) / n
    return {"accuracy": round(mean, 4), "stderr": round((mean * (1 - mean) / n) ** 0.5, 4),
            "tokens": round(sum(length for _, length in scores) / n, 1)}
