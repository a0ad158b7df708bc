"""One token of each of some sequences, through `step.cpp`: what decoding does most of the time.

The plain path is `Zaya.forward`, and what decodes (`infer.generate`, `infer.engine`) asks `reader(model)` which of the
two to call. A model is read where it lies: training may change its weights between two steps. `PagedStep`
(`hub/paged_step.py`) does the same for a model whose experts are on disk.
"""

import sys
from collections.abc import Callable, Iterable
from ctypes import CDLL, byref, c_size_t, c_void_p
from functools import cache as once
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..arch.attention import rope_angles, rope_frequencies
from ..arch.cache import Cache
from ..arch.model import Zaya, ZayaOutput, check_inputs
from ..config import ZayaConfig
from . import known
from .compiler import TROUBLE
from .fused import model as fused
from .layout import Layer, Layout, Model, Past, Twin
from .matmul import library

LARGE, COLLAPSE = 2**21, 25   # bytes of a large page; what Linux calls MADV_COLLAPSE
PROMPT = 192   # tokens up to which a prompt goes through `step.cpp`; longer ones have torch's fused attention


def reader(model: nn.Module, compiled: bool | None = None) -> Callable[..., ZayaOutput]:
    """What to call in place of `model` to decode: (tokens, cache=, mask=, last_only=) -> `ZayaOutput`.

    Args:
        compiled: True: one token of each sequence goes through `step.cpp`; False: all go the plain way; None: through
            `step.cpp` where it can be. Short prompts do, too; long ones go by the fused loops of `fused`.
    Raises:
        ValueError: compiled is True, and it cannot be; it says why.

    trap: weights may be changed in place at any time; whoever gives a parameter other memory, or a layer another
    module, must ask for a new reader.
    """
    if compiled not in (None, True, False):
        raise ValueError(f"compiled must be True, False or None (where it can be), got {compiled!r}")
    paged = getattr(model, "step", None) if isinstance(model, Zaya) else None
    if paged is not None:   # its own forward decides
        return partial(Zaya.forward, model) if compiled is False else model
    why = "it was not asked for" if compiled is False else obstacle(model)
    if why is None:
        step = STEPS.get(model)
        if step is None or step.places != places(model):
            step = STEPS[model] = Step(model)
        return partial(step.read, model)
    if compiled:
        raise ValueError(f"compiled: this model cannot be decoded by step.cpp: {why}")
    if why == TROUBLE[-1]:
        tell(why)
    return model


@once
def tell(why: str) -> None:
    """One line, once in the life of a process."""
    print(f"minizaya: {why}, so decoding goes the plain way, several times slower", file=sys.stderr)


def obstacle(model: nn.Module) -> str | None:
    """Why `step.cpp` cannot decode with this model, or None."""
    return known.obstacle(model) or (TROUBLE[-1] if library() is None else None)


def places(model: nn.Module) -> list[int]:
    """The addresses of all weights."""
    return [tensor.data_ptr() for module in model.modules()
            for own in (module._parameters, module._buffers) for tensor in own.values() if tensor is not None]


