"""A model larger than memory, run from its checkpoint folder: `PagedZaya(folder)` answers like `shards.load(folder)`.

Of each layer's sixteen experts a token visits one, so fifteen sixteenths of the weights need not be in memory for it.
Here no large matrix is loaded at all: each stays in its file, mapped, and is read when it is multiplied with. The
system keeps what it can in memory. Small tensors are loaded and converted.

    kept in memory    norms, convolutions, scales, biases; the KV cache; with int8=True the experts visited so far
    mapped            embedding and head, projections, routers, experts: as on disk, dropped when memory is short

A prefill is grouped by expert, layer by layer: each expert that any of the tokens visits is read once for all of them.
(`accelerate` offloads to disk by module: it would read all sixteen experts of a layer for every token.)

Equal to `Zaya` within rounding, whatever the layout on disk (`test_paged_equals_loaded`): weights are converted, not
rounded, and sums are made in float32 at least. It answers; it does not train.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arch.cache import Cache
from ..arch.model import Zaya, ZayaOutput, check_inputs
from ..arch.residual import ResidualScaling
from ..native.matmul import matmul, quantise
from .mapped import Mapped
from .paged_step import PagedStep
from .shards import bias_type

LINEAR = ("attention.down_proj", "attention.up_proj", "router.down_proj", "router.mlp.fc1", "router.mlp.fc2",
          "router.mlp.out_proj", "router.out_proj")  # in a layer; the last one is that of the ablation router="linear"
MAPPED = ("embed.weight", "head.weight", "experts.gate_up_proj", "experts.down_proj",
          *(f"{name}.weight" for name in LINEAR))
ACTIVATIONS = (torch.float32, torch.bfloat16, torch.float64)


class PagedLinear(nn.Module):
    """x W^T + b with W in a file, in one piece or several, one below the other.

    rows: (first row, end, view) of each piece. bias: (m,) or None.
    """

    def __init__(self, rows: list[tuple[int, int, Tensor]], bias: Tensor | None = None):
        super().__init__()
        self.rows, self.bias = rows, bias

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., k). Returns (..., m)."""
        flat = x.reshape(-1, x.shape[-1])
        out = flat.new_empty(len(flat), self.rows[-1][1])
        for start, stop, weight in self.rows:
            matmul(flat, weight, out=out[:, start:stop])
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)


class PagedEmbedding(nn.Module):
    """Rows of the table, read where a token asks for them. `weight` is empty: it says the model's type and place."""

    def __init__(self, table: Tensor, dtype: torch.dtype):
        super().__init__()
        self.table, self.weight = table, torch.empty(0, dtype=dtype, device="cpu")

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: int64 (b, t). Returns (b, t, E)."""
        return self.table[tokens].to(self.weight.dtype)


class PagedExperts(nn.Module):
    """The experts of one layer. `visited` counts, expert by expert, the calls that read it.

    int8: keep each expert in memory as int8, made at its first visit; from then on its pages are not touched again.
    """

    def __init__(self, mapped: Mapped, layer: int, int8: bool):
        super().__init__()
        count = mapped.config.num_experts
        names = [f"layers.{layer}.experts.{part}" for part in ("gate_up_proj", "down_proj")]
        self.pages = [[mapped.expert(name, expert) for name in names] for expert in range(count)]
        self.int8, self.kept, self.visited = int8, {}, [0] * count

    def announce(self, expert: int) -> None:
        """An expert that nobody has visited will be needed: the disk may begin."""
        if not self.visited[expert]:
            for page in self.pages[expert]:
                page.soon()

    def open(self, expert: int) -> list[tuple[Tensor, Tensor | None]]:
        """(matrix, scale or None) of gate and up, and of down. A visit."""
        self.announce(expert)
        self.visited[expert] += 1
        if not self.int8:
            return [(page.view, None) for page in self.pages[expert]]
        if expert not in self.kept:
            self.kept[expert] = [quantise(page.view) for page in self.pages[expert]]
            for page in self.pages[expert]:
                page.leave()
        return self.kept[expert]

    def forward(self, x: Tensor, routes: Tensor, gates: Tensor) -> Tensor:
        """x: (b, t, D); routes: int64 (b, t); gates: (b, t). Returns (b, t, D); skipped tokens get zeros."""
        flat, chosen = x.flatten(0, 1), routes.flatten()
        out = torch.zeros_like(flat)
        visited = [int(chosen)] if len(chosen) == 1 else chosen.unique().tolist()
        here = [expert for expert in visited if expert < len(self.pages)]
        for expert in here:
            self.announce(expert)
        for expert in here:
            mine = slice(None) if len(visited) == 1 else torch.where(chosen == expert)[0]
            (gate_up, first), (down, second) = self.open(expert)
            gate, up = matmul(flat[mine], gate_up, first).chunk(2, dim=-1)
            out[mine] = matmul(F.silu(gate) * up, down, second)
        return (out * gates.flatten()[:, None]).view_as(x)


class PagedMerge(ResidualScaling):
    """The same sum, bit for bit, in the memory of the layer's output: fresh pages cost more than the addition."""

    def forward(self, output: Tensor, residual: Tensor) -> Tensor:
        output.add_(self.output_bias).mul_(self.output_scale)
        return (residual + self.residual_bias).mul_(self.residual_scale).add_(output)


