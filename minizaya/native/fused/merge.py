"""The residual merge and the norm that follows it, in one pass over memory; plain: `arch/residual.py`."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from ...arch.residual import ResidualScaling, RMSNorm
from .library import call


class MergeNorm(torch.autograd.Function):
    """(output, stream, the four vectors of the merge as (4, E), norm weight (E,), eps) -> merged stream, its norm.

    output and stream: (..., E). vectors None: a plain sum. output None: nothing is merged, the norm alone.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, output: Tensor | None, stream: Tensor, vectors: Tensor | None, weight: Tensor,
                eps: float) -> tuple[Tensor, Tensor]:
        stream, output = stream.contiguous(), None if output is None else output.contiguous()
        size, count = stream.shape[-1], stream[..., 0].numel()
        merged = stream.new_empty(0) if output is None else torch.empty_like(stream)
        x, inverse = torch.empty_like(stream), stream.new_empty(count)
        call("merge_norm", output, stream, vectors, weight, eps, count, size, merged, x, inverse)
        ctx.save_for_backward(output, stream, vectors, weight, merged, inverse)
        ctx.set_materialize_grads(False)
        return merged, x

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_merged: Tensor | None, d_x: Tensor | None) -> tuple[Tensor | None, ...]:
        output, stream, vectors, weight, merged, inverse = ctx.saved_tensors
        if output is None:
            merged, d_merged = stream, None
        size, count = stream.shape[-1], len(inverse)
        d_x = torch.zeros_like(stream) if d_x is None else d_x.contiguous()
        d_merged = None if d_merged is None else d_merged.contiguous()
        d_stream, d_weight = torch.empty_like(stream), torch.empty_like(weight)
        d_output = None if vectors is None else torch.empty_like(stream)
        d_vectors = None if vectors is None else torch.empty_like(vectors)
        call("merge_norm_back", d_merged, d_x, output, stream, vectors, weight, merged, inverse, count, size, d_output,
             d_stream, d_vectors, d_weight)
        if vectors is None and output is not None:
            d_output = d_stream
        return d_output, d_stream, d_vectors, d_weight, None


def merge_norm(merge: nn.Module, norm: RMSNorm, output: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """`merge(output, stream)` and the norm of it, (b, t, E) float32 each."""
    vectors = None
    if isinstance(merge, ResidualScaling):
        vectors = torch.stack([merge.output_scale, merge.output_bias, merge.residual_scale, merge.residual_bias])
    return MergeNorm.apply(output, stream, vectors, norm.weight, norm.eps)


def rms_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    """`norm(x)`, (..., n) float32."""
    return MergeNorm.apply(None, x, None, norm.weight, norm.eps)[1]


def scaled_norm(scale: Tensor, norm: RMSNorm, output: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """`stream + scale * output`, (..., n) float32, with scale (n,), and the norm of it."""
    one, none = torch.ones_like(scale), torch.zeros_like(scale)
    return MergeNorm.apply(output, stream, torch.stack([scale, none, one, none]), norm.weight, norm.eps)
