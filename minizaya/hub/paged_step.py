"""`native.step` for a model whose experts lie on disk (`paging`): two calls a layer.

Between them it is known which experts are visited, and each is opened where it lies.
"""

from ctypes import byref

import torch
from torch import Tensor

from ..arch.cache import Cache
from ..arch.model import Zaya, ZayaOutput
from ..native.layout import Layout, Matrix, Twin
from ..native.matmul import library
from ..native.step import Angles, is_prompt, pasts, taken_in, takes


class PagedStep:
    """A paged model's way of taking in one token a sequence, or short prompts. `PagedStep.fits(model)` says whether
    there is one.

    With activations in bfloat16 they are rounded before each product, and float32 between; the small weights become
    floats here, once: they are not expected to change.
    """

    def __init__(self, model: Zaya):
        config, narrow = model.config, model.embed.weight.dtype == torch.bfloat16
        self.model, self.layout, self.angles = model, Layout(config, narrow), Angles(config)
        self.layers = [self.layout.layer(block) for block in model.layers]
        # gate and up, and down, of the experts opened so far: [layer][expert]
        self.experts = [tuple((Matrix * config.num_experts)() for _ in range(2)) for _ in self.layers]
        self.opened: set[tuple[int, int]] = set()
        for layer, (gate_up, down) in zip(self.layers, self.experts):
            layer.gate_up, layer.expert_down = gate_up, down
        twins = self.layout.twins
        library().widen((Twin * len(twins))(*twins), len(twins))

    @staticmethod
    def fits(model: Zaya) -> bool:
        """Activations in float32 or bfloat16, and a compiler."""
        return model.embed.weight.dtype in (torch.float32, torch.bfloat16) and library() is not None

    def takes(self, tokens: Tensor, cache: Cache | None, routes: Tensor | None, mask: Tensor | None,
              last_only: bool) -> bool:
        return takes(tokens, cache, routes, mask) or is_prompt(self.model.config, tokens, cache, routes, last_only)

    def __call__(self, tokens: Tensor, cache: Cache, mask: Tensor | None = None) -> ZayaOutput:
        """tokens: int64 (b, t), already checked. Returns what `Zaya.forward` does with `last_only`; the cache has
        taken them in."""
        model, config, (batch, steps) = self.model, self.model.config, tokens.shape
        native, threads, skip = library(), torch.get_num_threads(), config.skip_route
        stream = ((model.embed(tokens) + model.embed_bias) * model.embed_scale).float().contiguous()
        # trap: C++ reads numbers, not tensors. Whatever type or device torch takes by default, these are its own
        plain = dict(dtype=torch.float32, device=stream.device)
        x, state = torch.empty_like(stream), torch.zeros(batch, steps, config.router_hidden_size, **plain)
        probs = torch.empty(len(self.layers), batch, steps, config.num_experts + 1, **plain)
        routes = torch.empty(len(self.layers), batch, steps, dtype=torch.int64, device=stream.device)
        at, read = stream.data_ptr(), x.data_ptr()
        seen = cache.advance(steps, mask)
        found, kept = pasts(config, cache, self.angles, steps, seen)
        for number, (layer, past) in enumerate(zip(self.layers, found)):
            own, chosen = probs[number].data_ptr(), routes[number].data_ptr()
            native.attend_and_route(byref(layer), byref(past), batch, steps, at, state.data_ptr(), read, own, chosen,
                                    threads)
            self.open(number, sorted(set(routes[number].flatten().tolist()) - {skip}))
            native.visit_and_join(byref(layer), batch * steps, chosen, own, read, at, threads)
        taken_in(cache, steps, seen)
        logits = model.head(model.norm(stream[:, -1:]))
        return ZayaOutput(logits.float(), routes.permute(1, 2, 0), probs.to(model.embed.weight.dtype))

    def open(self, number: int, visited: list[int]) -> None:
        """Experts of a layer that will be read now; asked for from the disk, all of them, at the first visit."""
        experts = self.model.layers[number].experts
        for expert in visited:
            experts.announce(expert)
        for expert in visited:
            weights = experts.open(expert)
            if (number, expert) not in self.opened:
                self.opened.add((number, expert))
                for table, pair in zip(self.experts[number], weights):
                    table[expert] = self.layout.matrix([pair])
