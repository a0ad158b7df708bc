"""What training holds in memory: weights, gradients, the optimizer's state, and what layers keep for the backward pass.

    python -m minizaya plan zaya1-8b --device mi300x --dp 64 --ep 8 --batch 8

Every count is of what our code keeps: weights, gradients and the optimizer's state to the byte, activations within one
in a hundred (how tokens fall on experts decides the rest). `tests/plan/test_plan.py` and
`tests/parallel/test_parallel.py` weigh the real ones. trap: a device holds more than that for a moment (the backward
pass's own results, a fragmented allocator, buffers of collectives); `OVERHEAD` is what we add, and it is an assumption.

The letters are `account`'s: D hidden_size, H query heads, K KV heads, d head_dim, P = (H + K) d, E experts, F expert
width, R router width, V vocabulary, L layers; n = b t tokens.
"""

from functools import cache

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..hub.paging import MAPPED
from ..native.matmul import TILE
from ..parallel.layout import ONE_RANK, Layout, rows_of
from ..train.optim import is_matrix
from . import account

OPTIMIZERS = ("adamw", "muon", "muon without momentum")
OVERHEAD = 0.1


def layer_activations(config: ZayaConfig, batch: int, length: int, dtype: str = "float32") -> int:
    """Bytes that a layer keeps for its backward pass, of `batch` sequences of `length` tokens; the released form only.

    Of D: input and result of both norms, the streams before each scaling, what experts take and give: 12 a token. Those
    of the residual stream are float32 in any type.
    """
    D, F, R = config.hidden_size, config.moe_intermediate_size, config.router_hidden_size
    queries, keys, n, size = config.query_size, config.kv_size, batch * length, account.bytes_of(dtype)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    packed, wide = queries + keys, 4 if size < 4 else 0
    numbers = (8 * D + 7 * R + 4 * F                      # norms, router, one expert: gate and up, their product, silu
               + packed * config.cca_time1                # the grouped convolution's columns
               + 3 * queries + 4 * keys                   # around q-k norm, rotation and attention; its result
               + 3 * (heads + kv_heads)                   # norms and their quotients
               + config.num_experts + 1 + 1)              # the router's softmax, the gate
    floats = 4 * D + heads + 3                            # the streams; attention's log-sum; three root mean squares
    columns = batch * (length + config.conv_lag) * packed          # with the past on the left
    taps = packed * config.head_dim * config.cca_time1             # the convolution's weights, put in order
    return n * (numbers * size + floats * 4 + wide * R + 3 * 8) + (columns + taps) * size


def activations(config: ZayaConfig, batch: int, length: int, dtype: str = "float32", recompute: bool = False) -> int:
    """Bytes that a training step keeps between forward and backward: logits' log-softmax and all layers.

    recompute: as `Zaya.recompute`, a layer keeps its input only; while it is run again one layer's own are there
    besides (counted). Raises ValueError for a batch or length below 1, another type, or an ablation.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"batch and length must be at least 1, got {batch} and {length}")
    released = ZayaConfig()
    for name in ("num_convs", "qk_mean", "value_shift", "router", "eda", "residual_scaling", "attention_bias"):
        if getattr(config, name) != getattr(released, name):
            raise ValueError(f"{name} must be {getattr(released, name)!r} here: "
                             "memory is planned for the released form")
    D, R, L = config.hidden_size, config.router_hidden_size, config.num_hidden_layers
    n, size, layer = batch * length, account.bytes_of(dtype), layer_activations(config, batch, length, dtype)
    # embedding before its scale; the last norm's input (a float32 stream) and result, the head's input; log-softmax;
    # tokens
    ends = n * (3 * D * size + 4 * D + 4 + 4 * config.vocab_size + 8) + 4
    # trap: a window is a mask, and attention makes numbers of it, a layer each
    sliding = config.layer_types.count("hybrid_sliding") if length > (config.sliding_window or length) else 0
    mask = length**2 * size
    if recompute:
        return ends + n * (L * 4 * D + (L - 1) * R * size) + layer + mask * (sliding > 0)
    angles = len(set(config.layer_types)) * length * config.rotary_dim * size   # cosines and sines of a kind of layer
    unread = n * R * size if size < 4 else 0                       # nobody above reads the last router's state
    return ends + L * layer + sliding * mask + angles - unread


def context_activations(config: ZayaConfig, batch: int, length: int, cp: int, dtype: str = "float32") -> int:
    """Bytes that a layer keeps besides when cp ranks share `length` tokens: everybody's keys and values, and the mask.

    Of the last rank, which sees most. trap: attention turns the mask into numbers, a layer each: for long rows that is
    the most of all. A kernel that knows what "causal, after a past" means needs none; ours is torch's.
    """
    mine = length // cp
    return account.bytes_of(dtype) * (2 * batch * config.kv_size * (length - mine) + mine * length) if cp > 1 else 0


def held_by_a_rank(name: str, p: Tensor, layout: Layout) -> tuple[int, int]:
    """Numbers of parameter `name` that a rank has room for, and how many there are while it is gathered.

    trap: FSDP cuts along axis 0 into equal pieces, padding the last ones, and gathers them with the padding. Two
    experts over sixteen ranks are sixteen pieces of one expert each.
    """
    start, stop = rows_of(name, len(p), layout, 0)   # nobody's piece is longer than the first rank's
    group = layout.ranks // layout.ep if ".experts." in name else layout.ranks
    kept = (stop - start) * (p.numel() // len(p))
    return kept, kept * group


def optimizer_state(config: ZayaConfig, optimizer: str = "adamw", layout: Layout = ONE_RANK) -> int:
    """Bytes of the optimizer's memory on a device, float32: AdamW's two numbers a parameter; Muon's one a matrix entry.

    A counter of 4 bytes a tensor comes on top. trap: Muon is counted for any layout, but `parallel` refuses it on
    several ranks. Raises ValueError for an unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    matrices = {"adamw": 2, "muon": 1, "muon without momentum": 0}[optimizer]
    return sum(4 + 4 * held_by_a_rank(name, p, layout)[0] * (matrices if is_matrix(name, p) else 2)
               for name, p in skeleton(config).named_parameters())


