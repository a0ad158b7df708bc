"""What a law may judge besides a function on tensors: NumPy, other frameworks, devices, types, layouts, modules.

An adapter takes a function and returns one that a law can call. They can be put around one another:

    mz.laws.check("cca.attention", mz.laws.adapt.layout(my_attention, "bhtd"))
    mz.laws.check("router.biased_choice", mz.laws.adapt.numpy(mz.laws.adapt.arguments(my_route, "scores", "offset")))

Each carries two facts that `judge` reads: `differentiable` (without gradients a law leaves that part out, or refuses
if it is about nothing else) and `computes_in`, the type that the function really computes in, for the tolerance.
"""

import functools
import inspect
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .core import Refused
from .lm import BlackBox

PLAIN = (int, float, bool, str, bytes, type(None), type(Ellipsis))     # what no converter touches


def adapted(fn: Callable, call: Callable, differentiable: bool = True, dtype: torch.dtype | None = None) -> Callable:
    """`call`, with the name, signature and facts of `fn`."""
    try:
        functools.update_wrapper(call, fn, updated=())
    except (AttributeError, TypeError):       # an object without a name
        pass
    call.differentiable = differentiable and getattr(fn, "differentiable", True)
    call.computes_in = dtype or getattr(fn, "computes_in", None)
    return call


def mapped(x: Any, change: Callable) -> Any:
    """`x` with `change` done to everything in its tuples, lists and dicts."""
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(mapped(y, change) for y in x))
    if type(x) in (tuple, list):
        return type(x)(mapped(y, change) for y in x)
    if type(x) is dict:
        return {key: mapped(y, change) for key, y in x.items()}
    return change(x)


# ---- other frameworks ------------------------------------------------------------------------------------------------


def converted(fn: Callable, into: Callable[[Tensor], Any], back: Callable[[Any], Any]) -> Callable:
    """A function of another framework: `into` makes its array of a tensor, `back` a tensor of its array.

    `back` sees everything in the result but tensors, Python's numbers and texts. Gradients end at the border.
    """
    def call(*args, **kwargs):
        args, kwargs = mapped((args, kwargs), lambda x: into(x.detach()) if isinstance(x, Tensor) else x)
        return mapped(fn(*args, **kwargs), lambda x: x if type(x) in PLAIN or isinstance(x, Tensor) else back(x))

    return adapted(fn, call, differentiable=False)


def numpy(fn: Callable) -> Callable:
    """A function on NumPy arrays. NumPy has no bfloat16: such a tensor is handed over in float32."""
    return converted(fn, to_numpy, from_numpy)


def to_numpy(x: Tensor) -> np.ndarray:
    return (x.float() if x.dtype == torch.bfloat16 else x).cpu().numpy()


def from_numpy(x: Any) -> Any:
    """Arrays and single floats become tensors, a single whole number or flag becomes Python's; the rest stays."""
    if isinstance(x, np.ndarray | np.floating):
        return torch.tensor(np.ascontiguousarray(x))
    return x.item() if isinstance(x, np.generic) else x


# ---- other calls -----------------------------------------------------------------------------------------------------


def arguments(fn: Callable, *places: str | int, returns: tuple[int, ...] | None = None) -> Callable:
    """A function whose arguments have other names or another order.

    places: for each argument of the law, in the law's order, its name in `fn`, or its place. returns: for each result
    of the law its place in what `fn` returns. `arguments(route, "scores", "offset", returns=(1, 0))` asks a law's
    fn(probs, bias) as route(scores=probs, offset=bias), and takes its results the other way round.
    """
    positions = [place for place in places if isinstance(place, int)]
    if len(set(places)) < len(places) or sorted(positions) != list(range(len(positions))):
        raise ValueError(f"places must be names, and numbers from 0 on, each once, got {places}")

    def call(*args, **kwargs):
        if len(args) > len(places):
            raise Refused(f"it hands over {len(args)} arguments, the adapter has places for {len(places)}")
        by_place = sorted((place, x) for place, x in zip(places, args) if isinstance(place, int))
        by_name = {place: x for place, x in zip(places, args) if isinstance(place, str)}
        result = fn(*(x for _, x in by_place), **by_name, **kwargs)
        return tuple(result[i] for i in returns) if returns and isinstance(result, (tuple, list)) else result

    adapted(fn, call)
    call.__signature__ = inspect.Signature([inspect.Parameter(f"a{i}", inspect.Parameter.POSITIONAL_ONLY)
                                            for i in range(len(places))])
    return call


def layout(fn: Callable, axes: str, law: str = "bthd") -> Callable:
    """A function that keeps its axes in another order: floating tensors with as many axes are turned, both ways.

    `layout(attention, "bhtd")` is for attention over (batch, head, token, channel), where the laws have "bthd". Masks,
    and tensors with fewer axes, are handed over as they are. Raises ValueError unless both name the same axes.
    """
    if sorted(axes) != sorted(law) or len(set(law)) < len(law):
        raise ValueError(f"axes must be the letters of {law!r} in another order, got {axes!r}")
    there, home = [law.index(a) for a in axes], [axes.index(a) for a in law]

    def turned(order: list[int]) -> Callable:
        def turn(x: Any) -> Any:
            fits = isinstance(x, Tensor) and x.is_floating_point() and x.dim() == len(law)
            return x.permute(order).contiguous() if fits else x
        return turn

    def call(*args, **kwargs):
        args, kwargs = mapped((args, kwargs), turned(there))
        return mapped(fn(*args, **kwargs), turned(home))

    return adapted(fn, call)


