"""Starts the ranks of a job on this machine, and says which one failed: torchrun's work, in one page.

    run_job("minizaya.studies.equality:differences", ranks=4, layout="dp2xep2")      a list: what each rank returned

Each rank is a Python process of its own that imports the function and calls it. When one dies, those that wait for it
notice (its connections close, or the timeout passes) and leave quietly; the launcher, who saw the exit codes, ends the
rest and raises one error that names the rank. A rank whose launcher has gone, however that came, goes too.

Ours and not torch's elastic_launch, which was tried (torch 2.13): two ranks took 40 seconds to start where these took
19, a rank that hung was not named (but the one that waited for it, after 48 seconds), and Ctrl-C stayed in its hands.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ..notebook import in_notebook, tqdm
from ..train.loop import interrupts

LOST = 75      # exit code of a rank that has done nothing wrong, but lost the others
GRACE = 1.0    # seconds between the first exit and the verdict: culprit and those who miss it leave in any order


class RankFailed(RuntimeError):
    """A rank ended before its work was done. `rank`, which the message names too, and its exit code, if it has one."""

    def __init__(self, rank: int, message: str, code: int | None = None):
        super().__init__(message)
        self.rank, self.code = rank, code


def run_job(target: str, ranks: int, limit: float = 300.0, timeout: float = 20.0, foreground: bool = False,
            **arguments) -> list:
    """Calls a function on `ranks` processes at once, and returns what each returned, by rank.

    Args:
        target: "module:function"; the process group is there when it is called. arguments, and what it returns: JSON.
        limit: seconds for all of it. timeout: seconds that a rank waits for another.
        foreground: rank 0 writes where this process does, and is asked to stop by Ctrl-C; a second Ctrl-C ends all.
    Raises:
        RankFailed: one error for the whole job, naming the rank. TimeoutError. ValueError: target or ranks are wrong.
    """
    if ":" not in target or ranks < 1:
        raise ValueError(f"target must be 'module:function' and ranks at least 1, got {target!r} and {ranks!r}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {"target": target, "arguments": arguments, "timeout": timeout}
        (folder / "job.json").write_text(json.dumps(job), "utf-8")
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)   # where they find each other
        wait(start(folder, ranks, store.port, foreground), folder, limit, foreground)
        return [json.loads((folder / f"result-{rank}.json").read_text("utf-8")) for rank in range(ranks)]


# ---- the launcher ----------------------------------------------------------------------------------------------------


def start(folder: Path, ranks: int, port: int, foreground: bool) -> list[subprocess.Popen]:
    """Starts the processes, told by their environment who they are, as torchrun does. Output: folder/rank-N.log."""
    ways = [path for path in sys.path if path]   # they find what this process finds
    shared = os.environ | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                           "MINIZAYA_LAUNCHER": str(os.getpid()), "PYTHONPATH": os.pathsep.join(ways)}
    shared.setdefault("OMP_NUM_THREADS", "1")    # or every rank would take all cores
    processes = []
    for rank in range(ranks):
        with open(folder / f"rank-{rank}.log", "wb") as log:
            out = {} if rank == 0 and foreground else dict(stdout=log, stderr=subprocess.STDOUT)
            processes.append(subprocess.Popen(
                [sys.executable, "-m", "minizaya.parallel.launch", str(folder)], stdin=subprocess.DEVNULL,
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **out,
                start_new_session=True))   # Ctrl-C reaches the launcher alone
    return processes


def wait(processes: list[subprocess.Popen], folder: Path, limit: float, foreground: bool) -> None:
    """Returns when all have ended well. Raises RankFailed when one has not, TimeoutError after `limit` seconds.

    In any case no process is left.
    """
    def codes() -> list[int | None]:
        return [process.poll() for process in processes]

    began = time.monotonic()
    try:
        with (interrupts() if foreground else nullcontext([]) as asked,
              tqdm(total=len(processes), desc="processes done", mininterval=1, leave=False,
                   disable=foreground or not in_notebook()) as line):
            while None in codes() and not any(codes()):
                if asked:
                    asked.clear()
                    processes[0].send_signal(signal.SIGINT)   # all ranks stop after the same step
                if time.monotonic() - began > limit:
                    raise TimeoutError(f"the job was not done after {limit:g} seconds")
                time.sleep(0.05)
                line.set_postfix_str(f"{time.monotonic() - began:.0f} s", refresh=False)
                line.update(codes().count(0) - line.n)
        if any(codes()):
            time.sleep(GRACE)
            raise verdict(codes(), folder)
    finally:
        end_all(processes)


def verdict(codes: list[int | None], folder: Path) -> RankFailed:
    """Whose fault it is, given the exit codes: None still runs, negative is a signal, LOST lost the others."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            return RankFailed(rank, f"rank {rank} was ended by {signal.Signals(-code).name}", code)
    for rank, code in enumerate(codes):
        if code not in (None, 0, LOST):
            said = (folder / f"rank-{rank}.log").read_text("utf-8", "replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), f"exit code {code}")   # which is its error
            return RankFailed(rank, f"rank {rank} failed: {last}", code)
    silent = [rank for rank, code in enumerate(codes) if code is None]
    rank = (silent or [codes.index(LOST)])[0]
    return RankFailed(rank, f"rank {rank} did not answer the others in time")


def end_all(processes: list[subprocess.Popen]) -> None:
    """Ends those that still run: asks first, then does not."""
    for ask in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)   # a stopped process hears nothing
                ask(process)
        deadline = time.monotonic() + 3
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.02)


# ---- a rank ----------------------------------------------------------------------------------------------------------


@contextmanager
def join(timeout: float = 20.0) -> Iterator[None]:
    """Within it this process is a rank of the job that torchrun or `run_job` made; its environment says which.

    timeout: seconds that a rank waits for the others; more than the longest work between two meetings. Only for the
    first meeting is there more time: importing torch from a slow disk may take a minute.
    """
    leave_with_launcher()
    rank, ranks, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"   # the launcher keeps the meeting place
    patience = timedelta(seconds=120)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=patience,
                          is_master=rank == 0 and not elsewhere)
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    store.set(f"here/{rank}", "")
    store.wait([f"here/{other}" for other in range(ranks)], patience)
    gpu = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=ranks,
                            timeout=timedelta(seconds=timeout))
    yield
    dist.barrier()
    dist.destroy_process_group()


def leave_with_launcher() -> None:
    """Ends this process at most half a second after the launcher has ended, ours or torchrun.

    trap: a launcher that is killed, or whose terminal is closed, ends nobody. Its ranks would train on, unseen, and
    write into the run's folder beside whoever resumes it.
    """
    launcher = int(os.environ.get("MINIZAYA_LAUNCHER", os.getppid()))   # ours may have ended before this line

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(LOST)

    threading.Thread(target=watch, daemon=True).start()


def lost_peer(error: BaseException) -> bool:
    """Is this what a rank sees when another one has gone, and no fault of its own?"""
    words = ("gloo/transport", "nccl error", "connection closed by peer", "connection reset", "timed out")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))


def work(folder: Path) -> None:
    """What each rank of `run_job` does."""
    job = json.loads((folder / "job.json").read_text("utf-8"))
    module, _, function = job["target"].partition(":")
    with join(job["timeout"]):
        result = getattr(importlib.import_module(module), function)(**job["arguments"])
        (folder / f"result-{dist.get_rank()}.json").write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(LOST if lost_peer(error) else 1)   # at once: the way out of a broken group can hang
