"""Checkpoint folders of any size: safetensors in shards, in three layouts, written and read one tensor at a time.

    save(model, "out", layout="transformers", dtype=torch.bfloat16)
    model = load("out")

    model-00001-of-00004.safetensors ...    numbers
    model.safetensors.index.json            which tensor lies in which shard; a SHA-256 of each
    config.json                             sizes and switches

Layouts differ in names and in how our tensors are cut: each of ours is a few of theirs, one below the other, or a stack of
experts. "minizaya" is ours as it is, "transformers" that of `ZayaForCausalLM`, "original" that of the first release: 80
half-layers, attention and experts in turn, one file entry an expert. (Its names are known from public ports alone.)

Memory: a tensor is read, converted and written before the next one, so the peak lies about one tensor above the model.
Only safetensors are ever read: a pickle can run code. What does not fit is an error that names the tensor; a flipped bit
shows in the shard's SHA-256, where the folder has one (ours do, downloads may not).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..train.checkpoint import model_state, replace_file
from . import hub

LAYOUTS = ("minizaya", "transformers", "original")
INDEX, CONFIG = "model.safetensors.index.json", "config.json"
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
ATTENTION_STAGE = {
    "attention_norm.weight": "input_norm.weight",
    "attention.conv_depthwise.": "self_attn.qkv.conv_qk.0.", "attention.conv_grouped.": "self_attn.qkv.conv_qk.1.",
    "attention.temperature": "self_attn.qkv.temp", "attention.up_proj.": "self_attn.o_proj.",
}
EXPERT_STAGE = {
    "moe_norm.weight": "input_norm.weight",
    "router.down_proj.": "zaya_block.router.down_proj.", "router.eda_scale": "zaya_block.router.router_states_scale",
    "router.mlp.norm.weight": "zaya_block.router.rmsnorm_eda.weight", "router.mlp.fc1.": "zaya_block.router.router_mlp.0.",
    "router.mlp.fc2.": "zaya_block.router.router_mlp.2.", "router.mlp.out_proj.": "zaya_block.router.router_mlp.4.",
    "router.balancing_bias": "zaya_block.router.balancing_biases",
}
SCALES = {"output_scale": "hidden_states_scale", "output_bias": "hidden_states_bias",
          "residual_scale": "residual_scale", "residual_bias": "residual_bias"}
ORIGINAL_TOP = {"embed.weight": "model.embed_tokens.weight", "embed_scale": "model.layers.0.res_scale.hidden_states_scale",
                "embed_bias": "model.layers.0.res_scale.hidden_states_bias", "norm.weight": "model.final_norm.weight",
                "head.weight": "lm_head.weight", "head.bias": "lm_head.bias"}
PROJECTIONS = ("linear_q", "linear_k", "val_proj1", "val_proj2")


@dataclass(frozen=True)
class Piece:
    """One tensor of a file: `tensor[start:stop]` of ours, or `tensor[start]` where it is one expert of a stack."""

    name: str
    start: int
    stop: int
    expert: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        return tensor[self.start] if self.expert else tensor[self.start: self.stop]


# ---- layouts ---------------------------------------------------------------------------------------------------------


def pieces(name: str, shape: tuple[int, ...], config: ZayaConfig, layout: str) -> list[Piece]:
    """What one of our tensors is made of in a layout. Raises ValueError for an unknown layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}")
    rows = shape[0] if shape else 1
    if layout == "minizaya":
        return [Piece(name, 0, rows)]
    if name.endswith(("attention.down_proj.weight", "attention.down_proj.bias")):
        half, kind = config.kv_size // 2, name.rpartition(".")[2]
        cuts = (0, config.query_size, config.query_size + config.kv_size, config.query_size + config.kv_size + half, rows)
        layer = int(name.split(".")[1])
        if layout == "transformers":
            names = [f"model.layers.{layer}.self_attn.qkv_proj.{part}.{kind}" for part in hub.PACKED]
        else:
            names = [f"model.layers.{2 * layer}.self_attn.qkv.{part}.{kind}" for part in PROJECTIONS]
        return [Piece(theirs, start, stop) for theirs, start, stop in zip(names, cuts, cuts[1:])]
    if layout == "transformers":
        theirs, = hub.rename({name: None}, config)
        return [Piece(theirs, 0, rows)]
    if ".experts." in name:
        layer, part = int(name.split(".")[1]), {"gate_up_proj": "linear_fc1", "down_proj": "linear_fc2"}[name.rpartition(".")[2]]
        stem = f"model.layers.{2 * layer + 1}.zaya_block.experts.local_experts"
        return [Piece(f"{stem}.{e}.{part}.weight", e, e + 1, expert=True) for e in range(config.num_experts)]
    return [Piece(original_name(name, config), 0, rows)]


