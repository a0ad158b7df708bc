"""The kernels as operators of torch: `torch.ops.minizaya.*`, with shapes for torch.compile and gradients for training.

Each operator runs the kernel on the device of its inputs: on the CPU by fibers, on an MI300X or an H100 by its machine
code. `residual_norm` and `cca_mix` have backward kernels; the others run their reference once more, with gradients, and
go back through that.

`usable(name, ...)` says whether a kernel can take given inputs here. If not, the caller uses PyTorch, and one warning a
kernel and reason says so.
"""

import functools
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import CustomOpDef

from ..arch.experts import experts_grouped
from . import kernel, launcher, names
from .build import AWAY, KernelError, NoCompiler, build, compiler
from .launch import Launcher, this_target


class Fallback(UserWarning):
    """A kernel was asked for, and PyTorch does its work instead."""


def usable(name: str, *args: object) -> bool:
    """True if kernel `name` can run on these inputs on this machine. If not, warns once, with the reason."""
    reason = unusable(name, target_of(args)) or kernel(name).supports(*args)
    if reason:
        warn(name, reason)
    return not reason


def target_of(args: tuple) -> str:
    on_gpu = any(isinstance(arg, Tensor) and arg.is_cuda for arg in args)
    return this_target() if on_gpu else "cpu"


@torch.compiler.assume_constant_result
@functools.cache
def unusable(name: str, target: str) -> str | None:
    """None, or why the kernel cannot be built for the target here."""
    if name not in names():
        return AWAY
    try:
        compiler(target)
        build(name, target)
    except NoCompiler as error:
        return str(error)
    except KernelError as error:
        return str(error).splitlines()[0]
    return None


@torch.compiler.assume_constant_result
@functools.cache
def warn(name: str, reason: str) -> None:
    warnings.warn(f"kernel {name} is not used, PyTorch does its work: {reason}", Fallback, stacklevel=4)


def run_for(x: Tensor) -> Launcher:
    return launcher(this_target() if x.is_cuda else "cpu")


def dense(*args: Tensor | None) -> list[Tensor | None]:
    """Every tensor contiguous: what kernels want."""
    return [arg if arg is None else arg.contiguous() for arg in args]


def like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def go_back_through(reference: Callable, operator: CustomOpDef, wanted: Iterable[int], pin: bool = False) -> None:
    """Gradients of an operator with respect to its arguments `wanted`: those of `reference`, run once more.

    pin: the last argument is the routes to take; the reference takes those that the kernel took, also at a near tie.
    """

    def setup(ctx: FunctionCtx, inputs: tuple, output: Tensor | tuple) -> None:
        inputs = (*inputs[:-1], output[0]) if pin else inputs
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        ctx.others = [... if isinstance(x, Tensor) else x for x in inputs]     # ...: a tensor stands here

    def backward(ctx: FunctionCtx, *gradients: Tensor | None) -> tuple:
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if other is ... else other for other in ctx.others]
        asked = [i for i in wanted if ctx.needs_input_grad[i]]
        with torch.enable_grad():
            for i in asked:
                inputs[i] = inputs[i].detach().requires_grad_()
            outputs = reference(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(x, g.to(x.dtype)) for x, g in zip(outputs, gradients) if x.requires_grad and g is not None]
            found = torch.autograd.grad([x for x, _ in pairs], [inputs[i] for i in asked], [g for _, g in pairs],
                                        allow_unused=True) if pairs else [None] * len(asked)
        by_place = dict(zip(asked, found))
        return tuple(by_place.get(i) for i in range(len(inputs)))

    operator.register_autograd(backward, setup_context=setup)


# ---- residual_norm ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::residual_norm", mutates_args=())
def residual_norm(output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor, s2: Tensor, b2: Tensor, weight: Tensor,
                  eps: float) -> tuple[Tensor, Tensor]:
    """output (rows, n) of T, residual (rows, n) float32, five vectors (n,) of T -> stream float32, normed T."""
    return kernel("residual_norm").launch(run_for(output), *dense(output, residual, s1, b1, s2, b2, weight), eps)


@residual_norm.register_fake
def _(output: Tensor, residual: Tensor, *rest) -> tuple[Tensor, ...]:
    return like(residual), like(output)


