"""Checkpoints that survive anything: a kill at any moment leaves the last good one.

A run folder holds

    log.jsonl                      one JSON object a step
    checkpoint-00000500/           the newest checkpoint; the number is the steps done
        model.safetensors          weights and balancing biases
        optimizer.safetensors      moments, by parameter name; the balancer's memory
        run.json                   the model's config, the step, the log's length, what the caller adds;
                                   "without_memory", the parameters that have had no gradient and so no moments

A checkpoint is written into a folder with another name and renamed when it is whole. A rename is atomic: the folder
is there with everything in it, or not there at all. Only then is the older one removed.

Nothing is pickled: a pickle can run code when it is loaded, safetensors hold numbers and nothing else. That is why this
is ours: `torch.save` pickles, and no library names the moments by parameter and renames the whole folder at once.
"""

import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..arch.balance import Balancer
from ..arch.model import Zaya
from ..config import ZayaConfig
from ..data import tokenizer as tokenizers
from .optim import load_named_state, named_state, without_memory

FORMAT, SHARDED = "minizaya-run-1", "minizaya-sharded-1"   # the latter: `parallel.sharded_checkpoint`'s
WRITERS = {FORMAT: "train", SHARDED: "parallel"}           # format -> the command whose run it is
KEPT = re.compile(r"checkpoint-(\d{8,})")


def safetensors() -> ModuleType:
    """The module `safetensors.torch`. Raises ModuleNotFoundError that says how to get it."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ModuleNotFoundError("checkpoints need safetensors: pip install minizaya[checkpoints]") from error
    return safetensors.torch


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `model` once each: a tied head is the embedding and is not written twice."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("head.weight")
    return state


def latest(run: str | Path) -> Path | None:
    """The newest whole checkpoint in the folder `run`, or None."""
    folders = [p for p in Path(run).glob("checkpoint-*") if KEPT.fullmatch(p.name) and p.is_dir()]
    return max(folders, key=lambda p: int(KEPT.fullmatch(p.name)[1]), default=None)


def save(run: str | Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, balancer: Balancer | None,
         info: dict) -> Path:
    """Writes the state after `step` steps and removes older checkpoints. Returns the new folder.

    balancer: None where the biases stay as they are. info: plain JSON values to keep beside it. Raises ValueError when
    this step is there already (a folder cannot be swapped for another in one move), OSError naming the folder when it
    cannot be written (disk full, read-only): the last good checkpoint is then still there.
    """
    to_bytes = safetensors().save
    run = Path(run)
    final, aside = run / f"checkpoint-{step:08d}", run / f"writing-{step:08d}"
    if final.exists():
        raise ValueError(f"{final} is already there; resume it or choose another folder")
    # trap: safetensors refuses views that share memory, and a view may drag a far bigger tensor along; so `contiguous`
    memory = {f"optimizer/{k}": v.contiguous() for k, v in named_state(model, optimizer).items()}
    memory |= {f"balancer/{k}": v.contiguous() for k, v in (balancer.state_dict() if balancer else {}).items()}
    document = {"format": FORMAT, "step": step, "config": model.config.to_dict(),
                "without_memory": without_memory(model, optimizer), **info}
    try:
        shutil.rmtree(aside, ignore_errors=True)  # what a killed run may have left
        aside.mkdir(parents=True)
        write(aside / "model.safetensors", to_bytes({k: v.contiguous() for k, v in model_state(model).items()}))
        write(aside / "optimizer.safetensors", to_bytes(memory))
        write(aside / "run.json", json.dumps(document, indent=1).encode())
        os.replace(aside, final)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        kept = latest(run)
        rest = f"the last good one is {kept}" if kept else "there is no earlier one"
        raise OSError(error.errno, f"cannot write a checkpoint into {run} ({error.strerror}); {rest}") from error
    for old in run.glob("checkpoint-*"):
        if KEPT.fullmatch(old.name) and old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def write(path: Path, content: bytes) -> None:
    """Writes and waits until the disk has it: otherwise the rename could reach the disk before the numbers do."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` into `path`, or leaves what was there: written aside, then renamed."""
    aside = path.with_name(f"writing-{path.name}")
    try:
        write(aside, content)
        os.replace(aside, path)
    except OSError:                        # a full disk wants no half of a file
        aside.unlink(missing_ok=True)
        raise


