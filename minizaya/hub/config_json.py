"""config.json: the sizes and switches beside the weights, in three dialects, both ways.

    config = read_config("ZAYA1-8B")
    document = config_document(config, "transformers")

"minizaya" has our fields as they are. "transformers" has those of its `ZayaConfig`; RoPE is a table by layer type
there. "original" is the first release's: it counts half-layers, and has other names; they are known from public ports
alone. A key that is missing means the released model's value. Every key that is there is read, refused, or known to
change nothing here; any other one is named in a warning (the tables are in `config_keys`). Refused is also what speaks
of a part that this code computes, or of how weights are written, in words that no ZAYA has: `quantization_config`,
`rope_type` beside the tables, a cap or a factor of logits, shared experts.

trap: many of these numbers leave no trace in a shape. With a wrong rope_theta the weights still fit, and the model
answers badly. So every field is checked by itself, and what this code would compute otherwise is refused.
"""

import json
import warnings
from dataclasses import fields as fields_of
from pathlib import Path

import torch

from ..config import ZayaConfig
from ..infer.calls import once
from .config_keys import (
    ALWAYS,
    ELSEWHERE,
    FIXED,
    IDS,
    NEW_ONLY,
    OLDEST,
    ORIGINAL,
    ORIGINAL_FIXED,
    ORIGINAL_ONLY,
    RELEASED,
    ROPE_KEYS,
    ROPES,
    SHARED,
    of_others,
    unread_keys,
)
from .names import check_layout

CONFIG = "config.json"
LARGEST = 2**24  # of any integer here; a damaged digit must not ask for all the memory there is
KINDS = {  # type of a field -> in words, and does a value have it?
    int: (f"an integer up to {LARGEST}", lambda x: type(x) is int and abs(x) <= LARGEST),
    int | None: (f"an integer up to {LARGEST}, or null", lambda x: x is None or type(x) is int and abs(x) <= LARGEST),
    float: ("a finite number", lambda x: type(x) in (int, float) and abs(x) < 1e30),  # NaN is not
    bool: ("true or false", lambda x: type(x) is bool),
    str: ("text", lambda x: type(x) is str),
    tuple[str, ...] | None: ("a list of texts, or null", lambda x: x is None or type(x) in (list, tuple)
                             and all(type(item) is str for item in x)),
}


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_config(folder: str | Path) -> ZayaConfig:
    """The `ZayaConfig` of a folder, in any dialect. Warns of a key that is neither read nor known to change nothing.

    Raises FileNotFoundError; ValueError naming the file and what is wrong: a value of another type, one that no
    released ZAYA has, a key that speaks of something computed otherwise, or sizes that do not fit together.
    """
    path = Path(folder) / CONFIG
    document = read_json(path)
    kind = document.get("model_type")
    if kind not in ("minizaya", "zaya"):
        raise ValueError(f"{path}: model_type must be 'minizaya' or 'zaya', got {kind!r:.80}")
    try:
        if kind == "minizaya":
            return checked({name: value for name, value in document.items() if name != "model_type"})
        original = bool(ORIGINAL_ONLY & document.keys())
        if original and (mixed := sorted(document.keys() & NEW_ONLY)):
            raise ValueError(f"{mixed[0]} and {min(ORIGINAL_ONLY & document.keys())} are of two releases' configs")
        config = from_original(document) if original else from_transformers(document)
    except ValueError as error:
        raise ValueError(f"{path} is no config of a ZAYA model: {error}") from error
    unread = unread_keys(document, original)
    for name in unread:
        if of_others(name, document[name]):
            raise ValueError(f"{path} is no config of a ZAYA model: {name!r:.80} is of something that is computed "
                             f"otherwise, or written so, and nothing here reads it, got {document[name]!r:.200}")
    if unread:
        names = ", ".join(f"{name!r:.80}" for name in unread)
        warnings.warn(f"{path}: nothing here computes with {names}, which is not read", stacklevel=2)
    return config


def checked(fields: dict) -> ZayaConfig:
    """The config of these fields. Raises ValueError as `check_types`, or when the sizes do not fit together."""
    check_types(fields)
    return ZayaConfig(**fields)