def training_memory(config: ZayaConfig, batch: int, length: int, dtype: str = "bfloat16", optimizer: str = "adamw",
                    recompute: bool = False, layout: Layout = ONE_RANK) -> dict[str, int]:
    """Bytes on one device, by part.

    batch: sequences of `length` tokens per device before cp divides them. Weights and gradients are kept in `dtype`;
    with bfloat16 the optimizer has float32 weights of its own besides (they count as its state), and float32 moments.
    As in `parallel`, experts are cut over the ranks that have the same ones, all else over all ranks. "gathered": whole
    again are, layer by layer, two layers at a time, and what lies outside the layers (embedding, head, norm) all the
    time.
    Raises ValueError when cp does not divide the length, or ep the experts.
    """
    if length % layout.cp:
        raise ValueError(f"cp must divide the length {length}, got {layout.cp}")
    if config.num_experts % layout.ep:
        raise ValueError(f"ep must divide the {config.num_experts} experts, got {layout.ep}")
    size, weights, layers, outside = account.bytes_of(dtype), 0, 0, 0
    for name, p in skeleton(config).named_parameters():
        kept, gathered = held_by_a_rank(name, p, layout)
        weights += kept
        if name.startswith("layers."):
            layers += gathered
        else:
            outside += gathered
    kept_layers = 1 if recompute else config.num_hidden_layers
    at_once = outside + min(2, config.num_hidden_layers) * layers / config.num_hidden_layers
    held = {
        "weights": weights * size, "gradients": weights * size,
        "optimizer": optimizer_state(config, optimizer, layout) + (4 * weights if size < 4 else 0),
        "gathered": round(at_once * size) if layout.ranks > 1 else 0,
        "activations": activations(config, batch, length // layout.cp, dtype, recompute)
        + kept_layers * context_activations(config, batch, length, layout.cp, dtype),
        "logits": batch * length // layout.cp * config.vocab_size * 8,   # themselves and their gradient, float32
    }
    held["overhead"] = round(OVERHEAD * sum(held.values()))
    return held | {"sum": sum(held.values())}


@cache   # at 8B it takes half a second
def skeleton(config: ZayaConfig) -> Zaya:
    """The model without its numbers: names and shapes. Only to be looked at, since all who ask get the same one."""
    with torch.device("meta"):
        return Zaya(config)


def paged_memory(config: ZayaConfig, tokens: int, dtype: str = "float32", int8: bool = False) -> dict[str, int]:
    """Bytes that `PagedZaya` takes for one sequence of `tokens`: its own, and pages of the file that it wants to keep.

    "own": small tensors, the cache (grown by doubling, so up to twice), int8 experts once all have been visited.
    "scratch": what it holds besides while it reads all `tokens` in one go, at most: streams and one expert's work on
    all of them, or what attention keeps of packed queries and keys, as floats; one tile of weights. Pages: one token's
    weights at least, the whole file at most. dtype: of activations and cache; the file's is bfloat16. trap: a process
    holds more: for forty layers, Python's modules and what the allocator keeps of opening's copies are 40 MB.
    """
    small = sum(p.numel() for name, p in skeleton(config).named_parameters() if not name.endswith(MAPPED))
    width, packed = config.hidden_size, config.query_size + config.kv_size
    own = small * account.bytes_of(dtype) + 4 * config.num_hidden_layers * (config.num_experts + 1)
    own += 2 * tokens * account.kv_bytes_per_token(config, dtype) + account.state_bytes_per_sequence(config, dtype)
    rows = config.num_hidden_layers * config.num_experts * (2 * config.moe_intermediate_size + width)
    dense, experts = 2 * account.dense_parameters(config), account.parameters(config)["experts"]
    return {
        "own": own + (experts + 4 * rows if int8 else 0),
        "scratch": 4 * (tokens * max(6 * width + 4 * config.moe_intermediate_size, 3 * width + 7 * packed) + TILE),
        "pages_of_a_token": dense + (0 if int8 else 2 * experts // config.num_experts),
        "pages_at_most": dense + (0 if int8 else 2 * experts),
    }
