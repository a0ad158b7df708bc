"""How big a model is and what a token costs, by arithmetic alone: no weight is made, so the 8B takes no time.

    python -m minizaya plan zaya1-8b

Every figure equals what the built model has and does (`tests/plan/test_account.py` counts both). The letters of the
formulas: D hidden_size, H query heads, K KV heads, d head_dim, P = (H + K) d packed query and key channels, E experts,
F expert width, R router width, V vocabulary, L layers.

What counts as a FLOP: a multiplication or an addition inside a matrix product, a convolution or attention, so one
multiply-add is two. Norms, softmax, RoPE, activations and residual merges are left out: they cost memory traffic, not
arithmetic, and `torch.utils.flop_counter` leaves them out too.
"""

import textwrap

from ..config import ZayaConfig

BYTES = {"bfloat16": 2, "float32": 4}  # a number, as --dtype names it

# Said under the table, because the papers' totals look like a different model until one knows what they leave out.
PUBLISHED = {
    "zaya1-8b": "The papers print 8.3B (AMD paper) and 8.4B (8B model card) in all, 0.76B active. They leave out the "
                "embedding: so counted, the released weights hold 8.303B, of which a token uses 0.7536B; 0.76 is "
                "that, rounded up. With the embedding it is 8.840B and 1.291B (the tied table is the head, too, and "
                "a token multiplies with all of it). No count of ours gives 8.4B: 8.303B needs 0.1B more, which no "
                "part has. The card's download is 17.7 GB: 2 bytes of each of 8.840B.",
}

# ---- parameters ------------------------------------------------------------------------------------------------------


def one_expert(config: ZayaConfig) -> int:
    """Parameters of one SwiGLU expert: gate and up (2F x D), down (D x F)."""
    return 3 * config.hidden_size * config.moe_intermediate_size


def one_router(config: ZayaConfig) -> int:
    """Parameters of one router, without the EDA vector, which the first layer lacks."""
    size, routes = config.router_hidden_size, config.num_experts + 1  # the experts and the skip route
    if config.router == "linear":
        return config.hidden_size * routes
    down = config.hidden_size * size + size
    mlp = size + 2 * (size * size + size) + size * routes             # norm, two layers with bias, one without
    return down + mlp


