"""The shipped checkpoints: `zoo.load("nano-reasoner")` gives a model and its tokenizer.

Each lives in `checkpoints/NAME/`: the weights (safetensors), the config and tokenizer (run.json), the measured figures
(card.json) and the model card to read (README.md). They are made by

    python -m minizaya stages --out runs/nano-reasoner --publish nano-reasoner

which trains through all stages, measures, and writes these four files.
"""

import json
import shutil
from pathlib import Path

from ..parallel import sharded_checkpoint
from ..train import checkpoint

FOLDER = Path(__file__).parents[1] / "checkpoints"


def names() -> list[str]:
    """The checkpoints that are shipped, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/model.safetensors"))


def folder(name: str) -> Path:
    """The folder of a shipped checkpoint. Raises ValueError for an unknown name."""
    if name not in names():
        raise ValueError(f"name must be one of {names()}, got {name!r}")
    return FOLDER / name


def load(name: str):
    """(model, tokenizer) of a shipped checkpoint, the model in eval mode.

    Raises ValueError for an unknown name or a damaged file, ModuleNotFoundError without safetensors.
    """
    model, tokenizer = checkpoint.load_model(folder(name))
    return model.eval(), tokenizer


def card(name: str) -> dict:
    """The measured figures of a shipped checkpoint: what `solve --json` printed, and how it was trained."""
    return json.loads((folder(name) / "card.json").read_text("utf-8"))


def open_model(name_or_folder: str):
    """(model, tokenizer) of a shipped checkpoint, or of a run's folder, made by one process or by several.

    Raises ValueError when it is neither.
    """
    if name_or_folder in names():
        return load(name_or_folder)
    if not Path(name_or_folder).is_dir():
        raise ValueError(f"model must be one of {names()} or the folder of a run, got {name_or_folder!r}")
    model, tokenizer = sharded_checkpoint.load_model(Path(name_or_folder))
    return model.eval(), tokenizer


def publish(run: str | Path, name: str, keep: dict) -> Path:
    """Copies the newest checkpoint of a run into the zoo, without the optimizer's memory; `keep` goes into run.json.

    Returns the folder. What stood there is replaced file by file.
    """
    source, target = checkpoint.latest(run), FOLDER / name
    if source is None:
        raise ValueError(f"run must be a folder with a checkpoint in it, got {run}")
    info = checkpoint.read_info(source)
    target.mkdir(parents=True, exist_ok=True)
    aside = target / "writing-model.safetensors"
    shutil.copyfile(source / "model.safetensors", aside)
    aside.replace(target / "model.safetensors")
    document = {key: info[key] for key in ("format", "step", "config", "tokenizer")} | keep
    checkpoint.replace_file(target / "run.json", json.dumps(document, indent=1).encode())
    return target


def stage_facts(runs: str | Path) -> list[dict]:
    """What the logs say of each stage in the folder of `train.stages.train`: name, steps, tokens, minutes, last loss.

    minutes: of the steps alone, without the rollouts in between.
    """
    found = []
    for log in sorted(Path(runs).glob("*/log.jsonl")):
        records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        tokens = [0, *(record["tokens"] for record in records)]
        seconds = sum((b - a) / record["tok_per_s"] for a, b, record in zip(tokens, tokens[1:], records))
        found.append({"stage": log.parent.name, "steps": len(records), "tokens": tokens[-1],
                      "minutes": round(seconds / 60, 1), "loss": round(records[-1]["loss"], 4)})
    return found


def write_card(name: str, figures: dict) -> None:
    """Writes card.json, and README.md made from it."""
    checkpoint.replace_file(FOLDER / name / "card.json", json.dumps(figures, indent=1).encode())
    checkpoint.replace_file(FOLDER / name / "README.md", card_text(name, figures).encode())


def write_rl_card(name: str, figures: dict) -> None:
    """Writes card.json and README.md of a checkpoint that the RL cascade made."""
    checkpoint.replace_file(FOLDER / name / "card.json", json.dumps(figures, indent=1).encode())
    rows = "\n".join(f"| {task} | {level} | {100 * figures['before'][task]:.1f} | {100 * figures['after'][task]:.1f} |"
                     for task, level in sorted(figures["levels"].items()))
    means = [100 * sum(figures[key].values()) / len(figures[key]) for key in ("before", "after")]
    stages = ", ".join(f"{stage['name']} {stage['updates']}" for stage in figures["stages"])
    text = RL_CARD.format(name=name, start=figures["from"], parameters=f"{figures['parameters']:,}", rows=rows, stages=stages,
                          minutes=figures["minutes"], problems=figures["problems"], seed=figures["training_seed"],
                          torch=figures["torch"], before=means[0], after=means[1], accuracy=accuracy_rows(figures["accuracy"]))
    checkpoint.replace_file(FOLDER / name / "README.md", text.encode())


def card_text(name: str, figures: dict) -> str:
    """The model card as Markdown."""
    stages = "\n".join(f"| {s['stage']} | {s['steps']:,} | {s['tokens']:,} | {s['minutes']} |" for s in figures["stages"])
    return CARD.format(name=name, parameters=f"{figures['parameters']:,}", experts=figures["experts"], stages=stages,
                       seed=figures["training_seed"], torch=figures["torch"], problems=figures["problems"],
                       eval_seed=figures["seed"], rows=accuracy_rows(figures["accuracy"]))


def accuracy_rows(accuracy: dict) -> str:
    """The rows of a table: a task, and its accuracy at each difficulty."""
    lines = []
    for task, cells in accuracy.items():
        shown = " | ".join(f"{level}: {100 * cell['accuracy']:.1f} ± {100 * cell['stderr']:.1f}" for level, cell in cells.items())
        lines.append(f"| {task} | {shown} |")
    return "\n".join(lines)


CARD = """# {name}

