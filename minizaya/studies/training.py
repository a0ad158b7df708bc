"""Two questions about training, at equal tokens: Muon or AdamW? And reasoning data from the start, or only at the end?

optimizer   one mixture of short problems, each optimizer at six learning rates
order       English and problems, 400 steps:

    throughout   half English, half problems for 300 steps, then 100 steps of problems
    end          English alone for 300 steps, then 100 steps of problems: as many tokens, fewer of them problems
    late         English alone for 150 steps, then 250 steps of problems: as many problems as "throughout", but late
"""

from collections.abc import Callable

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import tasks, text
from ..data.tokenizer import CharTokenizer, Tokenizer
from ..infer.generate import generate
from ..train.evaluate import held_out_loss
from ..train.loop import Recipe, Trainer
from ..train.sources import Batch, Source, mixture, packed_source, problem_documents, text_source

LEVELS = {"addition": [1, 5], "modchain": [1, 8], "sorting": [1, 5], "program": [1, 3]}
SETTING = {"levels": LEVELS, "context": 128, "rows": 16, "optimizer_steps": 200, "order_steps": 400, "order_lr": 5e-3,
           "problems": 100, "rates": [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 4e-2], "seeds": 2}
# steps of the first part, its share of problems
ORDERS = {"throughout": (300, 0.5), "end": (300, 0.0), "late": (150, 0.0)}


def runs() -> list[dict]:
    seeds = range(SETTING["seeds"])
    return ([{"study": "optimizer", "variant": name, "lr": lr, "seed": 0}
             for name in ("adamw", "muon") for lr in SETTING["rates"]]
            + [{"study": "order", "variant": name, "lr": SETTING["order_lr"], "seed": seed}
               for seed in seeds for name in ORDERS])


def one(study: str, variant: str, lr: float, seed: int) -> dict:
    """The loss of every tenth step; for "order" also the accuracy by task and the loss on held-out English."""
    tokenizer = CharTokenizer(text.ALPHABET, unknown="unk")
    torch.manual_seed(seed)
    model = Zaya(ZayaConfig.preset("nano"))
    ordered = study == "order"
    steps = SETTING["order_steps"] if ordered else SETTING["optimizer_steps"]
    if ordered:
        batches = ordered_batches(variant, tokenizer, seed)
    else:
        batches = mixture(problems(SETTING["rows"], tokenizer, seed))
    recipe = Recipe(steps=steps, lr=lr, warmup=20, seed=seed, optimizer="muon" if ordered else variant)
    trainer = Trainer(model, recipe, batches)
    trainer.train(bar=False)
    found = {"loss": [round(record["loss"], 4) for record in trainer.records[9::10]], "tokens": trainer.tokens}
    if ordered:
        held_out = torch.tensor(tokenizer.encode(text.split(text.english())[1][:20000]))
        found["text"] = round(held_out_loss(model, held_out), 4)
        found["accuracy"] = {name: accuracy(model, tokenizer, name, high, seed) for name, (_, high) in LEVELS.items()}
    return found


def problems(rows: int, tokenizer: Tokenizer, seed: int) -> Source:
    return packed_source("problems", problem_documents(LEVELS, tokenizer), rows, SETTING["context"], tokenizer.pad_id,
                         seed)


def ordered_batches(variant: str, tokenizer: Tokenizer, seed: int) -> Callable[[int], list[Batch]]:
    """The micro-batches of one order of the data: step -> list of `Batch`."""
    first_steps, share = ORDERS[variant]
    rows = SETTING["rows"]
    english = tokenizer.encode(text.split(text.english())[0])
    first = [text_source(english, round(rows * (1 - share)), SETTING["context"], seed)]
    if share:
        first.append(problems(round(rows * share), tokenizer, seed))
    first, last = mixture(*first), mixture(problems(rows, tokenizer, seed + 100))
    return lambda step: first(step) if step < first_steps else last(step)


def accuracy(model: Zaya, tokenizer: Tokenizer, name: str, difficulty: int, seed: int) -> float:
    """Share of held-out problems of the highest trained difficulty solved at temperature 0."""
    asked = tasks.problems(name, "held_out", difficulty, SETTING["problems"], seed)
    room = max(len(problem.completion) for problem in asked) + 4
    answers = generate(model, [tokenizer.encode(problem.prompt) for problem in asked], room, temperature=0.0,
                       stop=tokenizer.encode(tasks.END))
    right = [tasks.get(name).verify(problem, tokenizer.decode(answer)) for problem, answer in zip(asked, answers)]
    return sum(right) / len(right)
