"""One token of each of a few sequences, through `step.cpp`: what decoding with a paged model does most of the time.

The plain path is `Zaya.forward`; `test_step_equals_the_plain_path` compares the two. `Step` holds where everything lies
in memory. Its loop over the layers asks for attention and routes, then for each expert that was chosen, then for the
sum.
"""

from ctypes import POINTER, Structure, byref, c_float, c_int, c_long, c_void_p

import torch
from torch import Tensor, nn

from ..arch.attention import locate
from ..arch.block import Block
from ..arch.cache import Cache
from ..arch.model import Zaya, ZayaOutput
from .matmul import KINDS, library

FEW = 64   # sequences; from there on the products take all the time, and both ways the same (measured on two cores)
SIZES = ("width", "heads", "kv_heads", "head", "taps", "reach", "rotary", "window", "router", "experts")


class Piece(Structure):
    """Rows of a matrix, as they are stored. kind: the place in KINDS."""

    _fields_ = [("weight", c_void_p), ("scale", c_void_p), ("rows", c_long), ("kind", c_int)]


class Matrix(Structure):
    """A matrix in pieces, one below the other, and its bias or None."""

    _fields_ = [("pieces", POINTER(Piece)), ("count", c_long), ("rows", c_long), ("columns", c_long),
                ("bias", c_void_p)]


class Merge(Structure):
    """The four vectors of a `ResidualScaling`."""

    _fields_ = [(name, c_void_p) for name in ("output_scale", "output_bias", "residual_scale", "residual_bias")]


class Layer(Structure):
    """Sizes and weights of one layer."""

    _fields_ = [*((name, c_long) for name in SIZES), ("eps", c_float),
                ("attention_norm", c_void_p), ("down", Matrix), ("up", Matrix), ("depthwise", c_void_p),
                ("depthwise_bias", c_void_p), ("grouped", c_void_p), ("grouped_bias", c_void_p),
                ("temperature", c_void_p), ("attention_merge", Merge), ("moe_norm", c_void_p), ("router_down", Matrix),
                ("eda_scale", c_void_p), ("router_norm", c_void_p), ("fc1", Matrix), ("fc2", Matrix), ("out", Matrix),
                ("balancing_bias", c_void_p), ("moe_merge", Merge)]


class Past(Structure):
    """What one layer remembers of the sequences, and where the new tokens stand."""

    _fields_ = [*((name, c_void_p) for name in ("columns", "delayed", "keys", "values")), ("stride", c_long),
                *((name, c_void_p) for name in ("stored", "cos", "sin"))]


