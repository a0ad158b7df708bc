"""The kernels as operators of torch: `torch.ops.minizaya.*`, with shapes for torch.compile and gradients for training.

Each operator runs the kernel on the device of its inputs: on the CPU by fibers, on an MI300X or an H100 by its machine code.
`residual_norm` and `cca_mix` have backward kernels; the others run their reference once more, with gradients, and go back
through that.

`usable(name, ...)` says whether a kernel can take given inputs here. If not, the caller uses PyTorch, and one warning a
kernel and reason says so.
"""

import functools
import warnings

import torch
from torch import Tensor

from ..arch.experts import experts_grouped
from . import kernel, launcher, names
from .build import AWAY, KernelError, NoCompiler, build, compiler
from .launch import this_target


class Fallback(UserWarning):
    """A kernel was asked for, and PyTorch does its work instead."""


def usable(name: str, *args) -> bool:
    """True if kernel `name` can run on these inputs on this machine. If not, warns once, with the reason."""
    reason = unusable(name, target_of(args)) or kernel(name).supports(*args)
    if reason:
        warn(name, reason)
    return not reason


def target_of(args) -> str:
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


def run_for(x: Tensor):
    return launcher(this_target() if x.is_cuda else "cpu")


def dense(*args):
    """The arguments with every tensor contiguous: what kernels want."""
    return [arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args]


def by_reference(name: str, differentiable: int):
    """(setup_context, backward) that differentiate the reference of kernel `name` with respect to its first
    `differentiable` arguments."""

    def setup(ctx, inputs, output) -> None:
        ctx.tensors = [isinstance(x, Tensor) for x in inputs]
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]

    def backward(ctx, *gradients):
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if is_tensor else other for is_tensor, other in zip(ctx.tensors, ctx.others)]
        wanted = [i for i in range(differentiable) if ctx.needs_input_grad[i]]
        with torch.enable_grad():
            for i in wanted:
                inputs[i] = inputs[i].detach().requires_grad_()
            outputs = kernel(name).reference(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(x, g.to(x.dtype)) for x, g in zip(outputs, gradients) if x.requires_grad and g is not None]
            found = torch.autograd.grad([x for x, _ in pairs], [inputs[i] for i in wanted], [g for _, g in pairs],
                                        allow_unused=True) if pairs else [None] * len(wanted)
        result = [None] * len(inputs)
        for i, gradient in zip(wanted, found):
            result[i] = gradient
        return tuple(result)

    return setup, backward


# ---- residual_norm ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::residual_norm", mutates_args=())
def residual_norm(output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor, s2: Tensor, b2: Tensor, weight: Tensor,
                  eps: float) -> tuple[Tensor, Tensor]:
    """output (rows, n) of T, residual (rows, n) float32, five vectors (n,) of T -> stream float32, normed T."""
    return kernel("residual_norm").launch(run_for(output), *dense(output, residual, s1, b1, s2, b2, weight), eps)


@residual_norm.register_fake
def _(output, residual, s1, b1, s2, b2, weight, eps):
    return torch.empty_like(residual, memory_format=torch.contiguous_format), torch.empty_like(
        output, memory_format=torch.contiguous_format)


@torch.library.custom_op("minizaya::residual_norm_backward", mutates_args=())
def residual_norm_backward(d_stream: Tensor, d_normed: Tensor, output: Tensor, residual: Tensor, s1: Tensor, b1: Tensor,
                           s2: Tensor, b2: Tensor, weight: Tensor, eps: float
                           ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of output, residual and the five vectors."""
    inputs = dense(d_stream, d_normed, output, residual, s1, b1, s2, b2, weight)
    return kernel("residual_norm").launch_backward(run_for(output), *inputs, eps)


@residual_norm_backward.register_fake
def _(d_stream, d_normed, *inputs):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:7])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.eps = inputs[7]


def _residual_norm_backward(ctx, d_stream, d_normed):
    return *residual_norm_backward(d_stream, d_normed, *ctx.saved_tensors, ctx.eps), None


residual_norm.register_autograd(_residual_norm_backward, setup_context=_save)


# ---- cca_mix ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::cca_mix", mutates_args=())
def cca_mix(packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor, grouped: Tensor, grouped_bias: Tensor,
            temperature: Tensor, cosine: Tensor, sine: Tensor, position: Tensor | None = None, past: Tensor | None = None,
            before: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """packed (b, t, c + kv) -> q (b, t, h, d), k and v (b, t, j, d); the arguments are those of `kernels/cca_mix`."""
    inputs = dense(packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position, past, before)
    return kernel("cca_mix").launch(run_for(packed), *inputs)


@cca_mix.register_fake
def _(packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position=None, past=None, before=None):
    (batch, steps, _), (channels, dim, _), kv_heads = packed.shape, grouped.shape, temperature.shape[0]
    return tuple(packed.new_empty(batch, steps, n, dim) for n in (channels // dim - kv_heads, kv_heads, kv_heads))


@torch.library.custom_op("minizaya::cca_mix_backward", mutates_args=())
def cca_mix_backward(d_q: Tensor, d_k: Tensor, d_v: Tensor, packed: Tensor, depthwise: Tensor, depthwise_bias: Tensor,
                     grouped: Tensor, grouped_bias: Tensor, temperature: Tensor, cosine: Tensor, sine: Tensor,
                     position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of packed and of the five weights."""
    inputs = dense(d_q, d_k, d_v, packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position)
    return kernel("cca_mix").launch_backward(run_for(packed), *inputs)


@cca_mix_backward.register_fake
def _(d_q, d_k, d_v, packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature, cosine, sine, position=None):
    wanted = packed, depthwise, depthwise_bias, grouped, grouped_bias, temperature
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in wanted)


