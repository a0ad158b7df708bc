"""The one dial: `ZayaConfig`, from a model that learns on two CPU cores to ZAYA1-8B.

Field names are those of `transformers.ZayaConfig`, so a released `config.json` reads as it stands. The defaults are
ZAYA1-8B. Fields under "ablations" have no counterpart there: the papers switch these parts off one at a time, and so
do the lessons.
"""

import math
from dataclasses import asdict, dataclass

LAYER_TYPES = ("hybrid", "hybrid_sliding")


def check_settings(given: dict[str, object], **allowed: str | int | type) -> None:
    """Raises ValueError for the first of the settings `given` that is not what its name is `allowed` to be.

    "[0, 1)" and the like: a finite number in that interval; 1: an integer of at least 1; int: any integer; bool: True
    or False. NaN, True and "1" are no numbers. trap: the text "false" is true.
    """
    for name, wanted in allowed.items():
        value = given[name]
        if wanted is bool or wanted is int:
            fits, words = type(value) is wanted, "True or False" if wanted is bool else "an integer"
        elif isinstance(wanted, int):
            fits, words = type(value) is int and value >= wanted, f"an integer of at least {wanted}"
        else:
            low, high = (float(end) for end in wanted[1:-1].split(","))
            fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high and (
                abs(value) < math.inf and (value > low or wanted[0] == "[") and (value < high or wanted[-1] == "]"))
            words = f"a finite number in {wanted}"
        if not fits:
            raise ValueError(f"{name} must be {words}, got {value!r}")


