"""Who sends how many bytes to whom: watches the collectives of one process, without a line in the model.

    with Traffic() as traffic: trainer.train_step()
    traffic.sent       kind -> list of bytes that this rank sends to each rank, its own place being zero

What a rank sends in an all-to-all or point to point is in the call itself. For the other collectives it depends on the
algorithm; counted here is the usual ring, in which each of n ranks passes (n - 1) / n of the whole to the next (twice
that for an all-reduce).
"""

from typing import Any

import torch.distributed as dist
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = {"alltoall_base_": "experts, all-to-all", "send": "halo, point to point",
         "allgather_": "keys and values, gather", "reduce_scatter_": "keys and values, gradient",
         "_allgather_base_": "weights, gather",
         "_reduce_scatter_base_": "weights, gradient", "allreduce_": "sums"}


class Traffic(TorchDispatchMode):
    """Counts while it is entered. `sent[kind][rank]` is in bytes."""

    def __init__(self):
        super().__init__()
        self.sent: dict[str, list[int]] = {}

    def __torch_dispatch__(self, function: OpOverload, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = function._schema.name
        if name.startswith("c10d::") and name[6:] in KINDS:
            self.count(name[6:], function, args)
        return function(*args, **(kwargs or {}))

    def count(self, name: str, function: OpOverload, args: tuple) -> None:
        given = dict(zip((argument.name for argument in function._schema.arguments), args))
        group = dist.ProcessGroup.unbox(given["process_group"])
        ranks, me = dist.get_process_group_ranks(group), dist.get_rank()
        row = self.sent.setdefault(KINDS[name], [0] * dist.get_world_size())
        following = ranks[(ranks.index(me) + 1) % len(ranks)]
        if name == "alltoall_base_":
            x, splits = given["input"], given["input_split_sizes"]
            each = x[:1].nbytes if len(x) else 0
            for rank, rows in zip(ranks, splits or [len(x) // len(ranks)] * len(ranks)):
                row[rank] += rows * each if rank != me else 0
        elif name == "send":
            row[ranks[given["dst"]]] += sum(x.nbytes for x in given["tensors"])
        elif len(ranks) > 1:
            whole = {"allgather_": lambda: sum(x.nbytes for x in given["output_tensors"][0]),
                     "_allgather_base_": lambda: given["output_tensor"].nbytes,
                     "reduce_scatter_": lambda: sum(x.nbytes for x in given["input_tensors"][0]),
                     "_reduce_scatter_base_": lambda: given["input_tensor"].nbytes,
                     "allreduce_": lambda: 2 * sum(x.nbytes for x in given["tensors"])}[name]()
            row[following] += whole * (len(ranks) - 1) // len(ranks)
