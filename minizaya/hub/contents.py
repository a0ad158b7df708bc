"""What lies in a checkpoint folder, read and checked before any number is: config, index, the headers of the shards.

`read_contents(folder)` ends in one error that names the file and what is wrong with it, or in a folder that holds this
model and nothing else. Only safetensors are read: the library checks each header, and we read it once more, because it
hands out tensors and not where their bytes lie, which `shards` (no second copy) and `mapped` (pages) must know.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..train.checkpoint import model_state
from .config_json import CONFIG, read_config, read_json
from .names import Piece, layout_of, pieces

INDEX = "model.safetensors.index.json"
LONGEST_NAME = 255  # bytes in the name of a file; a longer one is an error even to ask for
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
DTYPES = {text: dtype for dtype, text in TYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes `start` to `end` of a file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Contents:
    """A folder that holds a model. model: without memory for its weights. sums: file -> SHA-256, where the index has
    them. shapes, parts: by our names. entries: by the names in the files."""

    config: ZayaConfig
    layout: str
    model: Zaya
    sums: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    parts: dict[str, list[Piece]]
    entries: dict[str, Entry]


def read_contents(folder: str | Path, verify: bool = False) -> Contents:
    """What lies in a folder in any of the three layouts. verify: check each file's SHA-256 first (reads everything).

    Raises FileNotFoundError, or ValueError naming what is wrong: a damaged file, a tensor missing, unknown, or of
    another shape or type.
    """
    folder = Path(folder)
    config = read_config(folder)
    where, sums = read_index(folder)
    if verify:
        check_sums(folder, sums)
    entries: dict[str, Entry] = {}
    for file in sorted(set(where.values())):
        for name, entry in read_header(folder / file).items():
            if name in entries:
                raise ValueError(f"{name!r:.200} lies in two files, {entries[name].file} and {file}; one is stale")
            entries[name] = entry
    for name, file in where.items():
        if name not in entries or entries[name].file.name != file:
            raise ValueError(f"{folder / INDEX} says that {name!r:.200} lies in {file}, but it does not")
    model = empty_model(folder, config, len(entries))
    state = model_state(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    layout = layout_of(set(entries), folder)
    if layout == "original" and config.num_experts > len(entries):  # before there is a list of all their names
        raise ValueError(f"{folder / CONFIG} says {config.num_experts} experts, "
                         f"but there are {len(entries)} tensors in all")
    parts = {name: pieces(name, shape, config, layout) for name, shape in shapes.items()}
    wanted = {piece.name: tuple(piece.of(state[name]).shape) for name, of_one in parts.items() for piece in of_one}
    check_names(folder, set(entries), set(wanted), config.tie_word_embeddings)
    for name, shape in wanted.items():
        entry = entries[name]
        if entry.shape != shape:
            raise ValueError(f"{entry.file}: {name!r} is of shape {entry.shape}, the model wants {shape}")
    check_types(entries)
    if config.tie_word_embeddings:
        check_tied(entries[parts["embed.weight"][0].name], entries.keys() - wanted.keys(), entries)
    return Contents(config, layout, model, sums, shapes, parts, entries)


def empty_model(folder: Path, config: ZayaConfig, tensors: int) -> Zaya:
    """The model without memory for its weights. tensors: how many the folder has; a layer has several.

    Raises ValueError when the config asks for more layers than there are tensors, or for sizes that torch cannot count.
    """
    if config.num_hidden_layers > tensors:
        raise ValueError(f"{folder / CONFIG} says {config.num_hidden_layers} layers, "
                         f"but there are {tensors} tensors in all")
    try:
        with torch.device("meta"):
            return Zaya(config)
    except RuntimeError as error:
        raise ValueError(f"{folder / CONFIG} describes a model that is too large for torch: {error}") from error


def check_names(folder: Path, found: set[str], wanted: set[str], tied: bool) -> None:
    """Raises ValueError naming the first tensor missing or unknown. tied: the head may be there; see `check_tied`."""
    odd = sorted((found - ({"lm_head.weight", "head.weight"} if tied else set())) ^ wanted)
    if odd:
        wrong, what = ("missing or not", "missing") if odd[0] in wanted else ("not", "unknown")
        raise ValueError(f"{folder}: {len(odd)} tensors are {wrong} of this model; "
                         f"the first is {odd[0]!r:.200}, which is {what}")


def check_tied(embedding: Entry, heads: set[str], entries: dict[str, Entry]) -> None:
    """Raises ValueError for a head that is another one than the embedding. A tied model has only the one, and would
    answer with the wrong head; `transformers` loads the file's and warns."""
    for name in sorted(heads):
        head = entries[name]
        if (head.dtype, head.shape) != (embedding.dtype, embedding.shape) or not same_bytes(head, embedding):
            raise ValueError(f"{head.file}: {name!r} is not the embedding, although tie_word_embeddings is true; "
                             "say false in the config, or take it out of the file")