def original_name(name: str, config: ZayaConfig) -> str:
    """A tensor's name in the 80-stage layout. A merge belongs to the stage that comes after it."""
    if name in ORIGINAL_TOP:
        return ORIGINAL_TOP[name]
    _, layer, part = name.split(".", 2)
    layer = int(layer)
    for prefix, stage in (("attention_merge.", 2 * layer + 1), ("moe_merge.", 2 * layer + 2)):
        if part.startswith(prefix):
            home = f"model.layers.{stage}" if stage < 2 * config.num_hidden_layers else "model"
            return f"{home}.res_scale.{SCALES[part.removeprefix(prefix)]}"
    for stage, table in ((2 * layer, ATTENTION_STAGE), (2 * layer + 1, EXPERT_STAGE)):
        for ours, theirs in table.items():
            if part == ours or ours.endswith(".") and part.startswith(ours):
                return f"model.layers.{stage}.{theirs}{part.removeprefix(ours)}"
    raise ValueError(f"{name!r} has no name in the original layout: only the released architecture has one")


def layout_of(names: set[str]) -> str:
    """Which layout these names are of. Raises ValueError when it is none."""
    if "embed.weight" in names:
        return "minizaya"
    if any(".zaya_block." in name for name in names):
        return "original"
    if any(".self_attn.qkv_proj." in name for name in names):
        return "transformers"
    raise ValueError(f"the folder holds no ZAYA model: its first tensors are {sorted(names)[:3]}")


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(model: Zaya, folder: str | Path, layout: str = "minizaya", dtype: torch.dtype | None = None,
         shard_bytes: int = 2 * 2**30) -> Path:
    """Writes a model into `folder`, which must be new or empty. Returns the folder.

    dtype: of the file; None: the model's own. Balancing biases stay float32. shard_bytes: largest shard, unless one tensor
    is larger. Raises ValueError for a folder that holds something, an unknown layout or type, OSError when the disk does
    not take it: nothing is left behind then.
    """
    state = model_state(model)
    kinds = {name: (tuple(tensor.shape), tensor.dtype if dtype is None else dtype) for name, tensor in state.items()}
    return write_folder(folder, model.config, kinds, state.__getitem__, layout, dtype, shard_bytes)


