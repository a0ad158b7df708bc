"""One layer: attend, merge, visit an expert, merge."""

from torch import Tensor, nn

from ..config import ZayaConfig
from .attention import Place
from .cache import Cache
from .cca import CCA
from .experts import Experts
from .residual import PlainResidual, ResidualScaling, RMSNorm
from .router import Router


class Block(nn.Module):
    """norm -> CCA -> merge -> norm -> router and experts -> merge. `fast=False` runs every reference path."""

    def __init__(self, config: ZayaConfig, layer: int, fast: bool = True):
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = RMSNorm(size, eps)
        self.attention = CCA(config, layer, fast)
        self.attention_merge = ResidualScaling(size) if config.residual_scaling else PlainResidual()
        self.moe_norm = RMSNorm(size, eps)
        self.router = Router(config, layer)
        self.experts = Experts(config.num_experts, size, config.moe_intermediate_size, fast)
        self.moe_merge = ResidualScaling(size) if config.residual_scaling else PlainResidual()

    def forward(self, stream: Tensor, place: Place, below: Tensor | None, cache: Cache | None = None,
                pinned: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """stream: (b, t, E), at least float32; below: the router state (b, t, R) of the layer below, or None.

        pinned: int (b, t), routes to replay, or None. Returns the new stream, routes (b, t), probs (b, t, E + 1) and
        the router state for the layer above.
        """
        stream = self.attention_merge(self.attention(self.attention_norm(stream), place, cache), stream)
        x = self.moe_norm(stream)
        routes, gates, probs, state = self.router(x, below, pinned)
        stream = self.moe_merge(self.experts(x, routes, gates), stream)
        return stream, routes, probs, state
