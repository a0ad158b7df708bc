"""Checkpoint folders of any size: safetensors in shards, in three layouts, written and read one tensor at a time.

    save(model, "out", layout="transformers", dtype=torch.bfloat16)
    model = load("out")

    model-00001-of-00004.safetensors ...    numbers
    model.safetensors.index.json            which tensor lies in which shard; a SHA-256 of each file
    config.json                             sizes and switches

Layouts differ in the names of the tensors and in how ours are cut (`names`), and in config.json (`config_json`).

Memory: a tensor is read, converted and written before the next one, so the peak lies about one tensor above the model.
Only safetensors are ever read: a pickle can run code. What does not fit is an error that names the tensor; a flipped
bit shows in the file's SHA-256, where the folder has one (ours do, downloads may not).
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..train.checkpoint import model_state, replace_file
from .config_json import CONFIG, config_document
from .contents import INDEX, TYPES, Entry, read_contents
from .names import LAYOUTS, Piece, pieces  # noqa: F401  LAYOUTS: what callers may choose from

# ---- writing ---------------------------------------------------------------------------------------------------------


def save(model: Zaya, folder: str | Path, layout: str = "minizaya", dtype: torch.dtype | None = None,
         shard_bytes: int = 2 * 2**30) -> Path:
    """Writes a model into `folder`, which must be new or empty. Returns the folder.

    layout: "minizaya", "transformers" or "original". dtype: of the file; None: the model's own. Balancing biases stay
    float32 at least. shard_bytes: largest shard, unless one tensor is larger.

    Raises ValueError for a folder that holds something, an unknown layout or type, or an ablation, which only
    "minizaya" has words for: before anything is written. ValueError for a number that `dtype` cannot hold, OSError when
    the disk does not take it: nothing is left behind then. A process that is killed leaves a folder with ".writing-" in
    its name, and none with the final name that could be read.
    """
    state = model_state(model)
    kinds = {name: (tuple(tensor.shape), tensor.dtype if dtype is None else dtype) for name, tensor in state.items()}
    return write_folder(folder, model.config, kinds, state.__getitem__, layout, dtype, shard_bytes)


def write_folder(folder: str | Path, config: ZayaConfig, kinds: dict[str, tuple], make: Callable[[str], Tensor],
                 layout: str = "minizaya", dtype: torch.dtype | None = None, shard_bytes: int = 2 * 2**30,
                 progress: Callable[[int], object] = lambda count: None) -> Path:
    """`save` for tensors that need not exist yet: `make(name)` is asked for each when it is written, then dropped.

    kinds: name -> (shape, type in the file). progress: told the bytes written, piece by piece. Raises as `save` does.
    """
    folder = Path(folder).resolve()  # "." has no name and no neighbours
    empty = folder.exists()
    if empty and (not folder.is_dir() or any(folder.iterdir())):
        holds = f", which holds {min(folder.iterdir()).name!r}" if folder.is_dir() else ", a file"
        raise ValueError(f"folder must be new or empty, got {folder}{holds}")
    check_dtype(dtype)
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")
    document = json.dumps(config_document(config, layout, dtype), indent=1).encode()
    held: dict[str, Tensor] = {}

    def of(name: str, piece: Piece) -> Tensor:  # one tensor at a time; the pieces of one follow each other
        if name not in held:
            held.clear()
            held[name] = make(name)
        progress(sizes[piece.name])
        return piece.of(held[name])

    shards, room, sizes = [[]], 0, {}
    for name, (whole, kept) in kinds.items():
        kept = bias_type(dtype) if name.endswith("balancing_bias") and dtype is not None else kept
        for piece in pieces(name, whole, config, layout):
            shape = whole[1:] if piece.expert else (piece.stop - piece.start, *whole[1:]) if whole else ()
            sizes[piece.name] = size = torch.Size(shape).numel() * kept.itemsize
            if shards[-1] and room + size > shard_bytes:
                shards.append([])
                room = 0
            shards[-1].append((piece, partial(of, name, piece), kept, shape))
            room += size
    # An empty folder may be where somebody stands, or a disk of its own: it stays, and is written into.
    aside = (folder if empty else folder.parent) / f"{folder.name}.writing-{uuid.uuid4().hex[:12]}"
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    try:
        aside.mkdir(parents=True)
        sums = {file: write_shard(aside / file, entries) for file, entries in zip(files, shards)}
        where = {piece.name: file for file, entries in zip(files, shards) for piece, *_ in entries}
        sums[CONFIG] = hashlib.sha256(document).hexdigest()
        index = {"metadata": {"total_size": sum(sizes.values()), "layout": layout, "sha256": sums}, "weight_map": where}
        replace_file(aside / INDEX, json.dumps(index, indent=1).encode())
        replace_file(aside / CONFIG, document)
        if not empty:
            os.replace(aside, folder)
            return folder
        for file in (*files, INDEX, CONFIG):  # config.json last: nothing reads a folder without it
            os.replace(aside / file, folder / file)
        aside.rmdir()
    except BaseException as error:  # Ctrl-C too: gigabytes must not stay behind
        shutil.rmtree(aside, ignore_errors=True)
        for file in (*files, INDEX, CONFIG) if empty else ():
            (folder / file).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write a checkpoint into {folder} ({error.strerror})") from error
        raise
    return folder


def write_shard(path: Path, entries: list) -> str:
    """One safetensors file, tensor by tensor: the library's own writer wants all of them at once. Returns its SHA-256.

    entries: (piece, a function that gives its tensor, type, shape). The format: eight bytes with the header's length,
    the header as JSON, the numbers.
    """
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for piece, _, dtype, shape in entries:
        size = torch.Size(shape).numel() * dtype.itemsize
        header[piece.name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for piece, tensor, dtype, _ in entries:
            whole = tensor().detach().cpu()
            kept = whole.to(dtype)
            check_range(whole, kept, piece.name)
            data = kept.contiguous().view(torch.uint8).numpy()
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------


def load(folder: str | Path, dtype: torch.dtype | None = None, verify: bool = True) -> Zaya:
    """The model in a checkpoint folder of any of the three layouts, on the CPU.

    dtype: of the model; None: that of the folder's embedding. verify: check each file's SHA-256 where the index has
    them (reads everything once more; a config.json changed by hand is another file, too).

    Raises FileNotFoundError, or ValueError naming what is wrong: a damaged file, tensors missing, too many, of another
    shape or type, a dtype that is none of `TYPES`, a number that `dtype` cannot hold.
    """
    check_dtype(dtype)
    found = read_contents(folder, verify)
    dtype = dtype or found.entries[found.parts["embed.weight"][0].name].dtype
    filled = {}
    for ours, shape in found.shapes.items():
        kind = bias_type(dtype) if ours.endswith("balancing_bias") else dtype
        filled[ours] = torch.empty(shape, dtype=kind, device="cpu")
        for piece in found.parts[ours]:
            read_into(piece.of(filled[ours]), found.entries[piece.name])
    model, tied = found.model, found.config.tie_word_embeddings
    if tied:
        filled["head.weight"] = filled["embed.weight"]
    model.load_state_dict(filled, assign=True)
    if tied:
        model.head.weight = model.embed.weight
    return model.eval()


def read_into(target: Tensor, entry: Entry) -> None:
    """Fills `target` from a file. trap: a mapped file would be shorter, but its pages stay with the process."""
    source = target if target.dtype == entry.dtype else torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    with open(entry.file, "rb") as file:
        file.seek(entry.start)
        if file.readinto(source.view(-1).view(torch.uint8).numpy()) != entry.end - entry.start:
            raise ValueError(f"{entry.file} is damaged: it became shorter while it was read")
    if source is not target:
        target.copy_(source)
        check_range(source, target, f"a tensor in {entry.file}")


def bias_type(dtype: torch.dtype) -> torch.dtype:
    """Of the balancing biases of a model of this type: float32 at least, since a step of a balancer is small."""
    return torch.promote_types(dtype, torch.float32)


def check_range(before: Tensor, after: Tensor, what: str) -> None:
    """Raises ValueError when a finite number became infinite on the way to a narrower type."""
    if torch.finfo(after.dtype).max < torch.finfo(before.dtype).max and bool((after.isinf() & before.isfinite()).any()):
        raise ValueError(f"{what} holds {float(before.abs().max()):.3g}, which is too large for {after.dtype}")


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises ValueError for a type that no file of ours has; None is allowed."""
    if dtype is not None and (not isinstance(dtype, torch.dtype) or dtype not in TYPES):
        raise ValueError(f"dtype must be one of {[str(t) for t in TYPES]}, got {dtype!r}")