def check_types(fields: dict) -> None:
    """Raises ValueError naming the first field that is unknown or of another type, with what was given and allowed."""
    kinds = {field.name: field.type for field in fields_of(ZayaConfig)}
    for name, value in fields.items():
        if name not in kinds:
            raise ValueError(f"{name!r:.80} is not one of its fields")
        allowed, right = KINDS[kinds[name]]
        if not right(value):
            raise ValueError(f"{name} must be {allowed}, got {value!r:.80}")


def from_transformers(document: dict) -> ZayaConfig:
    """`transformers`' fields as ours. Raises ValueError for a wrong value, or a feature that no released ZAYA uses."""
    refuse_other(document, FIXED)
    refuse_other(present(document), ALWAYS)
    for name in ELSEWHERE:
        if document.get(name):
            raise ValueError(f"{name} must stand in rope_parameters, by type of layer, got {document[name]!r:.200}")
    fields = {name: document[name] for name in SHARED if name in document} | first_end(document)
    check_types(fields)
    used = [kind for kind, _ in ROPES if kind in (fields.get("layer_types") or ("hybrid",))]
    given = document.get("rope_parameters")
    if given is None:
        return checked(fields)
    ropes = {kind: given[kind] for kind, _ in ROPES if kind in given} if isinstance(given, dict) else {}
    tables = all(isinstance(rope, dict) for rope in ropes.values())
    if not tables or not all("rope_theta" in ropes.get(kind, {}) for kind in used):
        raise ValueError(f"rope_parameters must hold a table with a rope_theta for each of {used}, got {given!r:.200}")
    for key in given.keys() - ropes.keys():   # the folder of the release has a rope_type beside the tables
        if key not in ROPE_KEYS or any(ropes[kind].get(key, ROPE_KEYS[key]) != given[key] for kind in used):
            raise ValueError(f"rope_parameters: {key!r:.80} beside the tables must repeat theirs, got {given!r:.400}")
    shares = [ropes[kind].get("partial_rotary_factor", 1.0) for kind in used]
    odd = any(rope.keys() - ROPE_KEYS.keys() for rope in ropes.values())
    kinds = [rope.get(key, "default") for rope in ropes.values() for key in ("rope_type", "type")]
    if odd or any(kind != "default" for kind in kinds) or any(share != shares[0] for share in shares):
        raise ValueError(f"rope_type must be 'default' and partial_rotary_factor the same in all layers, without other "
                         f"keys than {sorted(ROPE_KEYS)}, got {given!r:.400}")
    fields |= {name: ropes[kind]["rope_theta"] for kind, name in ROPES if "rope_theta" in ropes.get(kind, {})}
    if shares:
        fields["partial_rotary_factor"] = shares[0]
    return checked(fields)


def from_original(document: dict) -> ZayaConfig:
    """The original's keys as our fields. Raises ValueError as `from_transformers`, also for lists, a value a layer."""
    refuse_other(present(document), ALWAYS | ORIGINAL_FIXED)
    lists = sorted(document.keys() & {"zaya_layers", "ffn_hidden_size_list", "num_query_groups_list"})
    if lists:
        raise ValueError(f"{lists[0]}: a config with one value a layer is not understood, "
                         "only one with a value for all")
    fields = {name: document[name] for name in IDS if name in document} | first_end(document)
    for name, theirs in ORIGINAL.items():
        given = [document[key] for key in theirs if document.get(key) is not None]
        if given:
            fields[name] = given[0]
        # trap: of attention's heads the second key counts those of the model, not of the latent
        if name != "num_attention_heads" and any(value != given[0] for value in given):
            raise ValueError(f"{' and '.join(theirs)} are two names of one thing, and differ: {given!r:.200}")
    for name, key, usual in (("num_hidden_layers", "num_hidden_layers", 80),
                             ("moe_intermediate_size", "ffn_hidden_size", 4096)):
        whole = document.get(key, usual)  # attention and experts count apart; gate and up count as one
        if type(whole) is not int or whole % 2:
            raise ValueError(f"{key} must be an even integer, got {whole!r:.80}")
        fields[name] = whole // 2
    windows = document.get("swa_layers") or []
    if windows and (not isinstance(windows, list) or len(windows) != 2 * fields["num_hidden_layers"]
                    or not all(type(window) is int for window in windows) or len({*windows} - {0}) > 1):
        raise ValueError(f"swa_layers must hold 0 or one same integer for each half-layer, got {windows!r:.80}")
    if any(windows[1::2]):
        raise ValueError(f"swa_layers may hold a window for attention alone, the even half-layers, got {windows!r:.80}")
    if any(windows[::2]):
        fields["layer_types"] = ["hybrid_sliding" if window else "hybrid" for window in windows[::2]]
        fields["sliding_window"] = max(windows) + 1  # trap: the original's window leaves the token itself out
    return checked(fields)


