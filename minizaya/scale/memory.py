"""What training holds in memory: weights, gradients, the optimizer's state, and what each layer keeps for its backward pass.

    python -m minizaya plan zaya1-8b --device mi300x --dp 64 --ep 8 --batch 8

Every count is of what our code keeps, to the byte: `tests/test_plan.py` counts the tensors that autograd saves and the
optimizer's state. trap: a device holds more than that for a moment (the backward pass's own results, a fragmented allocator,
buffers of collectives); `OVERHEAD` is what we add, and it is an assumption.

The letters are `account`'s: D hidden_size, H query heads, K KV heads, d head_dim, P = (H + K) d, E experts, F expert width,
R router width, V vocabulary, L layers; n = b t tokens.
"""

import torch

from ..arch.model import Zaya
from ..config import ZayaConfig
from ..train.optim import is_matrix
from . import account
from .layout import Layout

OPTIMIZERS = ("adamw", "muon", "muon without momentum")
OVERHEAD = 0.1


def layer_activations(config: ZayaConfig, batch: int, length: int, dtype: str = "float32") -> int:
    """Bytes that one layer keeps for its backward pass, of `batch` sequences of `length` tokens; the released form only.

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

    recompute: as `Zaya.recompute`, a layer keeps its input only; while it is run again one layer's own are there besides
    (counted). Raises ValueError for a batch or length below 1, another type, or an ablation.
    """
    if batch < 1 or length < 1:
        raise ValueError(f"batch and length must be at least 1, got {batch} and {length}")
    released = ZayaConfig()
    for name in ("num_convs", "qk_mean", "value_shift", "router", "eda", "residual_scaling", "attention_bias"):
        if getattr(config, name) != getattr(released, name):
            raise ValueError(f"{name} must be {getattr(released, name)!r} here: memory is planned for the released form")
    n, size, D, R, L = batch * length, account.bytes_of(dtype), config.hidden_size, config.router_hidden_size, config.num_hidden_layers
    # embedding before its scale, the last norm's input (a float32 stream) and result, the head's input; log-softmax; tokens
    ends = n * (3 * D * size + 4 * D + 4 + 4 * config.vocab_size + 8) + 4
    if recompute:
        return ends + n * (L * 4 * D + (L - 1) * R * size) + layer_activations(config, batch, length, dtype)
    angles = length * config.rotary_dim * size                     # cosines and sines, shared by the layers
    unread = n * R * size if size < 4 else 0                       # nobody above reads the last router's state
    return ends + L * layer_activations(config, batch, length, dtype) + angles - unread


def optimizer_state(config: ZayaConfig, optimizer: str = "adamw", itemsize: int = 4) -> int:
    """Bytes of the optimizer's memory: AdamW keeps two numbers a parameter, Muon one a matrix entry (and AdamW the rest).

    itemsize: of the weights the moments belong to. A counter of 4 bytes a tensor comes on top.
    Raises ValueError for an unknown optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    matrices = {"adamw": 2, "muon": 1, "muon without momentum": 0}[optimizer]
    with torch.device("meta"):
        model = Zaya(config)
    return sum(4 + itemsize * p.numel() * (matrices if is_matrix(name, p) else 2) for name, p in model.named_parameters())


def training_memory(config: ZayaConfig, batch: int, length: int, dtype: str = "bfloat16", optimizer: str = "adamw",
                    recompute: bool = False, layout: Layout = Layout()) -> dict[str, int]:
    """Bytes on one device, by part.

    batch: sequences of `length` tokens per device before cp divides them. Weights and gradients are kept in `dtype`; with
    bfloat16 the optimizer has float32 weights of its own besides (they count as its state), and float32 moments. Each
    layer's weights are gathered for its turn: two layers at a time, unsharded over dp ("gathered").
    Raises ValueError when cp does not divide the length, or ep the experts.
    """
    if length % layout.cp:
        raise ValueError(f"cp must divide the length {length}, got {layout.cp}")
    if config.num_experts % layout.ep:
        raise ValueError(f"ep must divide the {config.num_experts} experts, got {layout.ep}")
    parts, size = account.parameters(config), account.bytes_of(dtype)
    total = sum(parts.values())
    dense = total - parts["experts"]

    def share(everything: int) -> int:
        """Of something proportional to the parameters, what one device holds: experts over ep, all over dp."""
        return round(everything * (dense + parts["experts"] / layout.ep) / total / layout.dp)

    state = optimizer_state(config, optimizer) + (4 * total if size < 4 else 0)
    layer = (dense - parts["embedding"] - parts["head"] + parts["experts"] / layout.ep) / config.num_hidden_layers
    held = {
        "weights": share(total * size), "gradients": share(total * size), "optimizer": share(state),
        "gathered": round(2 * layer * size) if layout.dp > 1 else 0,
        "activations": activations(config, batch, length // layout.cp, dtype, recompute),
        "logits": batch * length // layout.cp * config.vocab_size * 8,   # themselves and their gradient, float32
    }
    held["overhead"] = round(OVERHEAD * sum(held.values()))
    return held | {"sum": sum(held.values())}


def paged_memory(config: ZayaConfig, tokens: int, dtype: str = "float32", int8: bool = False) -> dict[str, int]:
    """Bytes that `PagedZaya` takes for one sequence of `tokens`: its own, and pages of the file that it wants to keep.

    Own: small tensors, the cache (grown by doubling, so up to twice), int8 experts once all have been visited. Pages: one
    token's weights at least, the whole file at most.
    """
    from .paging import MAPPED

    with torch.device("meta"):
        model = Zaya(config)
    small = sum(p.numel() for name, p in model.named_parameters() if not name.endswith(MAPPED))
    parts = account.parameters(config)
    own = small * account.bytes_of(dtype) + 4 * config.num_hidden_layers * (config.num_experts + 1)
    own += 2 * tokens * account.kv_bytes_per_token(config, dtype) + account.state_bytes_per_sequence(config, dtype)
    rows = config.num_hidden_layers * config.num_experts * (2 * config.moe_intermediate_size + config.hidden_size)
    dense = 2 * (sum(parts.values()) - parts["experts"] - (0 if config.tie_word_embeddings else parts["embedding"]))
    return {
        "own": own + (parts["experts"] + 4 * rows if int8 else 0),
        "pages_of_a_token": dense + (0 if int8 else 2 * parts["experts"] // config.num_experts),
        "pages_at_most": dense + (0 if int8 else 2 * parts["experts"]),
    }
