"""What each tensor is called in a checkpoint, and how ours is cut, in three layouts.

"minizaya" is our model's own. "transformers" is that of `ZayaForCausalLM`: our down-projection, which stacks q, k and
both halves of v, is four matrices there. "original" is that of the first release: 80 half-layers, attention and experts
in turn, and one entry an expert. Its names are known from public ports alone.

So each of our tensors is a few of theirs, one below the other, or a stack of experts; the numbers are the same.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import ZayaConfig

LAYOUTS = ("minizaya", "transformers", "original")

# a merge's vectors, ours -> theirs
SCALES = {"output_scale": "hidden_states_scale", "output_bias": "hidden_states_bias",
          "residual_scale": "residual_scale", "residual_bias": "residual_bias"}
# ours -> transformers', inside one layer
LAYER_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.conv_depthwise.weight": "self_attn.qkv_proj.conv_qk_depthwise.weight",
    "attention.conv_depthwise.bias": "self_attn.qkv_proj.conv_qk_depthwise.bias",
    "attention.conv_grouped.weight": "self_attn.qkv_proj.conv_qk_grouped.weight",
    "attention.conv_grouped.bias": "self_attn.qkv_proj.conv_qk_grouped.bias",
    "attention.temperature": "self_attn.qk_norm.temp",
    "attention.up_proj.weight": "self_attn.o_proj.weight",
    "attention.up_proj.bias": "self_attn.o_proj.bias",
    "moe_norm.weight": "post_attention_layernorm.weight",
    "router.down_proj.weight": "mlp.gate.down_proj.weight",
    "router.down_proj.bias": "mlp.gate.down_proj.bias",
    "router.eda_scale": "mlp.gate.router_states_scale",
    "router.mlp.norm.weight": "mlp.gate.router_mlp.norm.weight",
    "router.mlp.fc1.weight": "mlp.gate.router_mlp.fc1.weight",
    "router.mlp.fc1.bias": "mlp.gate.router_mlp.fc1.bias",
    "router.mlp.fc2.weight": "mlp.gate.router_mlp.fc2.weight",
    "router.mlp.fc2.bias": "mlp.gate.router_mlp.fc2.bias",
    "router.mlp.out_proj.weight": "mlp.gate.router_mlp.out_proj.weight",
    "router.balancing_bias": "mlp.gate.balancing_biases",
    "experts.gate_up_proj": "mlp.experts.gate_up_proj",
    "experts.down_proj": "mlp.experts.down_proj",
} | {f"{merge}.{ours}": f"{scale}.{theirs}" for ours, theirs in SCALES.items() for merge, scale in (
    ("attention_merge", "post_attention_residual_scale"), ("moe_merge", "post_mlp_residual_scale"))}
TOP_NAMES = {"embed.weight": "model.embed_tokens.weight", "embed_scale": "model.input_hidden_states_scale",
             "embed_bias": "model.input_hidden_states_bias", "norm.weight": "model.norm.weight",
             "head.weight": "lm_head.weight", "head.bias": "lm_head.bias"}
PACKED = ("q_proj", "k_proj", "v_proj_current", "v_proj_delayed")  # rows of our down-projection, top to bottom

# ours -> the original's, by half-layer; a name that ends in a dot stands for all that begin with it
ATTENTION_STAGE = {
    "attention_norm.weight": "input_norm.weight",
    "attention.conv_depthwise.": "self_attn.qkv.conv_qk.0.", "attention.conv_grouped.": "self_attn.qkv.conv_qk.1.",
    "attention.temperature": "self_attn.qkv.temp", "attention.up_proj.": "self_attn.o_proj.",
}
EXPERT_STAGE = {
    "moe_norm.weight": "input_norm.weight",
    "router.down_proj.": "zaya_block.router.down_proj.", "router.eda_scale": "zaya_block.router.router_states_scale",
    "router.mlp.norm.weight": "zaya_block.router.rmsnorm_eda.weight",
    "router.mlp.fc1.": "zaya_block.router.router_mlp.0.", "router.mlp.fc2.": "zaya_block.router.router_mlp.2.",
    "router.mlp.out_proj.": "zaya_block.router.router_mlp.4.",
    "router.balancing_bias": "zaya_block.router.balancing_biases",
}
ORIGINAL_TOP = TOP_NAMES | {"embed_scale": "model.layers.0.res_scale.hidden_states_scale",
                            "embed_bias": "model.layers.0.res_scale.hidden_states_bias",
                            "norm.weight": "model.final_norm.weight"}
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


# ---- the three layouts -----------------------------------------------------------------------------------------------


def check_layout(layout: str) -> None:
    """Raises ValueError for an unknown layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}")


