"""The shipped checkpoints: `zoo.load("nano-reasoner")` gives a model and its tokenizer.

Each lives in `checkpoints/NAME/`: the weights (safetensors), the config and tokenizer (run.json), the measured figures
(card.json) and the model card to read (README.md). They are made by

    python -m minizaya stages --out runs/nano-reasoner       the training, about an hour on two cores
    python -m minizaya solve --model runs/nano-reasoner ...  the figures of the card
"""

import json
import shutil
from pathlib import Path

from .train import checkpoint

FOLDER = Path(__file__).parent / "checkpoints"


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
    """(model, tokenizer) of a shipped checkpoint, or of a run's folder. Raises ValueError when it is neither."""
    if name_or_folder in names():
        return load(name_or_folder)
    if not Path(name_or_folder).is_dir():
        raise ValueError(f"model must be one of {names()} or the folder of a run, got {name_or_folder!r}")
    model, tokenizer = checkpoint.load_model(Path(name_or_folder))
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
