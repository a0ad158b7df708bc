"""Several processes, one model: which rank holds what, and why the result is that of one process.

    layout dp2xep2: four ranks. Every rank reads its own rows of the batch; pairs of ranks share the experts.

    dp   data parallel      rows are dealt out; each rank keeps a shard of every weight, gradient and moment (FSDP2)
    ep   expert parallel    rows are dealt out; experts too, and tokens travel to them (`expert_parallel`)
    cp   context parallel   each row is cut in `cp` chunks (`context_parallel`)

All states are sharded in every layout: an expert over the ranks that have the same ones, the rest over all ranks. A
rank gathers a layer's weights when it gets there and lets them go behind it.

Three rules make the layouts equal:
1. the loss is a sum over tokens divided by the *global* number of scored tokens, and gradients are summed. The mean of
   the ranks' means would weigh a token more where its rank has few;
2. the load that the balancer sees is the global batch's (`trainer`);
3. the gradient's norm is that of the whole gradient, for clipping.

trap: FSDP averages gradients over its ranks unless told otherwise. Experts are sharded over fewer ranks than the rest,
so an average would also divide them by another number.

gloo carries the messages on CPUs, NCCL or RCCL on GPUs.
Source: FSDP2 is `torch.distributed.fsdp.fully_shard`; ZeRO-3 (arXiv 1910.02054) is its idea.
"""

import warnings
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ..arch.model import Zaya, ZayaOutput
from ..native.fused import model as fused
from ..train.sources import IGNORE, Batch
from .context_parallel import ContextCache, chunk_lengths
from .expert_parallel import ExpertParallel, slice_of
from .layout import Layout


class Grid:
    """This process's place in a layout, and the groups it talks to, within `launch.join`.

    Attributes: rank, of all; rows, its number among the dp * ep ranks that read different rows (cp neighbours read the
    same); device; ep and cp, process groups; world and replicas, the meshes over which the dense weights and the
    experts are sharded. Neighbours in ep are neighbours in rank, since they talk most: on one node.
    Raises ValueError when the job has another number of ranks than the layout.
    """

    def __init__(self, layout: Layout):
        if dist.get_world_size() != layout.ranks:
            raise ValueError(f"layout {layout} wants {layout.ranks} ranks, the job has {dist.get_world_size()}; "
                             f"start it with --nproc-per-node {layout.ranks}")
        kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
        self.layout, self.rank, self.device = layout, dist.get_rank(), torch.device(kind)
        grid = init_device_mesh(kind, (layout.dp, layout.cp, layout.ep), mesh_dim_names=("dp", "cp", "ep"))
        sheet = init_device_mesh(kind, (layout.dp * layout.cp, layout.ep), mesh_dim_names=("replicas", "ep"))
        self.world: DeviceMesh = init_device_mesh(kind, (layout.ranks,), mesh_dim_names=("world",))
        self.replicas: DeviceMesh = sheet["replicas"]
        self.ep, self.cp = grid.get_group("ep"), grid.get_group("cp")
        dp_rank, self.cp_rank, self.ep_rank = grid.get_coordinate()
        self.rows = dp_rank * layout.ep + self.ep_rank

    def sum(self, x: Tensor) -> Tensor:
        """The sum of `x` over all ranks."""
        x = x.clone().to(self.device)
        dist.all_reduce(x)
        return x


# ---- the model -------------------------------------------------------------------------------------------------------


def parallelize(model: Zaya, grid: Grid, compiled: bool | None = False) -> Zaya:
    """Cuts a whole model, the same on every rank, to this rank's part of it. Returns the model, changed in place.

    Names stay. Each parameter is afterwards a DTensor that holds this rank's rows (axis 0) of what it was; experts
    hold rows of their rank's experts. Make the optimizer afterwards. compiled: layers by fused loops, as in
    `train.loop.Trainer`. Raises ValueError as `ExpertParallel` does, and where compiled is True and cannot be.
    trap: before this call every rank has the whole model in its memory.
    """
    # the model adds to no output of a layer in place, which is what this warning is about
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    model.to(grid.device)
    if compiled and grid.layout.cp > 1:
        raise ValueError("compiled: the fused loops start at a text's first token, and with cp a rank does not")
    loops = grid.layout.cp == 1 and fused.by_loops(model, compiled)
    for block in model.layers:
        block.experts = ExpertParallel(block.experts, grid.ep, loops)
        if loops:
            block.forward = partial(fused.layer, block)   # FSDP gathers weights around it
        fully_shard(block.experts, mesh=grid.replicas)
        fully_shard(block, mesh=grid.world)
    fully_shard(model, mesh=grid.world)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)           # a sum, not an average
            module.set_force_sum_reduction_for_comms(True)   # gloo has no scaled sum
    return model


def split_batch(batch: Batch, grid: Grid) -> Batch:
    """This rank's rows of a batch: all of their tokens, also under cp.

    A rank without rows gets one of padding, which scores and counts nothing: the others wait for its collectives.
    """
    mine = slice_of(len(batch.inputs), grid.rows, grid.layout.dp * grid.layout.ep)
    if mine.start < mine.stop:
        return Batch(batch.name, *(None if x is None else x[mine].to(grid.device)
                                   for x in (batch.inputs, batch.targets, batch.valid, batch.doc_ids)))
    row = batch.inputs[:1].to(grid.device)
    docs = None if batch.doc_ids is None else torch.zeros_like(row)
    return Batch(batch.name, row, torch.full_like(row, IGNORE), torch.zeros_like(row, dtype=torch.bool), docs)


def forward(model: Zaya, batch: Batch, grid: Grid) -> tuple[ZayaOutput, Batch]:
    """Runs this rank's rows, or its chunks of them. Returns the `ZayaOutput` and the part of `batch` it belongs to."""
    if grid.layout.cp == 1:
        return model(batch.inputs, doc_ids=batch.doc_ids), batch
    lengths = chunk_lengths(batch.inputs.shape[1], grid.layout.cp)
    cache = ContextCache(model.config, len(batch.inputs), lengths, grid.cp, model.embed_scale.dtype, grid.device,
                         batch.doc_ids)
    mine = slice(cache.start, cache.stop)
    part = Batch(batch.name, *(None if x is None else x[:, mine].contiguous()
                               for x in (batch.inputs, batch.targets, batch.valid, batch.doc_ids)))
    return model(part.inputs, cache=cache), part


@torch.no_grad()
def clip(model: Zaya, most: float, grid: Grid) -> float:
    """Scales the gradients of all ranks to a norm of at most `most`, all together. Returns the norm they had."""
    shards = [p.grad.to_local() for p in model.parameters() if p.grad is not None]
    squares = sum((shard.double().square().sum() for shard in shards), torch.zeros((), device=grid.device).double())
    norm = float(grid.sum(squares).sqrt())   # every number of the gradient lies on one rank only
    for shard in shards:
        shard.mul_(min(1.0, most / (norm + 1e-6)))
    return norm