@dataclass(frozen=True)
class ZayaConfig:
    """Sizes and switches of one model. Raises ValueError when they do not fit together.

    Source: ZAYA1-8B report, Table I; `transformers.models.zaya` for what the released weights mean.
    """

    # the stream
    vocab_size: int = 262272            # Gemma 3 tokens; a multiple of 64, which MI300's GEMMs like
    hidden_size: int = 2048             # E, width of the residual stream
    num_hidden_layers: int = 40         # one layer = CCA, then MoE (the original checkpoint counts 80 half-layers)
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True    # the head is the embedding, transposed
    lm_head_bias: bool = False
    initializer_range: float = 0.02     # standard deviation of every random matrix

    # CCA: compressed convolutional attention
    num_attention_heads: int = 8        # query heads in the latent; 8 is already the compressed count
    num_key_value_heads: int = 2        # KV heads; each serves num_attention_heads / num_key_value_heads query heads
    head_dim: int = 128
    cca_time0: int = 2                  # taps of the depthwise convolution
    cca_time1: int = 2                  # taps of the grouped (per head) convolution
    attention_bias: bool = False
    partial_rotary_factor: float = 0.5  # RoPE turns this share of each head, the rest carries no position
    rope_theta: float = 5e6             # RoPE base of "hybrid" layers
    layer_types: tuple[str, ...] | None = None  # per layer "hybrid" or "hybrid_sliding"; None: all "hybrid"
    # the next two have no effect where no layer slides
    sliding_window: int | None = None   # a "hybrid_sliding" layer sees this many tokens, itself included
    rope_theta_sliding: float = 1e4     # RoPE base of "hybrid_sliding" layers

    # MoE: router and experts
    num_experts: int = 16               # E real experts; class number E of the router is the skip route
    moe_intermediate_size: int = 2048   # F, width inside one SwiGLU expert
    router_hidden_size: int = 256       # R, width of the router's own state

    # special tokens
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | None = 106

    # ablations (on = the released model). What they leave out leaves its sizes without effect: cca_time0 and cca_time1
    # of no convolution, router_hidden_size and eda of a linear router
    num_convs: int = 2                  # 0: none, 1: depthwise only, 2: depthwise then grouped
    qk_mean: bool = True                # the mean path between queries and keys
    value_shift: bool = True            # half of the value channels come from the previous token
    router: str = "mlp"                 # "mlp": down-projection, norm, three layers; "linear": one matrix
    eda: bool = True                    # exponential depth averaging of router states across layers
    residual_scaling: bool = True       # learned scale and bias on both residual streams

    def __post_init__(self):
        layer_types = self.layer_types or ("hybrid",) * self.num_hidden_layers
        object.__setattr__(self, "layer_types", tuple(layer_types))  # frozen, yet lists (from JSON) are welcome
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                     "head_dim", "cca_time0", "cca_time1", "num_experts", "moe_intermediate_size",
                     "router_hidden_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("rms_norm_eps", "initializer_range", "partial_rotary_factor", "rope_theta", "rope_theta_sliding"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        for name in ("tie_word_embeddings", "lm_head_bias", "attention_bias", "qk_mean", "value_shift", "eda",
                     "residual_scaling"):
            if not isinstance(getattr(self, name), bool):   # trap: the text "false" is true
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if type(getattr(self, name)) not in (int, type(None)):
                raise ValueError(f"{name} must be None or an integer, got {getattr(self, name)!r}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"num_attention_heads must be a multiple of num_key_value_heads, got "
                             f"{self.num_attention_heads} and {self.num_key_value_heads}")
        if self.num_key_value_heads * self.head_dim % 2:
            raise ValueError(f"num_key_value_heads * head_dim must be even (half of the value channels are delayed), "
                             f"got {self.num_key_value_heads} * {self.head_dim}")
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(f"partial_rotary_factor * head_dim must be even and within the head, got "
                             f"{self.partial_rotary_factor} * {self.head_dim}")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"layer_types must name all {self.num_hidden_layers} layers, got {len(self.layer_types)}")
        for kind in self.layer_types:
            if kind not in LAYER_TYPES:
                raise ValueError(f"layer_types may hold {LAYER_TYPES}, got {kind!r}")
        whole = type(self.sliding_window) is int and self.sliding_window > 0
        if "hybrid_sliding" in self.layer_types and not whole:
            raise ValueError(f"sliding_window must be a positive integer when a layer is hybrid_sliding, "
                             f"got {self.sliding_window!r}")
        for name in ("rms_norm_eps", "initializer_range", "rope_theta", "rope_theta_sliding"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must be None or in 0..{self.vocab_size - 1}, got {self.pad_token_id}")
        if type(self.num_convs) is not int or self.num_convs not in (0, 1, 2):
            raise ValueError(f"num_convs must be 0, 1 or 2, got {self.num_convs!r}")
        if self.router not in ("mlp", "linear"):
            raise ValueError(f"router must be 'mlp' or 'linear', got {self.router!r}")

    # ---- derived sizes ------------------------------------------------------------------------------------------

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that RoPE turns."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def query_size(self) -> int:
        """H * d, the latent width of the queries (E / 2 at 8B)."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """K * d, the latent width of keys, and of values (E / 8 at 8B)."""
        return self.num_key_value_heads * self.head_dim

    @property
    def skip_route(self) -> int:
        """The route number that means "no expert": one past the last expert."""
        return self.num_experts

    @property
    def conv_lag(self) -> int:
        """How many earlier tokens the convolutions reach back to (2 in the released model)."""
        taps = (self.cca_time0, self.cca_time1)[: self.num_convs]
        return sum(taps) - len(taps)

    # ---- making and keeping -------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **changes) -> "ZayaConfig":
        """The preset `name` with some fields changed, e.g. `preset("nano", num_convs=0)`.

        Raises ValueError for an unknown preset, TypeError for an unknown field.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
        return cls(**PRESETS[name] | changes)

    def to_dict(self) -> dict:
        """All fields as plain JSON values; `ZayaConfig(**d)` makes the same config again."""
        return asdict(self) | {"layer_types": list(self.layer_types)}


PRESETS: dict[str, dict] = {
    # learns a task on two CPU cores in about two minutes; its vocabulary is `CharTokenizer(text.ALPHABET)`'s
    "nano": dict(vocab_size=113, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                 head_dim=32, num_experts=4, moe_intermediate_size=128, router_hidden_size=32, rope_theta=1e4,
                 pad_token_id=105, bos_token_id=106, eos_token_id=107,
                 # about 1 / sqrt(hidden_size). trap: with 0.02 this narrow router says the same of every token, so a
                 # step of the balancer moves all tokens at once and one expert gets the whole batch
                 initializer_range=0.08),
    # the size that `bench` measures
    "micro": dict(vocab_size=4096, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
                  head_dim=32, num_experts=8, moe_intermediate_size=256, router_hidden_size=64, rope_theta=1e4,
                  pad_token_id=0, bos_token_id=1, eos_token_id=2),
    # one GPU
    "mini": dict(vocab_size=32768, hidden_size=768, num_hidden_layers=12, num_attention_heads=6,
                 num_key_value_heads=2, head_dim=64, num_experts=16, moe_intermediate_size=768,
                 router_hidden_size=128, rope_theta=1e4, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    # the scale of the report's ablations: 1.8B parameters (Fig. 4); its exact widths are not published
    "ablation-1.8b": dict(hidden_size=1024, num_hidden_layers=30, num_attention_heads=8, num_key_value_heads=2,
                          head_dim=64, moe_intermediate_size=1024, rope_theta=1e4),
    # exactly the released configuration
    "zaya1-8b": dict(),
}