def in_large_pages(tensors: Iterable[Tensor], limit: int = 2**30) -> None:
    """Asks Linux to move large tensors into pages of 2 MiB: of 4 KiB a step reads more than a processor keeps the
    places of. Addresses stay, and what lies beside a tensor in its first and last page moves along. Where Linux
    refuses, or for more than `limit` bytes together, nothing changes."""
    large = [tensor for tensor in tensors if tensor.nbytes >= LARGE]
    if sys.platform != "linux" or sum(tensor.nbytes for tensor in large) > limit:
        return
    linux = CDLL(None)
    for tensor in large:
        for page in range(tensor.data_ptr() // LARGE * LARGE, tensor.data_ptr() + tensor.nbytes, LARGE):
            linux.madvise(c_void_p(page), c_size_t(LARGE), COLLAPSE)


class Angles:
    """cos and sin of the positions up to the largest asked for, (positions, rotary / 2) each, by kind of layer."""

    def __init__(self, config: ZayaConfig):
        self.config, self.tables = config, {}

    def __call__(self, sliding: bool, end: int) -> tuple[Tensor, Tensor]:
        """Of positions 0 .. end - 1 at least, float32 on the CPU."""
        if sliding not in self.tables or len(self.tables[sliding][0]) < end:
            theta = self.config.rope_theta_sliding if sliding else self.config.rope_theta
            cpu = torch.device("cpu")
            positions = torch.arange(max(2 * end, 64), device=cpu)
            angles = rope_angles(positions, rope_frequencies(self.config.rotary_dim, theta, cpu), torch.float32)
            self.tables[sliding] = tuple(angle[:, 0].contiguous() for angle in angles)
        return self.tables[sliding]


def takes(tokens: Tensor, cache: Cache | None, routes: Tensor | None, mask: Tensor | None) -> bool:
    """One token of each sequence, all of which have a past; nothing to replay, no new padding."""
    return (cache is not None and cache.length > 0 and mask is None and routes is None and tokens.dim() == 2
            and tokens.shape[1] == 1)


def pasts(config: ZayaConfig, cache: Cache, angles: Angles, steps: int = 1,
          seen: Tensor | None = None) -> tuple[list[Past], list[Tensor]]:
    """What each layer remembers, with room for `steps` more tokens, and what must be kept alive while that is read.

    seen: bool (b, tokens so far and new ones), False for padding; or None.
    """
    if cache.length == 0:   # before the first token's values come none
        cache.delayed = [column.new_zeros(len(column), config.kv_size // 2) for column in cache.columns]
    held, turned = cache.held().contiguous(), cache.turned_by().contiguous()
    end = int(turned.max()) + steps
    at, wide = (None, 0) if seen is None else (seen.data_ptr(), seen.stride(0))
    found = []
    for layer, kind in enumerate(config.layer_types):
        (columns, delayed), room = cache.ends(layer), cache.room(layer, steps)
        cos, sin = angles(kind == "hybrid_sliding", end)
        found.append(Past(columns.data_ptr(), delayed.data_ptr(), room[0].data_ptr(), room[1].data_ptr(),
                          room.stride(1), room.dtype == torch.bfloat16, held.data_ptr(), turned.data_ptr(),
                          cos.data_ptr(), sin.data_ptr(), at, wide))
    return found, [held, turned, seen]


def taken_in(cache: Cache, steps: int = 1, seen: Tensor | None = None) -> None:
    """So many tokens a sequence have been taken in."""
    cache.valid = seen
    cache.length += steps


def is_prompt(config: ZayaConfig, tokens: Tensor, cache: Cache | None, routes: Tensor | None, last_only: bool) -> bool:
    """The first tokens of each sequence, not too many, of which only the last one's logits are wanted.

    With `attention_bias` nobody's value is a bias, and not zero.
    """
    return (type(cache) is Cache and cache.length == 0 and routes is None and last_only and tokens.dim() == 2
            and 0 < tokens.shape[1] <= PROMPT and not config.attention_bias)


class Step:
    """One model in memory, as `step.cpp` sees it. `obstacle(model)` is None."""

    def __init__(self, model: Zaya):
        in_large_pages(model.parameters())
        config, layout = model.config, Layout(model.config)
        self.config, self.layout, self.angles, self.places = config, layout, Angles(config), places(model)
        self.layers = (Layer * len(model.layers))(*map(layout.layer, model.layers))
        table = layout.matrix([(model.embed.weight, None)])
        vectors = [layout.address(vector) for vector in (model.embed_scale, model.embed_bias, model.norm.weight)]
        head = layout.linear(model.head)
        self.twins = (Twin * len(layout.twins))(*layout.twins)
        self.model = Model(self.layers, len(self.layers), table, *vectors, head, self.twins, len(self.twins))

    def read(self, model: Zaya, tokens: Tensor, cache: Cache | None = None, routes: Tensor | None = None,
             doc_ids: Tensor | None = None, mask: Tensor | None = None, last_only: bool = False) -> ZayaOutput:
        """As `Zaya.forward`; one more token of each sequence, and a short prompt, go through `step.cpp`."""
        config = self.config
        prompt = is_prompt(config, tokens, cache, routes, last_only)
        if doc_ids is not None or not (prompt or takes(tokens, cache, routes, mask)):
            loops = fused.takes(cache) and not torch.is_grad_enabled() and fused.obstacle(model) is None
            return (partial(fused.forward, model) if loops else model)(tokens, cache, routes, doc_ids, mask, last_only)
        check_inputs(config, tokens, cache, routes, doc_ids, mask)
        layers, tokens, (batch, steps) = config.num_hidden_layers, tokens.contiguous(), tokens.shape
        seen = cache.advance(steps, mask)
        found, kept = pasts(config, cache, self.angles, steps, seen)
        # trap: C++ reads numbers, not tensors. Whatever type or device torch takes by default, these are its own
        plain = dict(dtype=torch.float32, device=tokens.device)
        logits = torch.empty(batch, 1, config.vocab_size, **plain)
        probs = torch.empty(layers, batch, steps, config.num_experts + 1, **plain)
        chosen = torch.empty(layers, batch, steps, dtype=torch.int64, device=tokens.device)
        library().through(byref(self.model), (Past * layers)(*found), batch, steps, tokens.data_ptr(),
                          logits.data_ptr(), probs.data_ptr(), chosen.data_ptr(), torch.get_num_threads())
        taken_in(cache, steps, seen)
        return ZayaOutput(logits, chosen.permute(1, 2, 0), probs.to(model.embed.weight.dtype))


STEPS: WeakKeyDictionary[nn.Module, Step] = WeakKeyDictionary()