def write_folder(folder: str | Path, config: ZayaConfig, kinds: dict[str, tuple], make: Callable[[str], Tensor],
                 layout: str = "minizaya", dtype: torch.dtype | None = None, shard_bytes: int = 2 * 2**30,
                 progress: Callable[[int], object] = lambda count: None) -> Path:
    """`save` for tensors that need not exist yet: `make(name)` is asked for each when it is written, and dropped after it.

    kinds: name -> (shape, type in the file). progress: told the bytes written, piece by piece. Raises as `save` does.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder must be new or empty, got {folder}")
    if dtype is not None and dtype not in TYPES:
        raise ValueError(f"dtype must be one of {[str(t) for t in TYPES]}, got {dtype!r}")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1, got {shard_bytes}")
    held: dict[str, Tensor] = {}

    def of(name: str, piece: Piece) -> Tensor:  # one tensor at a time; the pieces of one follow each other
        if name not in held:
            held.clear()
            held[name] = make(name)
        progress(sizes[piece.name])
        return piece.of(held[name])

    shards, room, sizes = [[]], 0, {}
    for name, (whole, kept) in kinds.items():
        kept = torch.float32 if name.endswith("balancing_bias") and dtype is not None else kept
        for piece in pieces(name, whole, config, layout):
            shape = whole[1:] if piece.expert else (piece.stop - piece.start, *whole[1:]) if whole else ()
            sizes[piece.name] = size = torch.Size(shape).numel() * kept.itemsize
            if shards[-1] and room + size > shard_bytes:
                shards.append([])
                room = 0
            shards[-1].append((piece, partial(of, name, piece), kept, shape))
            room += size
    aside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        where, sums = {}, {}
        for number, entries in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            sums[file] = write_shard(aside / file, entries)
            where |= {piece.name: file for piece, *_ in entries}
        index = {"metadata": {"total_size": sum(sizes.values()), "layout": layout, "sha256": sums}, "weight_map": where}
        replace_file(aside / INDEX, json.dumps(index, indent=1).encode())
        replace_file(aside / CONFIG, json.dumps(config_to_json(config, layout, dtype), indent=1).encode())
        if folder.exists():
            folder.rmdir()
        os.replace(aside, folder)
    except BaseException as error:  # Ctrl-C too: gigabytes must not stay behind
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write a checkpoint into {folder} ({error.strerror})") from error
        raise
    return folder


def write_shard(path: Path, entries: list) -> str:
    """One safetensors file, tensor by tensor: the library's own writer wants all of them at once. Returns its SHA-256.

    entries: (piece, a function that gives its tensor, type, shape). The format: eight bytes with the header's length, the
    header as JSON, the numbers.
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
        for _, tensor, dtype, _ in entries:
            data = tensor().detach().to("cpu", dtype).contiguous().view(torch.uint8).numpy()
            file.write(data)
            digest.update(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------


def load(folder: str | Path, dtype: torch.dtype | None = None, verify: bool = True) -> Zaya:
    """The model in a checkpoint folder of any of the three layouts.

    dtype: of the model; None: that of the folder's embedding. verify: check each shard's SHA-256 where the index has them
    (reads everything once more). Raises FileNotFoundError, or ValueError naming what is wrong: a damaged file, tensors
    missing, too many, of another shape or type.
    """
    folder = Path(folder)
    config = read_config(folder)
    where, sums = read_index(folder)
    if verify:
        for file, wanted in sums.items():
            check_sum(folder / file, wanted)
    files = {file: open_shard(folder / file) for file in sorted(set(where.values()))}
    found = {name: file for file, opened in files.items() for name in opened.keys()}
    with torch.device("meta"):
        model = Zaya(config)
    state = model_state(model)
    layout = check_names(folder, config, where, found, {name: tuple(tensor.shape) for name, tensor in state.items()})
    dtype = dtype or read_dtype(files[found[next(p.name for p in pieces("embed.weight", tuple(state["embed.weight"].shape),
                                                                       config, layout))]], config, layout, state)
    filled = {}
    for ours, meta in state.items():
        kept = torch.float32 if ours.endswith("balancing_bias") else dtype
        target = torch.empty(meta.shape, dtype=kept)
        for piece in pieces(ours, tuple(meta.shape), config, layout):
            source = files[found[piece.name]].get_tensor(piece.name)
            into = piece.of(target)
            if tuple(source.shape) != tuple(into.shape) or source.dtype not in TYPES:
                raise ValueError(f"{folder}: {piece.name!r} is {source.dtype} {tuple(source.shape)}, the model wants numbers of "
                                 f"shape {tuple(into.shape)}")
            into.copy_(source)
        filled[ours] = target
    if config.tie_word_embeddings:
        filled["head.weight"] = filled["embed.weight"]
    model.load_state_dict(filled, assign=True)
    if config.tie_word_embeddings:
        model.head.weight = model.embed.weight
    return model.eval()


def check_names(folder: Path, config: ZayaConfig, where: dict[str, str], found: dict[str, str], shapes: dict) -> str:
    """The layout, when the files hold the tensors that the index says (`where`) and that the model wants (`shapes`).

    found: tensor -> file, as it is. Raises ValueError naming the first tensor that is missing or unknown.
    """
    for name, file in where.items():
        if found.get(name) != file:
            raise ValueError(f"{INDEX} says that {name!r} lies in {file}, but it does not")
    layout = layout_of(set(found))
    wanted = {piece.name for ours, shape in shapes.items() for piece in pieces(ours, shape, config, layout)}
    tied = {"lm_head.weight", "head.weight"} if config.tie_word_embeddings else set()
    odd = sorted((set(found) - tied) ^ wanted)
    if odd:
        missing = odd[0] in wanted
        raise ValueError(f"{folder}: {len(odd)} tensors are {'missing or ' if missing else ''}not of this model; the first is "
                         f"{odd[0]!r}, which is {'missing' if missing else 'unknown'}")
    return layout


def read_dtype(opened, config: ZayaConfig, layout: str, state: dict) -> torch.dtype:
    """The type of the embedding in the file."""
    piece, = pieces("embed.weight", tuple(state["embed.weight"].shape), config, layout)
    found = opened.get_slice(piece.name).get_dtype()
    known = {text: dtype for dtype, text in TYPES.items()}
    if found not in known:
        raise ValueError(f"{piece.name!r} is of type {found}, the model wants one of {sorted(known)}")
    return known[found]


def open_shard(path: Path):
    """A memory-mapped safetensors file. Raises FileNotFoundError, or ValueError when it is damaged or something else."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a safetensors file; nothing else is read")
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_index(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(tensor -> file, file -> SHA-256). A folder with one file needs no index."""
    path = folder / INDEX
    if not path.exists():
        single = folder / "model.safetensors"
        return {name: single.name for name in open_shard(single).keys()}, {}
    index = read_json(path)
    where, sums = index.get("weight_map"), index.get("metadata", {}).get("sha256", {})
    plain = isinstance(where, dict) and isinstance(sums, dict) and all(
        isinstance(file, str) and file == Path(file).name for file in (*where.values(), *sums))
    if not plain or not where:
        raise ValueError(f"{path} must hold a weight_map from tensors to files of the same folder")
    return where, sums


def check_sum(path: Path, wanted: str) -> None:
    """Raises ValueError when the file's SHA-256 is another one."""
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise ValueError(f"{path} is damaged: its SHA-256 is {found[:16]}..., {INDEX} says {str(wanted)[:16]}...")


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: not a JSON document") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return document


# ---- config.json -----------------------------------------------------------------------------------------------------


def config_to_json(config: ZayaConfig, layout: str, dtype: torch.dtype | None = None) -> dict:
    """config.json: our fields, or those of `transformers` for its layout (and the original's, which has none of its own)."""
    if layout == "minizaya":
        return {"model_type": "minizaya"} | config.to_dict()
    known = hub.config_to_transformers(config).to_dict()
    return known | {"architectures": ["ZayaForCausalLM"]} | ({"dtype": str(dtype).removeprefix("torch.")} if dtype else {})


def read_config(folder: Path) -> ZayaConfig:
    """The `ZayaConfig` of a folder. Raises FileNotFoundError, or ValueError for a config that is not ZAYA's."""
    path = folder / CONFIG
    document = read_json(path)
    try:
        if document.get("model_type") == "minizaya":
            return ZayaConfig(**{name: value for name, value in document.items() if name != "model_type"})
        if document.get("model_type") == "zaya":
            return hub.config_from_transformers(SimpleNamespace(**document))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no config of a ZAYA model: {error}") from error
    raise ValueError(f"{path}: model_type must be 'minizaya' or 'zaya', got {document.get('model_type')!r}")