def present(document: dict) -> dict:
    """What is not null."""
    return {name: value for name, value in document.items() if value is not None}


def refuse_other(document: dict, fixed: dict) -> None:
    """Raises ValueError where the document has another value than the only one that this code can run."""
    for name, only in fixed.items():
        if document.get(name, only) != only:
            raise ValueError(f"{name} must be {only!r}, got {document[name]!r:.80}")


def first_end(document: dict) -> dict:
    """{"eos_token_id": the first one} where the document has a list of them, which `transformers` allows; else {}."""
    ends = document.get("eos_token_id")
    if not isinstance(ends, list):
        return {}
    if not ends or not all(type(end) is int for end in ends):
        raise ValueError(f"eos_token_id must be an integer, a list of integers, or null, got {ends!r:.80}")
    return {"eos_token_id": ends[0]}


def read_json(path: Path) -> dict:
    """The JSON object in a file. Raises FileNotFoundError, or ValueError for anything else or a key given twice."""
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint is not whole: {path} is missing")
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: not a JSON document ({error})") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return document


# ---- writing ---------------------------------------------------------------------------------------------------------


def config_document(config: ZayaConfig, layout: str, dtype: torch.dtype | None = None) -> dict:
    """What config.json holds in a layout. dtype: of the weights, written where one is given.

    Raises ValueError for an unknown layout, and for an ablation in another than "minizaya", which has no words for it.
    """
    check_layout(layout)
    if layout == "minizaya":
        return {"model_type": "minizaya"} | config.to_dict()
    theirs = to_transformers(config) if layout == "transformers" else to_original(config)
    kind = {"dtype": str(dtype).removeprefix("torch.")} if dtype else {}
    return {"architectures": ["ZayaForCausalLM"], "model_type": "zaya"} | kind | theirs


def to_transformers(config: ZayaConfig) -> dict:
    """Our config as the fields of `transformers.ZayaConfig`. Raises ValueError for an ablation."""
    refuse_ablations(config)
    ropes = {kind: {"rope_type": "default", "rope_theta": getattr(config, name),
                    "partial_rotary_factor": config.partial_rotary_factor} for kind, name in ROPES}
    serving = {"max_position_embeddings": 131072, "use_cache": True, "output_router_logits": False}
    ours = config.to_dict()
    return {name: ours[name] for name in SHARED} | FIXED | serving | {"rope_parameters": ropes}


def to_original(config: ZayaConfig) -> dict:
    """Our config as the keys of the first release. Raises ValueError for an ablation."""
    refuse_ablations(config)
    if "hybrid_sliding" in config.layer_types and config.sliding_window < 2:
        raise ValueError(f"sliding_window must be at least 2 in the original layout, got {config.sliding_window}")
    fields = {key: getattr(config, name) for name, theirs in ORIGINAL.items() for key in theirs if key not in OLDEST}
    fields |= {name: getattr(config, name) for name in IDS} | ORIGINAL_FIXED
    fields |= {"num_hidden_layers": 2 * config.num_hidden_layers, "ffn_hidden_size": 2 * config.moe_intermediate_size}
    fields |= {"max_position_embeddings": 131072, "zaya_high_prec": True, "mamba_cache_dtype": "float32"}
    if "hybrid_sliding" in config.layer_types:
        windows = [(config.sliding_window - 1) * (kind == "hybrid_sliding") for kind in config.layer_types]
        fields["swa_layers"] = [window for pair in zip(windows, [0] * len(windows)) for window in pair]
    return fields


def refuse_ablations(config: ZayaConfig) -> None:
    """Raises ValueError unless the config is one that the released code could run."""
    for name, released in RELEASED.items():
        if getattr(config, name) != released:
            raise ValueError(f"only the released form has a layout of others, not {name}={getattr(config, name)!r}; "
                             f"layout='minizaya' takes it")
