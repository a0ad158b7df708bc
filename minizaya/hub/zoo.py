"""The shipped checkpoints: `zoo.load("nano-reasoner")` gives a model and its tokenizer.

Each lives in `checkpoints/NAME/`: the weights (safetensors), the config and tokenizer (run.json), the measured figures
(card.json) and the model card to read (README.md). They are made by

    python -m minizaya stages --out runs/nano-reasoner --publish nano-reasoner
    python -m minizaya stages --sheets --out runs/nano-sheets --publish nano-sheets

which train through all stages, measure, and write these four files.
"""

import json
from pathlib import Path

from ..arch.model import Zaya
from ..data.tokenizer import Tokenizer
from ..parallel import sharded_checkpoint
from ..train import checkpoint

FOLDER = Path(__file__).parents[1] / "checkpoints"
CARD, RL_CARD = (Path(__file__).with_name(name) for name in ("card.md", "rl_card.md"))

RL = """ The last stage is reinforcement
learning: its steps are updates, on answers to Markovian RSA's own prompts, most of them with traces of a later round
(`minizaya.rl.cascade.SHEETS`)."""


def names() -> list[str]:
    """The checkpoints that are shipped, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob("*/model.safetensors"))


def folder(name: str) -> Path:
    """The folder of a shipped checkpoint. Raises ValueError for an unknown name."""
    if name not in names():
        raise ValueError(f"name must be one of {names()}, got {name!r}")
    return FOLDER / name


def load(name: str) -> tuple[Zaya, Tokenizer]:
    """(model, tokenizer) of a shipped checkpoint, the model in eval mode.

    Raises ValueError for an unknown name or a damaged file, ModuleNotFoundError without safetensors.
    """
    model, tokenizer = checkpoint.load_model(folder(name))
    return model.eval(), tokenizer


def card(name: str) -> dict:
    """The measured figures of a shipped checkpoint: what `solve --json` printed, and how it was trained."""
    return json.loads((folder(name) / "card.json").read_text("utf-8"))


def taught(name: str, task: str) -> str:
    """`name`, or the shipped checkpoint that went on from it to learn `task`: whose stages begin with those of `name`.

    A name that is not shipped stays as it is. Raises ValueError for a shipped one that was never trained on the task,
    as its card says, and that none went on from to learn it.
    """
    if name not in names() or task in card(name).get("accuracy", {task: {}}):
        return name
    able, began = [other for other in names() if task in card(other).get("accuracy", {})], card(name)["stages"]
    for other in able:
        if card(other)["stages"][: len(began)] == began:
            return other
    raise ValueError(f"model must have learned {task}, as {', '.join(able)} has, got {name!r}")


def open_model(name_or_folder: str) -> tuple[Zaya, Tokenizer]:
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
    checkpoint.replace_file(target / "model.safetensors", (source / "model.safetensors").read_bytes())
    document = {key: info[key] for key in ("format", "step", "config", "tokenizer")} | keep
    checkpoint.replace_file(target / "run.json", json.dumps(document, indent=1).encode())
    return target


def stage_facts(runs: str | Path) -> list[dict]:
    """What the logs say of each stage in the folder of `train.stages.train`: name, steps, tokens, minutes, last loss.

    minutes: of the steps alone, without the rollouts in between. A stage of RL in that folder comes last: its steps are
    updates, its minutes those of the answers, too, and its last loss is none.
    """
    found = []
    for log in sorted(Path(runs).glob("*/log.jsonl")):
        records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        tokens = [0, *(record["tokens"] for record in records)]
        seconds = sum((b - a) / record["tok_per_s"] for a, b, record in zip(tokens, tokens[1:], records))
        found.append({"stage": log.parent.name, "steps": len(records), "tokens": tokens[-1],
                      "minutes": round(seconds / 60, 1), "loss": round(records[-1]["loss"], 4)})
    for log in sorted(Path(runs).glob("*/*/trainer/log.jsonl")):
        records = [record for line in log.read_text("utf-8").splitlines() if "update" in (record := json.loads(line))]
        found.append({"stage": log.parents[2].name, "steps": len(records), "tokens": sum(r["tokens"] for r in records),
                      "minutes": round(sum(r["seconds"] for r in records) / 60, 1), "loss": None})
    return found


def write_card(name: str, figures: dict) -> None:
    """Writes card.json, and README.md made from it."""
    checkpoint.replace_file(FOLDER / name / "card.json", json.dumps(figures, indent=1).encode())
    checkpoint.replace_file(FOLDER / name / "README.md", card_text(name, figures).encode())


def card_text(name: str, figures: dict) -> str:
    """The model card as Markdown: card.md beside this file filled in; rl_card.md, which has a before and an after, for
    the figures of the RL cascade."""
    accuracy = "\n".join(f"| {task} | " + " | ".join(
        f"{level}: {100 * cell['accuracy']:.1f} ± {100 * cell['stderr']:.1f}" for level, cell in cells.items()) + " |"
        for task, cells in figures["accuracy"].items())
    shown = figures | {"name": name, "accuracy": accuracy}
    if "levels" not in figures:
        note, had = figures.get("note"), {stage["stage"].partition("-")[2] for stage in figures["stages"]}
        shown |= {"flags": figures.get("flags", ""), "note": f" {note}" if note else "",
                  "aggregating": "stages `sft` and `parts`" if "parts" in had else "stage `sft`",
                  "sheets": ", and for `sheet`" if "parts" in had else "", "rl": RL if "rl" in had else ""}
        shown["stages"] = "\n".join(f"| {s['stage']} | {s['steps']:,} | {s['tokens']:,} | {s['minutes']} |"
                                    for s in figures["stages"])
        return CARD.read_text("utf-8").format_map(shown)
    for key in ("before", "after"):
        shown[f"mean_{key}"] = 100 * sum(figures[key].values()) / len(figures[key])
        shown[key] = {task: f"{100 * share:.1f}" for task, share in figures[key].items()}
    shown["stages"] = ", ".join(f"{stage['name']} {stage['updates']}" for stage in figures["stages"])
    shown["rows"] = "\n".join(f"| {task} | {level} | {shown['before'][task]} | {shown['after'][task]} |"
                              for task, level in sorted(figures["levels"].items()))
    return RL_CARD.read_text("utf-8").format_map(shown)