def _save_mix(ctx, inputs, output) -> None:
    if inputs[9] is not None or inputs[10] is not None:
        ctx.save_for_backward()      # with a carried state: decoding, no gradients
        return
    ctx.save_for_backward(*inputs[:9])


def _cca_mix_backward(ctx, d_q, d_k, d_v):
    if not ctx.saved_tensors:
        raise RuntimeError("cca_mix has no gradient through a cache; train without one")
    return *cca_mix_backward(d_q, d_k, d_v, *ctx.saved_tensors), None, None, None, None, None


cca_mix.register_autograd(_cca_mix_backward, setup_context=_save_mix)


# ---- attention -------------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::cca_attention", mutates_args=())
def cca_attention(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, window: int = 0) -> Tensor:
    """q (b, t, h, d), k and v (b, s, j, d), the queries being the last t keys -> (b, t, h, d). documents: int32 (b, s), the
    document of each token, or None; window: a query sees this many keys, its own included, or 0 for all."""
    return kernel("cca_attention").launch(run_for(q), *dense(q, k, v, documents), window)


@cca_attention.register_fake
def _(q, k, v, documents=None, window=0):
    return torch.empty_like(q, memory_format=torch.contiguous_format)


_setup, _backward = by_reference("cca_attention", 3)
cca_attention.register_autograd(_backward, setup_context=_setup)


# ---- router ----------------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::router", mutates_args=())
def router(x: Tensor, below: Tensor | None, scale: Tensor | None, down: Tensor, down_bias: Tensor, gain: Tensor, fc1: Tensor,
           bias1: Tensor, fc2: Tensor, bias2: Tensor, out: Tensor, bias: Tensor, eps: float, pinned: Tensor | None = None
           ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (n, D) -> routes int64 (n,), gates (n,), probs (n, E + 1), state (n, R); arguments as in `kernels/router`."""
    inputs = dense(x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias)
    return kernel("router").launch(run_for(x), *inputs, eps, *dense(pinned))[:4]


@router.register_fake
def _(x, below, scale, down, down_bias, gain, fc1, bias1, fc2, bias2, out, bias, eps, pinned=None):
    n = x.shape[0]
    return (x.new_empty(n, dtype=torch.int64), x.new_empty(n), x.new_empty(n, out.shape[0]), x.new_empty(n, down.shape[0]))


_setup_router, _backward_router = by_reference("router", 11)


def _pin(ctx, inputs, output) -> None:
    """The reference that goes back must take the routes that the kernel took, also at a near tie."""
    _setup_router(ctx, (*inputs[:13], output[0]), output)


def _backward_pinned(ctx, d_routes, d_gates, d_probs, d_state):
    return _backward_router(ctx, None, d_gates, d_probs, d_state, None)


router.register_autograd(_backward_pinned, setup_context=_pin)


# ---- experts ---------------------------------------------------------------------------------------------------------


@torch.library.custom_op("minizaya::moe", mutates_args=())
def moe(x: Tensor, routes: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """x (n, D), routes int64 (n,), gates (n,), gate_up (E, 2F, D), down (E, D, F) -> (n, D), zeros for the route E."""
    return kernel("moe").launch(run_for(x), *dense(x, routes, gates, gate_up, down))


@moe.register_fake
def _(x, routes, gates, gate_up, down):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_moe(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _moe_backward(ctx, gradient):
    x, routes, gates, gate_up, down = ctx.saved_tensors
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in (x, gates, gate_up, down)]
        out = experts_grouped(leaves[0], routes, *leaves[1:])
        d_x, d_gates, d_gate_up, d_down = torch.autograd.grad(out, leaves, gradient)
    return d_x, None, d_gates, d_gate_up, d_down


moe.register_autograd(_moe_backward, setup_context=_save_moe)