class Step:
    """A paged model's way of taking in one token a sequence. `Step.fits(model)` says whether there is one."""

    def __init__(self, model: Zaya):
        self.model, self.kept = model, []  # kept: tensors and structures whose addresses are written into others
        self.layers = [self.layer(block) for block in model.layers]
        self.experts: dict[tuple[int, int], tuple] = {}

    @staticmethod
    def fits(model: Zaya) -> bool:
        """The released architecture, in float32, and a compiler."""
        config = model.config
        whole = (config.num_convs == 2 and config.conv_lag > 0 and config.qk_mean and config.value_shift
                 and config.router == "mlp" and config.eda and config.residual_scaling)
        return whole and model.embed.weight.dtype == torch.float32 and library() is not None

    def takes(self, tokens: Tensor, cache: Cache | None, routes: Tensor | None, mask: Tensor | None) -> bool:
        """One token of each of a few sequences that have a past, no padding, nothing to replay."""
        return (cache is not None and cache.length > 0 and cache.valid is None and mask is None and routes is None
                and tokens.dim() == 2 and tokens.shape[1] == 1 and len(tokens) <= FEW
                and self.model.embed.weight.dtype == torch.float32)

    def __call__(self, tokens: Tensor, cache: Cache) -> ZayaOutput:
        """tokens: int64 (b, 1), already checked. Returns what `Zaya.forward` does; the cache has taken them in."""
        model, config, batch = self.model, self.model.config, len(tokens)
        native, threads = library(), torch.get_num_threads()
        place = cache.placed(locate(config, batch, 1, cache.length, torch.float32, tokens.device))
        angles = {sliding: [angle.expand(batch, 1, 1, -1).contiguous() for angle in pair]
                  for sliding, pair in place.angles.items()}
        held = cache.held().contiguous()
        stream = ((model.embed(tokens) + model.embed_bias) * model.embed_scale).contiguous()
        # trap: C++ reads numbers, not tensors. Whatever type or device torch takes by default, these are its own
        plain = dict(dtype=torch.float32, device=stream.device)
        x, state = torch.empty_like(stream), torch.zeros(batch, config.router_hidden_size, **plain)
        probs = torch.empty(len(self.layers), batch, 1, config.num_experts + 1, **plain)
        routes = torch.empty(len(self.layers), batch, dtype=torch.int64, device=stream.device)
        at, read = stream.data_ptr(), x.data_ptr()
        for number, (layer, block) in enumerate(zip(self.layers, model.layers)):
            (columns, delayed), room = cache.ends(number), cache.room(number, 1)
            past = Past(columns.data_ptr(), delayed.data_ptr(), room[0].data_ptr(), room[1].data_ptr(), room.stride(1),
                        held.data_ptr(), *(angle.data_ptr() for angle in angles[block.attention.sliding]))
            y, own, chosen = torch.zeros_like(stream), probs[number].data_ptr(), routes[number].data_ptr()
            native.attend_and_route(byref(layer), byref(past), batch, at, state.data_ptr(), read, own, chosen, threads)
            for expert in sorted(set(routes[number].tolist()) - {config.skip_route}):
                gate_up, down = map(byref, self.expert(number, expert))
                native.visit(byref(layer), gate_up, down, expert, batch, chosen, own, read, y.data_ptr(), threads)
            native.join(byref(layer), batch, y.data_ptr(), at)
        cache.length += 1
        return ZayaOutput(model.head(model.norm(stream)), routes.T[:, None], probs)

    # ---- where things lie --------------------------------------------------------------------------------------------

    def address(self, tensor: Tensor | None) -> int | None:
        """Of the numbers of a tensor, which is kept alive from now on."""
        self.kept.append(tensor)
        return None if tensor is None else tensor.data_ptr()

    def matrix(self, pieces: list[tuple[Tensor, Tensor | None]], bias: Tensor | None = None) -> Matrix:
        """pieces: (weight (m, k) of a type in KINDS, float32 scale (m,) or None)."""
        found = (Piece * len(pieces))(*(
            Piece(self.address(weight), self.address(scale), len(weight), list(KINDS).index(weight.dtype))
            for weight, scale in pieces))
        self.kept.append(found)
        rows = sum(len(weight) for weight, _ in pieces)
        return Matrix(found, len(pieces), rows, pieces[0][0].shape[1], self.address(bias))

    def layer(self, block: Block) -> Layer:
        config, attention, router, at = self.model.config, block.attention, block.router, self.address

        def linear(module: nn.Module) -> Matrix:
            return self.matrix([(weight, None) for _, _, weight in module.rows], module.bias)

        def merge(module: nn.Module) -> Merge:
            return Merge(*(at(getattr(module, name)) for name, _ in Merge._fields_))

        depthwise, grouped, mlp = attention.conv_depthwise, attention.conv_grouped, router.mlp
        return Layer(
            config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
            config.cca_time0, config.cca_time1, config.rotary_dim, config.sliding_window if attention.sliding else 0,
            config.router_hidden_size, config.num_experts, config.rms_norm_eps,
            at(block.attention_norm.weight), linear(attention.down_proj), linear(attention.up_proj),
            # (taps, c) and (c, reach, d) in memory: `PagedZaya` has laid them so
            at(depthwise.weight), at(depthwise.bias), at(grouped.weight), at(grouped.bias), at(attention.temperature),
            merge(block.attention_merge), at(block.moe_norm.weight), linear(router.down_proj),
            at(getattr(router, "eda_scale", None)), at(mlp.norm.weight), linear(mlp.fc1), linear(mlp.fc2),
            linear(mlp.out_proj), at(router.balancing_bias), merge(block.moe_merge))

    def expert(self, number: int, expert: int) -> tuple[Matrix, Matrix]:
        """Gate and up, and down, of one expert; asked for from the disk at the first visit."""
        own = self.model.layers[number].experts
        weights = own.open(expert)
        if (number, expert) not in self.experts:
            self.experts[number, expert] = tuple(self.matrix([pair]) for pair in weights)
        return self.experts[number, expert]
