"""The recipe as one small table: pretraining in two phases, context extension, SFT with aggregation examples.

Each stage reads its own mixture, in rows of its own length, and goes on from the weights of the one before, with fresh
moments and a warm-up of its own. A conversation that is longer than a row is trimmed to it (`data.trim`), each stage
from the originals. Longer rows need a slower rotation, so the RoPE base is raised with them: a distance that the fast
angles have turned through many times is new to the slow ones, and a larger base keeps these in the range they know.

    TOY       ours, as far as it goes beside the real one
    SHEETS    two stages more, which the real one has no name for: sheets of small searches, and aggregation of them;
              with the RL of `rl.cascade.SHEETS` behind them they made `nano-sheets` out of `nano-reasoner`, at the
              price of what that one did with other tails
    REAL      the same table for ZAYA1-8B, as the report gives it (Tables II and III), to read beside ours
    train     runs a table, in one folder, one run folder a stage; a run that was stopped goes on where it was

Before a stage with aggregation examples the model writes the rollouts that they are made of.
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig, check_settings
from ..data import tasks, text
from ..data.aggregation import aggregation_documents
from ..data.tokenizer import CharTokenizer, Tokenizer
from ..infer.generate import generate
from ..notebook import tqdm
from . import checkpoint
from .loop import Recipe, Trainer
from .run_lock import RunLock
from .sources import Batch, Source, mixture, packed_source, problem_documents, seed_of, text_source, training_problem

SHORT = {"addition": (1, 8), "base": (1, 3), "chain100": (1, 8), "copy": (1, 12), "countdown": (1, 3),
         "falsify": (1, 3), "invert": (1, 3), "modchain": (1, 12), "parity": (1, 10), "program": (1, 5),
         "reverse": (1, 12), "sorting": (1, 8)}
LONG = {"addition": (1, 16), "base": (1, 5), "chain100": (1, 20), "copy": (1, 25), "countdown": (1, 4),
        "falsify": (1, 5), "invert": (1, 5), "modchain": (1, 25), "parity": (1, 20), "program": (1, 8),
        "reverse": (1, 25), "sorting": (1, 12)}

# the problems whose rollouts become aggregation examples: long calculations, searches, and answers with parts
AGGREGATED = {"addition": (6, 16), "chain100": (8, 25), "countdown": (1, 4), "falsify": (1, 4), "modchain": (10, 25),
              "sheet": (1, 24)}


@dataclass(frozen=True)
class Stage:
    """One row of the table. Shares are of the tokens that a step reads, and add up to 1."""

    name: str
    tokens: int                        # to read in this stage
    context: int                       # tokens in a row; longer conversations are trimmed to it
    rope_theta: float
    mixture: dict[str, float]          # "text", "problems", "aggregation" -> share
    levels: dict = field(repr=False, default_factory=lambda: LONG)  # task -> lowest, highest difficulty of its problems
    lr: float = 2e-3                   # peak of Muon's and AdamW's rate
    final_share: float = 0.5           # of the peak, at the stage's end
    rollouts: int = 0                  # training problems that the model answers for the aggregation examples
    focus: str | None = None           # a task that every second problem is of

    def __post_init__(self):
        check_settings(vars(self), tokens=1, context=1, rope_theta="(0, inf)", lr="(0, inf)", final_share="[0, inf)",
                       rollouts=0)
        if self.focus is not None and self.focus not in self.levels:
            raise ValueError(f"focus must be None or one of levels, {sorted(self.levels)}, got {self.focus!r}")
        unknown = set(self.mixture) - {"text", "problems", "aggregation"}
        if unknown:
            raise ValueError(f"mixture may hold text, problems and aggregation, got {sorted(unknown)}")
        if not (abs(sum(self.mixture.values()) - 1) <= 1e-9 and min(self.mixture.values()) > 0):   # NaN is neither
            raise ValueError(f"mixture must hold positive shares that add up to 1, got {self.mixture}")


TOY = (
    Stage("base-1", 6_000_000, 128, 1e3, {"text": 0.1, "problems": 0.9}, SHORT, lr=5e-3, final_share=0.4),
    Stage("base-2", 3_000_000, 128, 1e3, {"text": 0.05, "problems": 0.95}),
    Stage("extension", 2_500_000, 256, 1e4, {"text": 0.05, "problems": 0.95}),
    Stage("sft", 10_000_000, 512, 5e4, {"problems": 0.3, "aggregation": 0.7}, lr=3e-3, final_share=0.0,
          rollouts=9000),
)

WITH_SHEETS = LONG | {"rule": (1, 3), "sheet": (1, 24)}
SHEETS = (
    Stage("sheets", 3_000_000, 512, 5e4, {"problems": 1.0}, WITH_SHEETS, lr=4e-3, focus="sheet"),
    Stage("parts", 6_000_000, 640, 5e4, {"problems": 0.25, "aggregation": 0.75}, WITH_SHEETS, lr=3e-3, final_share=0.0,
          rollouts=3000, focus="sheet"),
)
ALL = TOY + SHEETS

# report, Tables II and III; the mixtures of the two base phases are not published. Shares of "midtraining" and SFT
REAL = (
    dict(name="base-1", tokens=8e12, context=4096, rope_theta=1e4, mixture=None),
    dict(name="base-2", tokens=4e12, context=4096, rope_theta=1e4, mixture=None),
    dict(name="extension", tokens=1.2e12, context=32768, rope_theta=1e6,
         mixture={"long reasoning": 0.861, "web, synthetic, multilingual": 0.057, "native long context": 0.008,
                  "code": 0.030, "math and STEM": 0.030, "short instructions": 0.014}),
    dict(name="sft", tokens=660e9, context=131072, rope_theta=5e6,
         mixture={"long reasoning": 0.750, "web, synthetic, multilingual": 0.098, "native long context": 0.064,
                  "code": 0.050, "math and STEM": 0.026, "short instructions": 0.012}),
)

TOKENS_A_STEP = 4096
EXPERTS = dict(num_experts=8, moe_intermediate_size=256)  # the reasoner is a nano with wider and more experts


def train(out: str | Path, table: tuple[Stage, ...] = TOY, share: float = 1.0, seed: int = 0, resume: bool = False,
          sizes: dict = EXPERTS, bar: bool = True, device: torch.device | str = "cpu") -> bool:
    """Trains a model through all stages of `table`, in the folder `out`. Returns False when Ctrl-C stopped it.

    Args:
        share: of every stage's tokens; 0.01 tries the whole path in a minute.
        resume: go on where a stopped run in `out` was; a finished stage is not done again.
        sizes: what differs from the preset nano. device: where the model is, and so everything is computed.
    Raises ValueError when `out` holds a run and `resume` is False, the table is another one than the run's, or another
    process trains in `out`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")
    out, tokenizer, model = Path(out), CharTokenizer(text.ALPHABET, unknown="unk"), None
    with RunLock(out):
        for number, stage in enumerate(table, start=1):
            folder = out / f"{number}-{stage.name}"
            torch.manual_seed(seed)
            config = ZayaConfig.preset("nano", rope_theta=stage.rope_theta, vocab_size=tokenizer.vocab_size, **sizes)
            with torch.device("cpu"):   # a seed's weights are the same, wherever they go
                before, model = model, Zaya(config)
            model.to(device)
            if before is not None:  # the RoPE base is no weight: everything else carries over
                model.load_state_dict(before.state_dict())
            steps = max(1, round(stage.tokens * share / TOKENS_A_STEP))
            recipe = Recipe(steps=steps, lr=stage.lr, warmup=min(50, steps), seed=seed, optimizer="muon",
                            final_share=stage.final_share)
            records = None
            if "aggregation" in stage.mixture:
                levels = {name: level for name, level in AGGREGATED.items() if name in stage.levels} or stage.levels
                problems = max(len(levels), round(stage.rollouts * share))
                records = rollouts(folder.with_suffix(".jsonl"), before, tokenizer, levels, problems, seed,
                                   focus=stage.focus)
            keep = {"tokenizer": tokenizer.to_dict(), "stage": json.loads(json.dumps(asdict(stage)))}
            chances = seed_of("stages", seed, number)   # each stage has its own, and shares them with no other seed
            trainer = Trainer(model, recipe, sources(stage, tokenizer, chances, records), folder, keep, resume)
            if not trainer.train(save_every=100, bar=bar):
                return False
        return True