class PagedZaya(Zaya):
    """The model of a checkpoint folder, its large matrices left in the files.

    Args:
        folder: any of the three layouts of `shards`. dtype: of activations, small tensors and cache: float32, bfloat16,
            or float64 (to compare). int8: experts in int8, see `matmul.quantise` for the error.
    Raises:
        FileNotFoundError, or ValueError, as `Mapped`; ValueError for another dtype.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype = torch.float32, int8: bool = False):
        if dtype not in ACTIVATIONS:
            raise ValueError(f"dtype must be one of {[str(d) for d in ACTIVATIONS]}, got {dtype!r}")
        mapped = Mapped(folder)
        with torch.device("meta"):
            super().__init__(mapped.config)
        config, self.mapped = mapped.config, mapped
        small = {name: mapped.tensor(name, bias_type(dtype) if name.endswith("balancing_bias") else dtype)
                 for name in mapped.shapes if not name.endswith(MAPPED)}

        def linear(name: str) -> PagedLinear:
            return PagedLinear(mapped.rows(f"{name}.weight"), small.pop(f"{name}.bias", None))

        (_, _, table), = mapped.rows("embed.weight")
        self.embed = PagedEmbedding(table, dtype)
        self.head = PagedLinear(mapped.rows("embed.weight" if config.tie_word_embeddings else "head.weight"),
                                small.pop("head.bias", None))
        for layer, block in enumerate(self.layers):
            for name in LINEAR:
                if f"layers.{layer}.{name}.weight" in mapped.shapes:
                    block.set_submodule(name, linear(f"layers.{layer}.{name}"))
            block.experts = PagedExperts(mapped, layer, int8)
            if config.residual_scaling:
                with torch.device("meta"):
                    block.attention_merge = PagedMerge(config.hidden_size)
                    block.moe_merge = PagedMerge(config.hidden_size)
        self.load_state_dict(small, assign=True)
        self.requires_grad_(False)
        self.eval()
        self.step = PagedStep(self) if PagedStep.fits(self) else None

    def forward(self, tokens: Tensor, cache: Cache | None = None, routes: Tensor | None = None,
                doc_ids: Tensor | None = None, mask: Tensor | None = None, last_only: bool = False) -> ZayaOutput:
        """As `Zaya.forward`. One more token of each sequence, and a short prompt, go through `step.cpp`, where that can
        be."""
        if self.step is not None and self.step.takes(tokens, cache, routes, mask, last_only):
            check_inputs(self.config, tokens, cache, routes, doc_ids, mask)
            return self.step(tokens, cache, mask)
        return super().forward(tokens, cache, routes, doc_ids, mask, last_only)

    def resident_bytes(self) -> int:
        """Bytes of weights held in memory of its own, int8 experts included; what is mapped is not counted."""
        kept = [tensor for block in self.layers for pair in block.experts.kept.values()
                for part in pair for tensor in part]
        linear = [module for module in self.modules() if isinstance(module, PagedLinear)]
        biases = [module.bias for module in linear if module.bias is not None]
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers(), *kept, *biases))

    def touched_bytes(self) -> int:
        """Bytes of the file's experts that some token has visited."""
        experts = [block.experts for block in self.layers]
        return sum(page.view.nbytes for own in experts for pages, visits in zip(own.pages, own.visited) if visits
                   for page in pages)