@torch.library.custom_op("minizaya::residual_norm_backward", mutates_args=())
def residual_norm_backward(d_stream: Tensor, d_normed: Tensor, output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor,
                           s2: Tensor, b2: Tensor, weight: Tensor, eps: float
                           ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of output, residual and the five vectors."""
    inputs = dense(d_stream, d_normed, output, residual, s1, b1, s2, b2, weight)
    return kernel("residual_norm").launch_backward(run_for(output), *inputs, eps)


@residual_norm_backward.register_fake
def _(d_stream: Tensor, d_normed: Tensor, *inputs) -> tuple[Tensor, ...]:
    return tuple(map(like, inputs[:7]))


def save_norm(ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.eps = inputs[7]


def norm_gradients(ctx: FunctionCtx, d_stream: Tensor, d_normed: Tensor) -> tuple:
    return *residual_norm_backward(d_stream, d_normed, *ctx.saved_tensors, ctx.eps), None


residual_norm.register_autograd(norm_gradients, setup_context=save_norm)


# ---- cca_mix ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::cca_mix", mutates_args=())
def cca_mix(packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor, grouped: Tensor, grouped_bias: Tensor,
            temperature: Tensor, cosine: Tensor, sine: Tensor, position: Tensor | None = None,
            past: Tensor | None = None, before: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """packed (b, t, c + kv) -> q (b, t, h, d), k and v (b, t, j, d); the arguments are those of `kernels/cca_mix`."""
    return kernel("cca_mix").launch(run_for(packed), *dense(packed, depthwise, depthwise_bias, grouped, grouped_bias,
                                                            temperature, cosine, sine, position, past, before))


@cca_mix.register_fake
def _(packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor, grouped: Tensor, grouped_bias: Tensor,
      temperature: Tensor, *rest) -> tuple[Tensor, ...]:
    (batch, steps, _), (channels, dim, _), kv_heads = packed.shape, grouped.shape, temperature.shape[0]
    return tuple(packed.new_empty(batch, steps, n, dim) for n in (channels // dim - kv_heads, kv_heads, kv_heads))


@torch.library.custom_op("minizaya::cca_mix_backward", mutates_args=())
def cca_mix_backward(d_q: Tensor, d_k: Tensor, d_v: Tensor, packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor,
                     grouped: Tensor, grouped_bias: Tensor, temperature: Tensor, cosine: Tensor, sine: Tensor,
                     position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of packed and of the five weights."""
    return kernel("cca_mix").launch_backward(
        run_for(packed), *dense(d_q, d_k, d_v, packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature,
                                cosine, sine, position))


@cca_mix_backward.register_fake
def _(d_q: Tensor, d_k: Tensor, d_v: Tensor, *inputs) -> tuple[Tensor, ...]:
    return tuple(map(like, inputs[:6]))


def save_mix(ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    carried = inputs[9] is not None or inputs[10] is not None      # decoding, no gradients
    ctx.save_for_backward(*(() if carried else inputs[:9]))


def mix_gradients(ctx: FunctionCtx, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> tuple:
    if not ctx.saved_tensors:
        raise RuntimeError("cca_mix has no gradient through a cache; train without one")
    return *cca_mix_backward(d_q, d_k, d_v, *ctx.saved_tensors), None, None, None, None, None


cca_mix.register_autograd(mix_gradients, setup_context=save_mix)


# ---- attention, router, experts --------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::cca_attention", mutates_args=())
def cca_attention(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, window: int = 0) -> Tensor:
    """q (b, t, h, d), k and v (b, s, j, d), the queries being the last t keys -> (b, t, h, d). documents: int32 (b, s),
    the document of each token, or None; window: a query sees this many keys, its own included, or 0 for all."""
    return kernel("cca_attention").launch(run_for(q), *dense(q, k, v, documents), window)


@torch.library.custom_op("minizaya::router", mutates_args=())
def router(x: Tensor, below: Tensor | None, scale: Tensor | None, down: Tensor, down_bias: Tensor, gain: Tensor,
           fc1: Tensor, bias1: Tensor, fc2: Tensor, bias2: Tensor, out: Tensor, bias: Tensor, eps: float,
           pinned: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (n, D) -> routes int64 (n,), gates (n,), probs (n, E + 1), state (n, R); arguments as in `kernels/router`."""
    inputs = dense(x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias)
    return kernel("router").launch(run_for(x), *inputs, eps, *dense(pinned))[:4]


@torch.library.custom_op("minizaya::moe", mutates_args=())
def moe(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """x (n, D), routes int64 (n,), gates (n,), gate_up (E, 2F, D), down (E, D, F) -> (n, D), zeros for the route E."""
    return kernel("moe").launch(run_for(x), *dense(x, routes, gates, gate_up, down))


@cca_attention.register_fake
@moe.register_fake
def _(x: Tensor, *rest) -> Tensor:
    return like(x)


@router.register_fake
def _(x: Tensor, below: Tensor | None, scale: Tensor | None, down: Tensor, down_bias: Tensor, gain: Tensor, fc1: Tensor,
      bias1: Tensor, fc2: Tensor, bias2: Tensor, out: Tensor, *rest) -> tuple[Tensor, ...]:
    n, choices, size = x.shape[0], out.shape[0], down.shape[0]
    return x.new_empty(n, dtype=torch.int64), x.new_empty(n), x.new_empty(n, choices), x.new_empty(n, size)


def reference(name: str) -> Callable:
    return lambda *args: kernel(name).reference(*args)     # late: `kernels/` may not be there


go_back_through(reference("cca_attention"), cca_attention, range(3))
go_back_through(reference("router"), router, range(11), pin=True)
go_back_through(experts_grouped, moe, (0, 2, 3, 4))       # not the kernel's reference, which is a loop: slow
