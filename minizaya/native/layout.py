"""Where the numbers of a model lie: the structures that `step.cpp` reads, filled with addresses.

Nothing is copied. A structure points into the storage of a parameter, so whoever changes that parameter in place (an
optimizer, `load_state_dict`) has changed what `step.cpp` reads. The one exception are the small weights of a bfloat16
model, which C++ widens into `Twin`s at the start of each step.
"""

from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p

import torch
from torch import Tensor, nn

from ..arch.block import Block
from ..config import ZayaConfig
from .matmul import KINDS, multiplies_pairs

PAIRS = len(KINDS)
SIZES = ("width", "heads", "kv_heads", "head", "taps", "reach", "rotary", "window", "router", "experts", "means",
         "shift")


class Piece(Structure):
    """Rows of a matrix, as they are stored. kind: the place in KINDS; after them, PAIRS: bfloat16 that is multiplied
    with tokens rounded to it."""

    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("rows", c_long), ("kind", c_int)]


class Matrix(Structure):
    """A matrix in pieces, one below the other, and its bias or None."""

    _fields_ = [("pieces", POINTER(Piece)), ("count", c_long), ("rows", c_long), ("columns", c_long),
                ("bias", c_void_p)]


class Merge(Structure):
    """The four vectors of a `ResidualScaling`, or nothing: a plain sum."""

    _fields_ = [(name, c_void_p) for name in ("output_scale", "output_bias", "residual_scale", "residual_bias")]


class Layer(Structure):
    """Sizes and weights of one layer."""

    _fields_ = [*((name, c_long) for name in SIZES), ("eps", c_float),
                ("attention_norm", c_void_p), ("down", Matrix), ("up", Matrix), ("depthwise", c_void_p),
                ("depthwise_bias", c_void_p), ("grouped", c_void_p), ("grouped_bias", c_void_p),
                ("temperature", c_void_p), ("attention_merge", Merge), ("moe_norm", c_void_p), ("router_down", Matrix),
                ("eda_scale", c_void_p), ("router_norm", c_void_p), ("fc1", Matrix), ("fc2", Matrix), ("out", Matrix),
                ("balancing_bias", c_void_p), ("moe_merge", Merge), ("gate_up", POINTER(Matrix)),
                ("expert_down", POINTER(Matrix))]


class Past(Structure):
    """What one layer remembers of the sequences, and where the new tokens stand."""

    _fields_ = [*((name, c_void_p) for name in ("columns", "delayed", "keys", "values")), ("stride", c_long),
                ("half", c_long), *((name, c_void_p) for name in ("stored", "turned", "cos", "sin", "seen")),
                ("seen_stride", c_long)]


class Twin(Structure):
    """Small weights in bfloat16, and room for them as floats."""

    _fields_ = [("from", c_void_p), ("to", c_void_p), ("count", c_long)]


class Model(Structure):
    """All layers, and what stands before and after them."""

    _fields_ = [("layers", POINTER(Layer)), ("count", c_long), ("embed", Matrix),
                *((name, c_void_p) for name in ("embed_scale", "embed_bias", "norm")), ("head", Matrix),
                ("twins", POINTER(Twin)), ("twin_count", c_long)]


class Layout:
    """Fills the structures of one model, and keeps alive what they point to.

    rounds: bfloat16 matrices meet tokens that are rounded to bfloat16, where the CPU multiplies these as they are.
    """

    def __init__(self, config: ZayaConfig, rounds: bool = False):
        self.config, self.kept, self.twins = config, [], []
        self.kinds = {kind: number for number, kind in enumerate(KINDS)}
        if rounds and multiplies_pairs():
            self.kinds[torch.bfloat16] = PAIRS

    def keep(self, *tensors: Tensor | None) -> None:
        """trap: a parameter may be given other memory, and a parameter that is kept does not keep the old one."""
        self.kept += [tensor.detach() for tensor in tensors if tensor is not None]

    def address(self, tensor: Tensor | None) -> int | None:
        """Of a small tensor's floats: its own, or those of its twin."""
        if tensor is None:
            return None
        self.keep(tensor)
        if tensor.dtype != torch.bfloat16:
            return tensor.data_ptr()
        twin = torch.empty(tensor.numel(), dtype=torch.float32, device="cpu")
        self.kept.append(twin)
        self.twins.append(Twin(tensor.data_ptr(), twin.data_ptr(), tensor.numel()))
        return twin.data_ptr()

    def matrix(self, pieces: list[tuple[Tensor, Tensor | None]], bias: Tensor | None = None) -> Matrix:
        """pieces: (weight (m, k) of a type in KINDS, float32 scale (m,) or None)."""
        for part in pieces:
            self.keep(*part)
        found = (Piece * len(pieces))(*(
            Piece(weight.data_ptr(), None if scale is None else scale.data_ptr(), len(weight),
                  self.kinds[weight.dtype]) for weight, scale in pieces))
        self.kept.append(found)
        return Matrix(found, len(pieces), sum(len(weight) for weight, _ in pieces), pieces[0][0].shape[1],
                      self.address(bias))

    def linear(self, module: nn.Module | None) -> Matrix:
        """A matrix in memory, or, `PagedLinear`, in several places of a file; without one: nothing."""
        if module is None:
            return Matrix()
        if hasattr(module, "rows"):
            return self.matrix([(weight, None) for _, _, weight in module.rows], module.bias)
        return self.matrix([(module.weight, None)], module.bias)

    def merge(self, module: nn.Module) -> Merge:
        return Merge(*(self.address(getattr(module, name, None)) for name, _ in Merge._fields_))

    def experts(self, stacked: Tensor) -> "POINTER(Matrix)":
        """One matrix an expert: (E, m, k)."""
        found = (Matrix * len(stacked))(*(self.matrix([(weight, None)]) for weight in stacked))
        self.kept.append(found)
        return found

    def layer(self, block: Block) -> Layer:
        """trap: the balancing bias stays float32 in a bfloat16 model."""
        config, attention, router, at = self.config, block.attention, block.router, self.address
        depthwise, grouped, mlp = attention.conv_depthwise, attention.conv_grouped, getattr(router, "mlp", None)
        weights = [at(None if conv is None else part) for conv in (depthwise, grouped)
                   for part in ((conv and conv.weight), (conv and conv.bias))]
        stacked = [getattr(block.experts, name, None) for name in ("gate_up_proj", "down_proj")]
        return Layer(
            config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
            1 if depthwise is None else config.cca_time0, 1 if grouped is None else config.cca_time1,
            config.rotary_dim, config.sliding_window if attention.sliding else 0,
            0 if mlp is None else config.router_hidden_size, config.num_experts, config.qk_mean, config.value_shift,
            config.rms_norm_eps, at(block.attention_norm.weight), self.linear(attention.down_proj),
            self.linear(attention.up_proj), *weights, at(attention.temperature), self.merge(block.attention_merge),
            at(block.moe_norm.weight), self.linear(getattr(router, "down_proj", None)),
            at(getattr(router, "eda_scale", None)), at(mlp and mlp.norm.weight), self.linear(mlp and mlp.fc1),
            self.linear(mlp and mlp.fc2), self.linear(router.out_proj if mlp is None else mlp.out_proj),
            at(router.balancing_bias), self.merge(block.moe_merge),
            *(None if weights is None else self.experts(weights) for weights in stacked))
