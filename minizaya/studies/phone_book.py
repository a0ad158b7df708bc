"""The phone book: a question that one layer answers with convolutions and not without. Small enough to run live.

    Ann 7 Bob 2 Eve 9 Dan 4   Bob  ->  2

The name and its number are two tokens. Attention finds the name, but there only the name can be read; the number stands
one place to the right, where nothing says whose it is. Two ordinary layers solve this together (an "induction head":
the first copies each token to its right neighbour). A convolution of the keys does that copy inside one layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig

NAMES = ("Ann", "Bob", "Cat", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Joe", "Kim", "Leo")
WORDS = NAMES + tuple("0123456789")
PAIRS = 4  # entries of one book


def books(rows: int, generator: torch.Generator, number_first: bool = False) -> tuple[Tensor, Tensor]:
    """Random books, each followed by its names in another order, as questions.

    number_first: the entries read "7 Ann 2 Bob", so the answer stands one place to the left of the name.

    Returns tokens int64 (rows, 3 * PAIRS) and, for the last PAIRS tokens, the right number as a token, (rows, PAIRS).
    The numbers are not written after the questions, so an answer cannot be found by elimination.
    """
    names = torch.rand(rows, len(NAMES), generator=generator).argsort(1)[:, :PAIRS]
    numbers = torch.randint(len(NAMES), len(WORDS), (rows, PAIRS), generator=generator)
    order = torch.rand(rows, PAIRS, generator=generator).argsort(1)
    book = torch.stack([numbers, names] if number_first else [names, numbers], dim=2).flatten(1)
    return torch.cat([book, names.gather(1, order)], dim=1), numbers.gather(1, order)


def encode(sentence: str) -> Tensor:
    """Words to int64 (1, t). Raises ValueError for a word that the book does not know."""
    unknown = [word for word in sentence.split() if word not in WORDS]
    if unknown:
        raise ValueError(f"sentence may hold {', '.join(WORDS)}; got {unknown[0]!r}")
    return torch.tensor([[WORDS.index(word) for word in sentence.split()]])


def learn(seed: int, steps: int = 100, number_first: bool = False, **switches) -> Zaya:
    """Trains a model of one layer and one expert on `steps` batches of 32 books.

    switches: fields of ZayaConfig, e.g. num_convs=0. The first weights are larger than usual (0.15, not 0.02), which
    shortens the wait before such a small model finds the rule.
    """
    config = ZayaConfig.preset("nano", **dict(
        vocab_size=len(WORDS), pad_token_id=None, hidden_size=64, num_hidden_layers=1, head_dim=16, num_experts=1,
        moe_intermediate_size=32, router_hidden_size=8, initializer_range=0.15) | switches)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = Zaya(config)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        tokens, numbers = books(32, generator, number_first)
        loss = F.cross_entropy(model(tokens).logits[:, -PAIRS:].flatten(0, 1), numbers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Zaya, number_first: bool = False, rows: int = 500, seed: int = 12345) -> float:
    """Share of questions answered with the right number, on fresh books."""
    tokens, numbers = books(rows, torch.Generator().manual_seed(seed), number_first)
    return (model(tokens).logits[:, -PAIRS:].argmax(-1) == numbers).double().mean().item()


def bag_of_numbers(rows: int = 500, seed: int = 12345) -> float:
    """The same share for somebody who knows which numbers stand in the book, but not whose they are.

    The best he can do is to answer the most frequent number each time.
    """
    _, numbers = books(rows, torch.Generator().manual_seed(seed))
    return (numbers == numbers.mode(dim=1, keepdim=True).values).double().mean().item()


@torch.no_grad()
def named(model: Zaya, rows: int = 500, seed: int = 12345) -> dict[int, float]:
    """How often `model` names whose number, in books whose numbers all differ, so that every answer has one owner.

    Returns distance -> share: 0 is the asked name's own number, -1 that of the entry before it, 1 of the entry after.
    Questions for which there is no such entry do not count.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens, _ = books(rows, generator)
    numbers = torch.rand(rows, len(WORDS) - len(NAMES), generator=generator).argsort(1)[:, :PAIRS] + len(NAMES)
    tokens[:, 1: 2 * PAIRS: 2] = numbers
    entry = (tokens[:, None, 0: 2 * PAIRS: 2] == tokens[:, 2 * PAIRS:, None]).int().argmax(-1)     # of each question
    answers, shares = model(tokens).logits[:, -PAIRS:].argmax(-1), {}
    for distance in range(1 - PAIRS, PAIRS):
        there = (0 <= entry + distance) & (entry + distance < PAIRS)
        owner = numbers.gather(1, (entry + distance).clamp(0, PAIRS - 1))
        shares[distance] = (answers == owner)[there].double().mean().item()
    return shares