def pieces(name: str, shape: tuple[int, ...], config: ZayaConfig, layout: str) -> list[Piece]:
    """What one of our tensors is made of in a layout, from the first row to the last.

    Raises ValueError for an unknown layout, and for a tensor that the layout has no name for.
    """
    check_layout(layout)
    rows = shape[0] if shape else 1
    if layout == "minizaya":
        return [Piece(name, 0, rows)]
    _, number, part = name.split(".", 2) if name.startswith("layers.") else ("", "0", name)
    layer, kind = int(number), name.rpartition(".")[2]
    if part.startswith("attention.down_proj."):
        q, kv = config.query_size, config.kv_size
        cuts = (0, q, q + kv, q + kv + kv // 2, rows)
        stem, names = ((f"model.layers.{layer}.self_attn.qkv_proj", PACKED) if layout == "transformers"
                       else (f"model.layers.{2 * layer}.self_attn.qkv", PROJECTIONS))
        return [Piece(f"{stem}.{theirs}.{kind}", start, stop) for theirs, start, stop in zip(names, cuts, cuts[1:])]
    if layout == "original" and part.startswith("experts."):
        fc = {"gate_up_proj": "linear_fc1", "down_proj": "linear_fc2"}[kind]
        stem = f"model.layers.{2 * layer + 1}.zaya_block.experts.local_experts"
        return [Piece(f"{stem}.{e}.{fc}.weight", e, e + 1, expert=True) for e in range(config.num_experts)]
    if layout == "original":
        theirs = original_name(name, config)
    else:
        theirs = TOP_NAMES.get(name) or (part in LAYER_NAMES and f"model.layers.{layer}.{LAYER_NAMES[part]}")
    if not theirs:
        raise ValueError(f"{name!r} has no name in the {layout} layout: only the released architecture has one")
    return [Piece(theirs, 0, rows)]


def original_name(name: str, config: ZayaConfig) -> str | None:
    """A tensor's name in the 80-stage layout, or None. A merge belongs to the stage that comes after it."""
    if name in ORIGINAL_TOP:
        return ORIGINAL_TOP[name]
    _, layer, part = name.split(".", 2)
    stage = 2 * int(layer) + (not part.startswith("attention"))
    merge, _, kind = part.partition(".")
    if merge.endswith("_merge"):
        home = f"model.layers.{stage + 1}" if stage + 1 < 2 * config.num_hidden_layers else "model"
        return f"{home}.res_scale.{SCALES[kind]}"
    return next((f"model.layers.{stage}.{theirs}{part.removeprefix(ours)}"
                 for ours, theirs in (EXPERT_STAGE if stage % 2 else ATTENTION_STAGE).items()
                 if part == ours or ours.endswith(".") and part.startswith(ours)), None)


def layout_of(names: set[str], folder: Path) -> str:
    """Which layout these names in a folder are of. Raises ValueError when it is none."""
    if "embed.weight" in names:
        return "minizaya"
    if any(".zaya_block." in name for name in names):
        return "original"
    if any(".self_attn.qkv_proj." in name for name in names):
        return "transformers"
    raise ValueError(f"{folder} holds no ZAYA model: its first tensors are {sorted(names)[:3]}")


# ---- whole state dicts -----------------------------------------------------------------------------------------------


def rename(tensors: dict[str, Tensor], config: ZayaConfig) -> dict[str, Tensor]:
    """Our names to `transformers`', splitting the packed down-projection. Works for weights and for gradients.

    Raises ValueError for a tensor that `transformers`' ZAYA lacks, such as that of a linear router.
    """
    return {piece.name: piece.of(tensor) if tensor.dim() else tensor for name, tensor in tensors.items()
            for piece in pieces(name, tuple(tensor.shape), config, "transformers")}


def unrename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`transformers`' names to ours: the inverse of `rename`. Raises ValueError on a name that is not ZAYA's."""
    top = {theirs: ours for ours, theirs in TOP_NAMES.items()}
    inside = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
    renamed = {}
    for name, tensor in tensors.items():
        _, _, layer, part = name.split(".", 3) if name.startswith("model.layers.") else ("", "", "", name)
        kind = part.rpartition(".")[2]
        if name in top:
            renamed[top[name]] = tensor
        elif part in inside:
            renamed[f"layers.{layer}.{inside[part]}"] = tensor
        elif part == f"self_attn.qkv_proj.q_proj.{kind}":
            stack = [tensors[name.replace("q_proj." + kind, f"{other}.{kind}")] for other in PACKED]
            renamed[f"layers.{layer}.attention.down_proj.{kind}"] = torch.cat(stack)
        elif not any(part == f"self_attn.qkv_proj.{other}.{kind}" for other in PACKED):
            raise ValueError(f"{name!r} is not a tensor of a ZAYA model")
    return renamed