def parameters(config: ZayaConfig) -> dict[str, int]:
    """Parameters of the whole model by part; their sum is what `sum(p.numel() for p in model.parameters())` counts.

    The balancing biases are buffers, not parameters: no optimizer sees them.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    packed = config.query_size + config.kv_size
    projections = width * (packed + config.kv_size) + config.query_size * width   # q, k and both halves of v; up
    if config.attention_bias:
        projections += packed + config.kv_size + width
    convolutions = 0
    if config.num_convs >= 1:
        convolutions += packed * config.cca_time0 + packed                        # one filter and one bias a channel
    if config.num_convs >= 2:
        convolutions += packed * config.head_dim * config.cca_time1 + packed      # d x d inside each head, per tap
    eda = config.router_hidden_size * (layers - 1) if config.eda and config.router == "mlp" else 0
    head = 0 if config.tie_word_embeddings else config.vocab_size * width
    return {
        "embedding": config.vocab_size * width,
        "embedding_scale": 2 * width,                                             # (x + bias) * scale
        "attention_projections": layers * projections,
        "attention_convolutions": layers * convolutions,
        "key_temperature": layers * config.num_key_value_heads,
        "router": layers * one_router(config) + eda,
        "experts": layers * config.num_experts * one_expert(config),
        "norms": (2 * layers + 1) * width,                                        # two a layer, one before the head
        "residual_scaling": layers * 8 * width if config.residual_scaling else 0,  # 2 merges, 2 streams, scale and bias
        "head": head + (config.vocab_size if config.lm_head_bias else 0),
    }


def dense_parameters(config: ZayaConfig) -> int:
    """Parameters that every token reads: all but experts, and an untied embedding, of which it reads a row."""
    parts = parameters(config)
    return sum(parts.values()) - parts["experts"] - (0 if config.tie_word_embeddings else parts["embedding"])


def active_parameters(config: ZayaConfig) -> int:
    """Parameters that one token uses: everything, but of the E experts of each layer only the one it visits."""
    idle = config.num_hidden_layers * (config.num_experts - 1) * one_expert(config)
    return sum(parameters(config).values()) - idle


# ---- memory of a sequence --------------------------------------------------------------------------------------------


def kv_bytes_per_token(config: ZayaConfig, dtype: str = "bfloat16") -> int:
    """Bytes of keys and values that one more token adds: 2 * K * d * L * bytes of a number.

    Sliding layers count in full: our cache keeps their old keys and masks them. It also grows by doubling, so up to
    twice this is allocated.
    """
    return 2 * config.kv_size * config.num_hidden_layers * bytes_of(dtype)


def state_bytes_per_sequence(config: ZayaConfig, dtype: str = "bfloat16") -> int:
    """Bytes a sequence needs besides K and V, whatever its length: convolution columns and the delayed half value.

    Per layer, conv_lag * P + K d / 2 numbers. The cache keeps the delayed half even when `value_shift` is off.
    """
    columns = config.conv_lag * (config.query_size + config.kv_size)
    return config.num_hidden_layers * (columns + config.kv_size // 2) * bytes_of(dtype)


def bytes_of(dtype: str) -> int:
    if dtype not in BYTES:
        raise ValueError(f"dtype must be one of {', '.join(BYTES)}, got {dtype!r}")
    return BYTES[dtype]


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def flops(config: ZayaConfig, tokens: int, past: int = 0, causal: bool = False) -> dict[str, int]:
    """FLOPs, by part, of one forward call on one sequence: `tokens` new ones after `past` cached ones.

    Args:
        causal: False counts every query against every key, as the CCA paper's Table II and the reference path do.
            True counts only the keys a query may see, which is what a kernel that skips masked blocks comes close to.
    Raises:
        ValueError: tokens < 1 or past < 0.

    Every token visits one expert here; a skipped one would save that layer's share.
    """
    if tokens < 1 or past < 0:
        raise ValueError(f"tokens must be at least 1 and past at least 0, got {tokens} and {past}")
    width, layers = config.hidden_size, config.num_hidden_layers
    packed, route = config.query_size + config.kv_size, config.router_hidden_size
    routes = config.num_experts + 1
    projections = width * (packed + config.kv_size) + config.query_size * width
    depthwise = grouped = 0
    if config.num_convs >= 1:
        # the grouped convolution reaches back, so the first one also fills the columns just before this call
        extra = config.cca_time1 - 1 if config.num_convs == 2 else 0
        depthwise = packed * config.cca_time0 * (tokens + extra)
    if config.num_convs >= 2:
        grouped = packed * config.head_dim * config.cca_time1 * tokens
    router = width * routes if config.router == "linear" else width * route + 2 * route * route + route * routes
    scores = sum(seen_keys(config, kind, tokens, past) if causal else tokens * (past + tokens)
                 for kind in config.layer_types)

    multiply_adds = {
        "attention_projections": layers * tokens * projections,
        "attention_convolutions": layers * (depthwise + grouped),
        "attention_scores": 2 * config.query_size * scores,   # q k once, weights v once
        "router": layers * tokens * router,
        "experts": layers * tokens * one_expert(config),
        "head": tokens * width * config.vocab_size,
    }
    return {part: 2 * count for part, count in multiply_adds.items()}


def seen_keys(config: ZayaConfig, kind: str, tokens: int, past: int) -> int:
    """Pairs of a query and a key it may see, in a layer of this kind: query number i sees min(i, window) keys."""
    window = config.sliding_window if kind == "hybrid_sliding" else past + tokens

    def pairs(n: int) -> int:  # of the first n queries: a triangle, then a band
        inside = min(n, window)
        return inside * (inside + 1) // 2 + (n - inside) * window

    return pairs(past + tokens) - pairs(past)


# ---- all of it -------------------------------------------------------------------------------------------------------


def plan(preset: str, context: int = 4096, dtype: str = "bfloat16") -> dict:
    """All of the above for a preset, as plain JSON values. Raises ValueError for an unknown preset, type or context.

    FLOPs per token: "forward" is one sequence of `context` tokens divided by its length; "backward" is twice that (a
    gradient for the inputs, one for the weights); "decode" is one token with the cache, seeing `context` keys, its own
    included.
    """
    config = ZayaConfig.preset(preset)
    if context < 1:
        raise ValueError(f"context must be at least 1 token, got {context}")
    parts, active = parameters(config), active_parameters(config)
    vocabulary = parts["embedding"] + parts["head"]
    forward, decode = flops(config, context), flops(config, 1, context - 1)
    whole, total, kv = sum(forward.values()), sum(parts.values()), kv_bytes_per_token(config, dtype)
    return {
        "preset": preset, "context": context, "dtype": dtype,
        "parameters": {"total": total, "without_embeddings": total - vocabulary, "active": active,
                       "active_without_embeddings": active - vocabulary, "by_part": parts},
        "weight_bytes": total * bytes_of(dtype),
        "kv_bytes_per_token": kv,
        "kv_bytes_at_context": kv * context,
        "state_bytes_per_sequence": state_bytes_per_sequence(config, dtype),
        "flops_per_token": {
            "forward": whole / context,
            "forward_causal": sum(flops(config, context, causal=True).values()) / context,
            "backward": 2 * whole / context,
            "decode": sum(decode.values()),
            "forward_by_part": {part: count / context for part, count in forward.items()},
            "decode_by_part": decode,
        },
        "note": PUBLISHED.get(preset, ""),
    }


def table(figures: dict) -> str:
    """The same for people. figures: from `plan`."""
    counts, costs = figures["parameters"], figures["flops_per_token"]
    context, dtype = figures["context"], figures["dtype"]
    lines = [f"{figures['preset']}, {dtype}, context {context:,} tokens", "", "parameters"]
    for part, count in counts["by_part"].items():
        lines.append(f"  {part.replace('_', ' '):28}{count:>20,}{count / counts['total']:>9.2%}")
    for name in ("total", "without_embeddings", "active", "active_without_embeddings"):
        lines.append(f"  {name.replace('_', ' '):28}{counts[name]:>20,}{counts[name] / 1e9:>8.4f}B")
    lines += ["", "bytes"]
    for name in ("weight_bytes", "kv_bytes_per_token", "kv_bytes_at_context", "state_bytes_per_sequence"):
        label = name.replace("_bytes", "").replace("_", " ")
        lines.append(f"  {label:28}{figures[name]:>20,}{readable(figures[name])}")
    lines += ["", f"{'FLOPs per token':30}{'forward':>20}{'decode':>20}"]
    for part, decode in costs["decode_by_part"].items():
        lines.append(f"  {part.replace('_', ' '):28}{costs['forward_by_part'][part]:>20,.0f}{decode:>20,}")
    lines.append(f"  {'sum':28}{costs['forward']:>20,.0f}{costs['decode']:>20,}")
    lines.append(f"  {'sum, visible keys only':28}{costs['forward_causal']:>20,.0f}")
    lines.append(f"  {'backward':28}{costs['backward']:>20,.0f}")
    return "\n".join(lines + [""] * bool(figures["note"]) + textwrap.wrap(figures["note"], 100))


def readable(count: int) -> str:
    """Bytes in the largest unit that leaves a number of at least one."""
    unit = min((max(count, 1).bit_length() - 1) // 10, 3)
    return f"{count / 1024 ** unit:>9.2f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"
