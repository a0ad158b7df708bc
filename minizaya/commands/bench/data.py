"""Rows of `bench` about data and optimizers: trimming, packing, and a training step with Muon against AdamW."""

import random

import torch

from ...arch.model import Zaya
from ...config import ZayaConfig
from ...data import chat, tasks, text
from ...data.pack import pack, pack_naive
from ...data.tokenizer import ByteTokenizer, CharTokenizer
from ...data.trim import cut
from ...train.loop import Recipe, Trainer
from ...train.sources import mixture, packed_source, problem_documents
from .timing import compare

CONVERSATIONS, BUDGET = 1000, 512
DOCUMENTS, CAPACITY = 100_000, 4096


def conversations(count: int, seed: int) -> list[list[dict]]:
    """Chats of one to three turns about additions; about half of them are longer than the budget, in bytes."""
    rng, task, found = random.Random(f"bench/{seed}"), tasks.get("addition"), []
    for _ in range(count):
        turns = []
        for _ in range(rng.randint(1, 3)):
            problem = task.generate(rng.getrandbits(60), rng.randint(10, 20))
            thought = "\n".join(problem.reasoning for _ in range(rng.randint(1, 4)))
            turns += [{"role": "user", "content": problem.prompt},
                      {"role": "assistant", "content": f"<think>{thought}</think>{problem.answer}"}]
        found.append(turns)
    return found


def trim_row(pairs: int, seed: int) -> dict:
    """Trimming encoded conversations, against encoding them; the limit is to copy their tokens, which any trim must."""
    tokenizer, written = ByteTokenizer(), conversations(CONVERSATIONS, seed)
    chats = [chat.encode(conversation, tokenizer) for conversation in written]
    row = compare("trim", CONVERSATIONS, lambda: [cut(one, BUDGET) for one in chats],
                  {"encode": lambda: [chat.encode(conversation, tokenizer) for conversation in written]}, pairs)
    copy = compare("copy", CONVERSATIONS, lambda: [(one.tokens[:BUDGET], one.loss_mask[:BUDGET]) for one in chats],
                   {"itself": lambda: None}, pairs)
    return row | {"unit": "conversations/s", "limit_share": row["ours"] / copy["ours"]}


def pack_rows(pairs: int, seed: int) -> list[dict]:
    """Packing 100,000 documents, with `fill`, against sorting them; and 2,000 against the plain O(n^2) search."""
    rng = random.Random(f"bench/{seed}")
    lengths = [min(CAPACITY, max(1, round(rng.lognormvariate(6.2, 1.1)))) for _ in range(DOCUMENTS)]
    row = compare(f"pack_{DOCUMENTS}", DOCUMENTS, lambda: pack(lengths, CAPACITY),
                  {"sorted": lambda: sorted(range(DOCUMENTS), key=lambda i: -lengths[i])}, pairs)
    few = lengths[:2000]
    naive = compare("pack_2000", len(few), lambda: pack(few, CAPACITY),
                    {"naive": lambda: pack_naive(few, CAPACITY)}, pairs)
    return [row | {"unit": "documents/s", "fill": fill_of(lengths), "limit_share": row["ours"] / row["peer"]},
            naive | {"unit": "documents/s", "fill": fill_of(few), "limit_share": None}]


def fill_of(lengths: list[int]) -> float:
    """The share of the rows' places that hold a token."""
    return sum(lengths) / len(pack(lengths, CAPACITY)) / CAPACITY


def muon_row(pairs: int, seed: int, device: torch.device | str) -> dict:
    """A training step of nano on packed problems, 32 rows of 128: Muon, against AdamW."""
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    batches = mixture(packed_source("problems", problem_documents({"addition": (1, 8)}, tokenizer), 32, 128,
                                    tokenizer.pad_id, seed))
    trainers = {}
    for name in ("muon", "adamw"):
        torch.manual_seed(seed)
        model = Zaya(ZayaConfig.preset("nano")).to(device)
        trainers[name] = Trainer(model, Recipe(steps=10**6, optimizer=name), batches)
    row = compare("train_muon_32x128", 32 * 128, trainers["muon"].train_step,
                  {"adamw": trainers["adamw"].train_step}, pairs, device)
    return row | {"limit_share": None}


def rows(pairs: int, seed: int = 0, device: torch.device | str = "cpu") -> list[dict]:
    """All of them; the training step on `device`."""
    return [trim_row(pairs, seed), *pack_rows(pairs, seed), muon_row(pairs, seed, device)]