A small reasoning model: ZAYA1's architecture with {parameters} parameters ({experts} experts a layer), trained from random numbers on
the tasks of `minizaya.data.tasks` and a little English. It is made for lessons: every idea of the course can be tried on it in
seconds, on a CPU.

    import minizaya as mz
    model, tokenizer = mz.zoo.load("{name}")

## Training

One command: `python -m minizaya stages --out runs/{name} --publish {name}`. Seed {seed}, torch {torch}, two CPU cores. The data are
generated, without end: problems of the training part of each task, windows of Python's help texts, and, in the last stage, aggregation
examples made from the model's own rollouts. `python -m minizaya stages --table` shows the recipe beside ZAYA1-8B's. The minutes are those
of the steps on a machine that had other work, too.

| stage | steps | tokens | minutes |
|---|---|---|---|
{stages}

The same numbers come out only on the same kind of machine with the same number of threads; elsewhere sums round differently, and the
weights drift apart.

## Accuracy

One rollout at temperature 1 for each of {problems} held-out problems, in percent, with standard errors, as `difficulty: accuracy`.
`python -m minizaya solve --model {name} --problems {problems} --seed {eval_seed} --json` prints them.

| task | easy | | | hard |
|---|---|---|---|---|
{rows}

Long calculations are nearly sure. Searches (`countdown`, `falsify`) are right now and then, and that is on purpose: they leave room for
voting, for Markovian RSA and for reinforcement learning.

## What it cannot do

It cannot chat, and it knows no facts. It cannot read a problem in any other notation than that of the tasks, nor one much longer than
those it was trained on. It writes English that looks like Python's manual and means nothing. It was trained to read aggregation prompts
(`problem?|tail|tail~`) for additions, chains, `countdown` and `falsify`; for other tasks it has not seen any.
"""

RL_CARD = """# {name}

`{start}` after the four stages of reinforcement learning (`minizaya.rl.cascade`); {parameters} parameters, the same tokenizer and the
same tasks.

    python -m minizaya cascade --out runs/{name} --model {start} --seed {seed} --publish {name}

Updates a stage: {stages}. Twelve problems of sixteen answers each an update; {minutes} minutes on two CPU cores. torch {torch}.
Generator and trainer run side by side, so the weights do not come out the same to the last digit a second time (with
`--processes 1`, which takes about twice as long, they do on the same machine).

## Accuracy

One rollout at temperature 1 for each of {problems} held-out problems, in percent, at the difficulty that the calibration found before
training (where `{start}` passes about half of the time, or the first one that it cannot do). Standard errors: up to 5 points a line.

| task | difficulty | before | after |
|---|---|---|---|
{rows}
| mean | | {before:.1f} | {after:.1f} |

The same for all tasks at the difficulties of `{start}`'s card, as `difficulty: accuracy`, to see what else has changed:

| task | easy | | | hard |
|---|---|---|---|---|
{accuracy}

## What it cannot do

What `{start}` cannot do. Where no rollout was right there was nothing to learn from, so a task that ends at a cliff stays there.
"""
