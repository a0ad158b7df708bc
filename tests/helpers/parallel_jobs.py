"""What the ranks of test_parallel.py do: `run_job` imports these functions in processes of their own."""

import errno
import importlib
import os
import re
import signal
import sys
from pathlib import Path

import torch.distributed as dist


def equal(cases):
    """The differences of each (layout, load, dtype) to one process."""
    from minizaya.studies import equality
    return [equality.differences(layout, load=load, dtype=dtype) for layout, load, dtype in cases]


def planted(folders):
    """As `equal`, once for each copy of the package with a bug: [folder, layout, perhaps with a type]; three steps."""
    found = []
    for folder, layout in folders:
        for name in [name for name in sys.modules if re.match(r"minizaya(\.|$)", name)]:
            del sys.modules[name]
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            equality = importlib.import_module("minizaya.studies.equality")
            assert Path(equality.__file__).is_relative_to(folder)
            found.append(equality.differences(*layout.split()[:1], 3, dtype=(layout.split() + ["float64"])[1]))
        finally:
            sys.path.remove(folder)
    return found


def train(runs, steps, until=None, save_every=0, die=None):
    """Trains the tiny model, for each (folder, layout), and goes on where there is a checkpoint.

    die: [rank, "save" or "step" or "hang", step]: after that step the rank kills itself, in the next save or at once,
    or stops answering.
    """
    from minizaya.parallel import sharded_state
    from minizaya.parallel.grid import Grid
    from minizaya.parallel.layout import Layout
    from minizaya.parallel.trainer import ParallelTrainer
    from minizaya.studies import equality
    from minizaya.train.loop import Recipe
    rank, how, when = die or (None, None, None)

    def leave():
        Path(runs[0][0], "left").touch()   # its time is when
        os.kill(os.getpid(), signal.SIGSTOP if how == "hang" else signal.SIGKILL)

    def at(record):
        if dist.get_rank() == rank and record["step"] == when:
            if how == "save":
                write = sharded_state.write
                sharded_state.write = lambda *args: (write(*args), leave())
            else:
                leave()

    logs = []
    for folder, layout in runs:
        trainer = ParallelTrainer(equality.tiny_model(), Recipe(steps=steps, lr=0.02, warmup=2, balance_lr=0.05),
                                  equality.tiny_batches, Grid(Layout.parse(layout)), folder, resume=True)
        trainer.train(save_every=save_every, until=until, bar=False, watch=at)
        logs.append([record["loss"] for record in trainer.records])
    return logs


def held(cases):
    """Bytes that this rank has in weights, gradients and the optimizer's memory after a step, by (layout, experts)."""
    from minizaya.parallel.grid import Grid
    from minizaya.parallel.layout import Layout
    from minizaya.parallel.trainer import ParallelTrainer
    from minizaya.studies import equality
    from minizaya.train.loop import Recipe
    found = []
    for layout, experts in cases:
        trainer = ParallelTrainer(equality.tiny_model(None, dtype="float32", num_experts=experts), Recipe(steps=1),
                                  equality.tiny_batches, Grid(Layout.parse(layout)))
        weights, gradients = list(trainer.model.parameters()), []
        trainer.optimizer.register_step_pre_hook(
            lambda *_, weights=weights, found=gradients: found.extend(p.grad.to_local().nbytes for p in weights))
        trainer.train_step()
        state = [value for p in weights for value in trainer.optimizer.state[p].values()]
        found.append({"weights": sum(p.to_local().untyped_storage().nbytes() for p in weights),
                      "gradients": sum(gradients),
                      "optimizer": sum(value.to_local().nbytes if value.dim() else value.nbytes for value in state)})
    return found


def kept_for_backward(length):
    """Bytes that autograd saves on this rank of cp2, weights left out, for two rows of `length` tokens of nano."""
    import torch
    import torch.nn.functional as F

    from minizaya import Zaya, ZayaConfig
    from minizaya.parallel.grid import Grid, forward
    from minizaya.parallel.layout import Layout
    from minizaya.train.sources import Batch
    torch.manual_seed(0)
    model, tokens = Zaya(ZayaConfig.preset("nano")), torch.randint(3, 100, (2, length))
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept, alive = {}, []

    def pack(tensor):
        alive.append(tensor)   # or its memory would be used again, and counted once
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out, part = forward(model, Batch("text", tokens, tokens), Grid(Layout(cp=2)))
        F.cross_entropy(out.logits.flatten(0, 1), part.targets.flatten())
    return sum(size for address, size in kept.items() if address not in own)


def refusals():
    """The messages of what must be refused, and the checkpoint errors of one rank."""
    import torch

    from minizaya.parallel.grid import Grid, forward, parallelize
    from minizaya.parallel.layout import Layout
    from minizaya.parallel.sharded_state import together
    from minizaya.parallel.trainer import ParallelTrainer
    from minizaya.studies import equality
    from minizaya.train.loop import Recipe
    from minizaya.train.sources import Batch
    said = []

    def full_on_rank_one():
        if dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, "rank 1's own words")

    ep, cp = Grid(Layout(ep=2)), Grid(Layout(cp=2))
    row, four = torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64)
    tries = [lambda: Grid(Layout(dp=3)),
             lambda: parallelize(equality.tiny_model(num_experts=3, load=None), ep),
             lambda: ParallelTrainer(equality.tiny_model(), Recipe(steps=1, optimizer="muon"), equality.tiny_batches,
                                     ep),
             lambda: forward(equality.tiny_model(), Batch("row", row, row), cp),
             lambda: forward(equality.tiny_model(attention_bias=True), Batch("row", four, four), cp),
             lambda: together(ep, full_on_rank_one, Path("run")),
             lambda: parallelize(equality.tiny_model(dtype="float32"), cp, compiled=True),
             lambda: parallelize(equality.tiny_model(dtype="bfloat16"), ep, compiled=True)]
    for attempt in tries:
        try:
            attempt()
            said.append("")
        except (ValueError, OSError) as error:
            said.append(str(error))
    return said


def whisper():
    """One rank raises."""
    if dist.get_rank() == 1:
        raise RuntimeError("the disk of rank one is on fire")
    dist.barrier()