# ---- other devices and types -----------------------------------------------------------------------------------------


def moved(fn: Callable, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Callable:
    """A function that runs on another device, or computes in another type; `judge(where=, dtype=)` puts it around.

    All tensors are moved, the floating ones cast; what comes back is widened to the widest type handed over, on the
    CPU. Modules among the arguments are handed over as moved copies. Gradients go through. Raises Refused where a law
    hands over what cannot be moved (a maker of models, a text), or is itself about types.
    """
    def change(x: Any, seen: list) -> Any:
        if isinstance(x, Tensor):
            seen.append(x.dtype)
            if dtype and x.dtype in (torch.float16, torch.bfloat16):
                raise Refused("it is about types itself, so it cannot be judged in another")
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)
        if isinstance(x, nn.Module):
            return moved_module(x, lambda y: change(y, seen))
        if type(x) not in PLAIN:
            raise Refused(f"it hands over a {type(x).__name__}, which has no device and no type")
        return x

    def call(*args, **kwargs):
        seen: list[torch.dtype] = []
        args, kwargs = mapped((args, kwargs), lambda x: change(x, seen))
        floats = [kind for kind in seen if kind.is_floating_point]
        if not seen or dtype and not floats:
            raise Refused(f"it hands over no {'floating ' if dtype else ''}tensors, so there is nothing to move")
        wide = max(floats, key=lambda kind: torch.finfo(kind).bits, default=None) if dtype else None

        def home(x: Any) -> Any:
            return x.to(device="cpu", dtype=wide if x.is_floating_point() else None) if isinstance(x, Tensor) else x

        return mapped(fn(*args, **kwargs), home)

    return adapted(fn, call, dtype=dtype)


def moved_module(module: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose parameters and buffers are `change` of the module's own, so that gradients reach those."""
    twin = copy(module)
    for kind in ("_parameters", "_buffers"):
        twin.__dict__[kind] = {name: value if value is None else change(value)
                               for name, value in getattr(module, kind).items()}
    twin.__dict__["_modules"] = {name: child if child is None else moved_module(child, change)
                                 for name, child in module._modules.items()}
    return twin


# ---- modules ---------------------------------------------------------------------------------------------------------


def module(make: nn.Module | Callable[..., nn.Module], weights: dict[str, int] | None = None,
           inputs: tuple[int, ...] | None = None) -> Callable:
    """A torch.nn.Module where a law wants a function; it runs in evaluation mode.

    make: the module, or a function of the law's arguments that makes one of the right size. weights: parameter name ->
    the place among the law's arguments of the tensor to use for it; gradients reach that tensor, and the module takes
    its type and device. inputs: the places of the arguments that go to forward; all that are no weight, unless given.
    `module(lambda x, weight, eps: RMSNorm(len(weight), eps), {"weight": 1}, inputs=(0,))` suits residual.rms_norm.
    Without weights the module keeps its own: tensors are cast to their type and device, and results come back.
    """
    weights = weights or {}

    def call(*args):
        own = make if isinstance(make, nn.Module) else make(*args)
        own.eval()
        handed = [x for i, x in enumerate(args) if (i not in weights.values() if inputs is None else i in inputs)]
        if not weights:
            some = next(own.parameters(), torch.zeros((), dtype=torch.float64))
            return moved(own, some.device, some.dtype)(*handed)
        if missing := sorted(set(weights) - {name for name, _ in own.named_parameters()}):
            raise Refused(f"weights must name parameters of {type(own).__name__}, got {', '.join(missing)}; it has "
                          f"{', '.join(name for name, _ in own.named_parameters())}")
        own.to(next(args[i] for i in weights.values()))
        return torch.func.functional_call(own, {name: args[i] for name, i in weights.items()}, tuple(handed))

    if not isinstance(make, nn.Module):
        return adapted(make, call)
    some = None if weights else next(make.parameters(), None)
    return adapted(make.forward, call, dtype=None if some is None else some.dtype)


def transformers(model: nn.Module, packed: bool = False, longest: int = 8) -> BlackBox:
    """A causal language model of `transformers`, in evaluation mode, as a black box for `laws.causal_lm`.

    step is its cache, padded its attention_mask, and the routes are what its routers chose (the one tensor of whole
    numbers that a module called ...Router gives). packed: with position_ids that start anew in each document, which is
    how its own collator packs; not all of its models hear that.
    """
    model.eval()
    routers = [m for m in model.modules() if "Router" in type(m).__name__]

    def step(tokens, cache):
        out = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return out.logits, out.past_key_values

    def documents(tokens, doc_ids):
        new = torch.ones_like(doc_ids, dtype=torch.bool)
        new[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
        place = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return model(input_ids=tokens, position_ids=place - (place * new).cummax(1).values, use_cache=False).logits

    def routes(tokens):
        seen: list[Tensor] = []

        def keep(module, args, out):
            seen.extend(x for x in out if isinstance(x, Tensor) and not x.is_floating_point())

        hooks = [router.register_forward_hook(keep) for router in routers]
        try:
            model(input_ids=tokens, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([x.reshape(*tokens.shape, -1) for x in seen], 2)

    def plain(tokens, **more):
        return model(input_ids=tokens, use_cache=False, **more).logits

    return BlackBox(plain, vocab=model.config.vocab_size, step=step, longest=longest,
                    padded=lambda tokens, mask: plain(tokens, attention_mask=mask.long()),
                    packed=documents if packed else None, routes=routes if routers else None,
                    device=next(model.parameters()).device)