def same_bytes(one: Entry, other: Entry, step: int = 2**24) -> bool:
    """Do two tensors hold the same bytes? Reads a piece of each at a time."""
    with open(one.file, "rb") as first, open(other.file, "rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.end - one.start
        while left > 0:
            a, b = first.read(min(step, left)), second.read(min(step, left))
            if a != b or not a:
                return False
            left -= len(a)
    return True


def check_types(entries: dict[str, Entry]) -> None:
    """Raises ValueError naming the first tensor of an odd type. A folder has one, and float32 where that is too narrow.

    trap: bfloat16 and float16 are of one size. A tensor that bears the other one's name loads, as other numbers.
    """
    counts = Counter(entry.dtype for entry in entries.values() if entry.dtype != torch.float32)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        name = min(name for name, entry in entries.items() if entry.dtype not in (usual, torch.float32))
        odd = entries[name]
        raise ValueError(f"{odd.file}: {name!r:.200} is of type {TYPES[odd.dtype]}, the model wants {TYPES[usual]}, "
                         f"like {counts[usual]} others, or F32")


def read_header(path: Path) -> dict[str, Entry]:
    """What lies where in a safetensors file. Raises FileNotFoundError, or ValueError when it is damaged or no such."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a safetensors file; nothing else is read")
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
    try:
        with safe_open(path, framework="pt"):  # the library's own checks: header, offsets, length
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    with open(path, "rb") as file:
        first = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(first - 8))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        kind, (start, end) = entry["dtype"], entry["data_offsets"]
        if kind not in DTYPES:
            raise ValueError(f"{path}: {name!r:.200} is of type {kind}, the model wants one of {sorted(DTYPES)}")
        header[name] = Entry(path, DTYPES[kind], tuple(entry["shape"]), first + start, first + end)
    return header


def read_index(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(tensor -> file, file -> SHA-256). A folder with one file needs no index.

    Raises FileNotFoundError, or ValueError when the index does not hold that, or names a file outside the folder.
    """
    path = folder / INDEX
    if not path.exists():
        single = folder / "model.safetensors"
        return dict.fromkeys(read_header(single), single.name), {}
    index = read_json(path)
    single = folder / "model.safetensors"
    where, metadata = index.get("weight_map"), index.get("metadata", {})
    sums = metadata.get("sha256", {}) if isinstance(metadata, dict) else None
    if not where or not all(isinstance(table, dict) and all(isinstance(text, str) for text in table.values())
                            for table in (where, sums)):
        raise ValueError(f"{path} must hold a table of texts, weight_map; "
                         "metadata, if any, is a table, and so is its sha256")
    for file in (*where.values(), *sums):
        if file != Path(file).name or len(file.encode()) > LONGEST_NAME:
            raise ValueError(f"{path} may only name files of the same folder, got {file!r:.200}")
    if single.exists() and single.name not in where.values():   # `transformers` would read that one, and not the index
        raise ValueError(f"{single} lies beside an index that does not name it; one of the two is stale")
    return where, sums


def check_sums(folder: Path, sums: dict[str, str]) -> None:
    """Raises ValueError naming the first file whose SHA-256 is another one, FileNotFoundError when it is not there."""
    for name, wanted in sums.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted:
            raise ValueError(f"{path} is damaged: its SHA-256 is {found[:16]}..., {INDEX} says {wanted[:16]}...")