def sources(stage: Stage, tokenizer: Tokenizer, seed: int,
            records: list[dict] | None = None) -> Callable[[int], list[Batch]]:
    """The micro-batches of a stage, one for each entry of its mixture: step -> list of `Batch`."""
    found: list[Source] = []
    for name, share in stage.mixture.items():
        rows = max(1, round(share * TOKENS_A_STEP / stage.context))
        if name == "text":
            train_text, _ = text.split(text.english())
            found.append(text_source(tokenizer.encode(train_text), rows, stage.context, seed))
        else:
            draw = (problem_documents(stage.levels, tokenizer, stage.focus) if name == "problems"
                    else aggregation_documents(records, tokenizer))
            found.append(packed_source(name, draw, rows, stage.context, tokenizer.pad_id, seed))
    return mixture(*found)


def rollouts(path: Path, model: Zaya, tokenizer: Tokenizer, levels: dict, problems: int, seed: int,
             each: int = 8, focus: str | None = None) -> list[dict]:
    """`each` rollouts of the model at temperature 1 for each of `problems` training problems, all tasks in turn.

    focus: a task that every second problem is of.
    They are kept in the file `path`, one problem a line, written aside and renamed: a second call reads them.
    """
    if path.exists():
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rng, (end, ) = random.Random(f"rollouts/{seed}"), tokenizer.encode(tasks.END)
    names, drawn = sorted(levels), []
    for i in range(problems):
        name = focus if focus and i % 2 else names[i // (2 if focus else 1) % len(names)]
        difficulty = rng.randint(*levels[name])
        number, problem = training_problem(name, difficulty, rng)
        drawn.append((problem, dict(task=name, difficulty=difficulty, number=number)))
    drawn.sort(key=lambda pair: len(pair[0].completion))  # batch mates of one length leave no row idle
    records = []
    for first in tqdm(range(0, len(drawn), 32), desc="rollouts", unit="batch"):
        group = drawn[first: first + 32]
        prompts = [tokenizer.encode(problem.prompt) for problem, _ in group for _ in range(each)]
        room = max(len(problem.completion) for problem, _ in group) + 32
        texts = [tokenizer.decode(ids) for ids in generate(model, prompts, room, stop=(end,),
                                                            seed=seed_of("rollouts", seed, first))]
        records += [record | {"rollouts": texts[i * each: (i + 1) * each]} for i, (_, record) in enumerate(group)]
    checkpoint.replace_file(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    return records


# ---- the table, to read ----------------------------------------------------------------------------------------------


def rows() -> list[dict]:
    """One row a stage: ours and the real one's tokens, context, RoPE base and mixture; real: None where it has none."""
    real = [{key: value for key, value in row.items() if key != "name"} for row in REAL]
    return [{"stage": toy.name, "tokens": toy.tokens, "context": toy.context, "rope_theta": toy.rope_theta,
             "mixture": toy.mixture, "real": row}
            for toy, row in zip(ALL, real + [None] * len(SHEETS), strict=True)]


def text_table() -> str:
    """`rows` as lines."""
    lines = ["stage          tokens   context  RoPE base |  ZAYA1-8B: tokens   context  RoPE base"]
    for row in rows():
        real = row["real"]
        beside = (f"{real['tokens'] / 1e12:17.2f}T{real['context']:10}{real['rope_theta']:11.0f}" if real
                  else "  (our own: answers with parts)")
        lines.append(f"{row['stage']:10}{row['tokens'] / 1e6:9.1f}M{row['context']:10}{row['rope_theta']:11.0f} |"
                     + beside)
    return "\n".join(lines)