def read_info(checkpoint: str | Path, written_as: str = FORMAT) -> dict:
    """The `run.json` of one checkpoint folder, whose format must be `written_as`.

    Raises FileNotFoundError when it is not there, ValueError when it is not ours.
    """
    path = Path(checkpoint) / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint in {checkpoint}: {path} is missing")
    try:
        info = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: not a JSON document") from error
    made = info.get("format") if isinstance(info, dict) else None
    if made in WRITERS and made != written_as:
        raise ValueError(f"{path} belongs to a run of `python -m minizaya {WRITERS[made]}`; "
                         f"this reads those of `{WRITERS[written_as]}`")
    if made != written_as:
        raise ValueError(f"{path} is not a checkpoint of this program: format must be {written_as!r}")
    return info


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
    try:
        return safetensors().load(path.read_bytes())
    except ImportError:
        raise
    except Exception as error:  # safetensors raises its own type, and others for a bad header
        raise ValueError(f"{path} is damaged: {error}") from error


def load_weights(path: Path, model: nn.Module) -> None:
    """Copies the weights and balancing biases in the file `path` into `model`.

    Raises FileNotFoundError, or ValueError when the file is damaged or names, shapes or types are not the model's.
    """
    given, wanted = read_tensors(path), model_state(model)
    if given.keys() != wanted.keys():
        odd = sorted(given.keys() ^ wanted.keys())
        raise ValueError(f"{path} does not fit the model: {len(odd)} names differ, the first is {odd[0]!r}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise ValueError(f"{path} does not fit the model: {name!r} is {tensor.dtype} {tuple(tensor.shape)}, the "
                             f"model wants {wanted[name].dtype} {tuple(wanted[name].shape)}")
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)


def load_model(folder: str | Path) -> tuple[Zaya, tokenizers.Tokenizer]:
    """The model and the tokenizer of a run's newest checkpoint, or of one checkpoint's own folder.

    Raises FileNotFoundError or ValueError when it is missing, damaged or made by another program.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"checkpoint must be a folder, got the file {folder}; give the folder that holds it")
    folder = latest(folder) or folder
    info = read_info(folder)
    tokenizer = tokenizer_of(folder, info)
    try:
        config = ZayaConfig(**info["config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'run.json'} holds no model config of this program: {error}") from error
    with torch.device("cpu"):  # trap: the type and the place that a new model takes are whatever somebody has set
        model = Zaya(config).float()
    load_weights(folder / "model.safetensors", model)
    return model, tokenizer


def tokenizer_of(checkpoint: Path, info: dict) -> tokenizers.Tokenizer:
    """The tokenizer that a `run.json` describes. Raises ValueError when it describes none."""
    if "tokenizer" not in info:
        raise ValueError(f"{checkpoint / 'run.json'} names no tokenizer, so text cannot be read or written")
    return tokenizers.from_dict(info["tokenizer"])


def load(checkpoint: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer,
         balancer: Balancer | None) -> dict:
    """Puts model, optimizer and balancer back to where `save` saw them. Returns `run.json`.

    Raises FileNotFoundError or ValueError as the functions above; model and optimizer may then be half loaded.
    """
    checkpoint = Path(checkpoint)
    info = read_info(checkpoint)
    if info.get("config") != model.config.to_dict():
        raise ValueError(f"{checkpoint} was made with another model config")
    memory = read_tensors(checkpoint / "optimizer.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "balancer": {}}
    for full_name, tensor in memory.items():
        part, _, name = full_name.partition("/")
        if part not in parts:
            raise ValueError(f"{checkpoint / 'optimizer.safetensors'} holds {full_name!r}, which is not ours")
        parts[part][name] = tensor.clone()  # into memory of torch's own alignment
    load_weights(checkpoint / "model.safetensors", model)
    load_named_state(model, optimizer, parts["optimizer"], info.get("without_memory"))
    if balancer:
        balancer.load_state_dict(parts["balancer"])
    return info
