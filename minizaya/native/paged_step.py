"""The same step for a model whose experts lie on disk (`hub.paging`): three calls a layer.

Between the second and the third it is known which experts are visited, and each is opened where it lies.
"""

from ctypes import byref

import torch
from torch import Tensor

from ..arch.cache import Cache
from ..arch.model import Zaya, ZayaOutput
from .layout import Layout, Matrix
from .matmul import library
from .step import Angles, pasts, taken_in, takes


class PagedStep:
    """A paged model's way of taking in one token a sequence. `PagedStep.fits(model)` says whether there is one."""

    def __init__(self, model: Zaya):
        self.model, self.layout, self.angles = model, Layout(model.config), Angles(model.config)
        self.layers = [self.layout.layer(block) for block in model.layers]
        self.experts: dict[tuple[int, int], tuple[Matrix, Matrix]] = {}

    @staticmethod
    def fits(model: Zaya) -> bool:
        """Activations in float32, and a compiler."""
        return model.embed.weight.dtype == torch.float32 and library() is not None

    def takes(self, model: Zaya, tokens: Tensor, cache: Cache | None, routes: Tensor | None,
              mask: Tensor | None) -> bool:
        return takes(tokens, cache, routes, mask) and model.embed.weight.dtype == torch.float32

    def __call__(self, tokens: Tensor, cache: Cache) -> ZayaOutput:
        """tokens: int64 (b, 1), already checked. Returns what `Zaya.forward` does; the cache has taken them in."""
        model, config, batch = self.model, self.model.config, len(tokens)
        native, threads = library(), torch.get_num_threads()
        stream = ((model.embed(tokens) + model.embed_bias) * model.embed_scale).contiguous()
        # trap: C++ reads numbers, not tensors. Whatever type or device torch takes by default, these are its own
        plain = dict(dtype=torch.float32, device=stream.device)
        x, state = torch.empty_like(stream), torch.zeros(batch, config.router_hidden_size, **plain)
        probs = torch.empty(len(self.layers), batch, 1, config.num_experts + 1, **plain)
        routes = torch.empty(len(self.layers), batch, dtype=torch.int64, device=stream.device)
        at, read = stream.data_ptr(), x.data_ptr()
        seen = cache.advance(1, None)
        found, kept = pasts(config, cache, self.angles, 1, seen)
        for number, (layer, past) in enumerate(zip(self.layers, found)):
            y, own, chosen = torch.zeros_like(stream), probs[number].data_ptr(), routes[number].data_ptr()
            native.attend_and_route(byref(layer), byref(past), batch, at, state.data_ptr(), read, own, chosen, threads)
            for expert in sorted(set(routes[number].tolist()) - {config.skip_route}):
                gate_up, down = map(byref, self.expert(number, expert))
                native.visit(byref(layer), gate_up, down, expert, batch, chosen, own, read, y.data_ptr(), threads)
            native.join(byref(layer), batch, y.data_ptr(), at)
        taken_in(cache, 1, seen)
        return ZayaOutput(model.head(model.norm(stream)), routes.T[:, None], probs)

    def expert(self, number: int, expert: int) -> tuple[Matrix, Matrix]:
        """Gate and up, and down, of one expert; asked for from the disk at the first visit."""
        weights = self.model.layers[number].experts.open(expert)
        if (number, expert) not in self.experts:
            self.experts[number, expert] = tuple(self.layout.matrix([pair]) for pair in weights)
        return self.experts[number, expert]
