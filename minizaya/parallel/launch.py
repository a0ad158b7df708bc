"""Starts the ranks of a job on this machine, and says which one failed: torchrun's work, in one page.

    run_job("minizaya.parallel.equality:differences", ranks=4, layout="dp2xep2")      a list: what each rank returned

Each rank is a Python process of its own that imports the function and calls it. When one dies, those that wait for it
notice (its connections close, or the timeout passes) and leave quietly; the launcher, who saw the exit codes, ends the
rest and raises one error that names the rank. A rank whose launcher has gone, however that came, goes too.
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
from pathlib import Path

LOST = 75      # exit code of a rank that has done nothing wrong, but lost the others
WELL = (0, 130)  # done, or stopped by Ctrl-C
GRACE = 1.0    # seconds between the first exit and the verdict: culprit and those who miss it leave in any order


class RankFailed(RuntimeError):
    """A rank ended before its work was done. `rank`, which the message names too, and its exit code, if it has one."""

    def __init__(self, rank: int, message: str, code: int | None = None):
        super().__init__(message)
        self.rank, self.code = rank, code


def lost_peer(error: BaseException) -> bool:
    """Is this what a rank sees when another one has gone, and no fault of its own?"""
    from torch import distributed as dist
    words = ("gloo/transport", "nccl error", "connection closed by peer", "connection reset", "timed out")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))


def launch(command: list[str], ranks: int, folder: Path, port: int, quiet: bool = True) -> list[subprocess.Popen]:
    """Starts `ranks` processes of one command, told by their environment who they are, as torchrun does.

    port: of the `meeting_place`. Their output goes to folder/rank-N.log; with quiet=False rank 0 writes where this
    process does.
    """
    ways = [path for path in sys.path if path]   # they find what this process finds
    shared = os.environ | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MINIZAYA_LAUNCHER": str(os.getpid()),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": os.pathsep.join(ways),
                           "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared.setdefault("OMP_NUM_THREADS", "1")    # or every rank would take all cores
    processes = []
    for rank in range(ranks):
        with open(folder / f"rank-{rank}.log", "wb") as log:
            out = {} if rank == 0 and not quiet else dict(stdout=log, stderr=subprocess.STDOUT)
            env = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            out |= dict(stdin=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C reaches the launcher alone
            processes.append(subprocess.Popen(command, env=env, **out))
    return processes


def leave_with_launcher() -> None:
    """Called by a rank: ends this process at most half a second after the launcher has ended. torchrun sees to that itself.

    trap: a launcher that is killed, or whose terminal is closed, ends nobody. Its ranks would train on, unseen, and write
    into the run's folder beside whoever resumes it.
    """
    launcher = os.environ.get("MINIZAYA_LAUNCHER")

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.5)
        os._exit(LOST)

    if launcher:
        threading.Thread(target=watch, daemon=True).start()


def meeting_place():
    """Where the ranks find each other: a small server in this process, on a free port (`.port`) of this machine."""
    from torch import distributed as dist
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def wait(processes: list[subprocess.Popen], folder: Path, limit: float | None = None) -> None:
    """Returns when all have ended well. Raises RankFailed when one has not, TimeoutError after `limit` seconds.

    In any case no process is left.
    """
    began = time.monotonic()
    try:
        while any(process.poll() is None for process in processes) and not ill(processes):
            if limit is not None and time.monotonic() - began > limit:
                raise TimeoutError(f"the job was not done after {limit:g} seconds")
            time.sleep(0.05)
        if ill(processes):
            time.sleep(GRACE)
            raise verdict([process.poll() for process in processes], folder)
    finally:
        end_all(processes)


def ill(processes: list[subprocess.Popen]) -> bool:
    """Has any of them ended badly?"""
    return any(process.poll() not in (None, *WELL) for process in processes)


def verdict(codes: list[int | None], folder: Path) -> RankFailed:
    """Whose fault it is, given the exit codes: None still runs, negative is a signal, LOST lost the others."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            return RankFailed(rank, f"rank {rank} was ended by {signal.Signals(-code).name}", code)
    for rank, code in enumerate(codes):
        if code not in (None, *WELL, LOST):
            return RankFailed(rank, f"rank {rank} failed: {last_words(folder / f'rank-{rank}.log', code)}", code)
    silent = [rank for rank, code in enumerate(codes) if code is None]
    rank = (silent or [codes.index(LOST)])[0]
    return RankFailed(rank, f"rank {rank} did not answer the others in time")


def last_words(log: Path, code: int) -> str:
    """The last line that a rank wrote, which is its error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


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


def run_job(target: str, ranks: int, limit: float = 300.0, timeout: float = 20.0, **arguments) -> list:
    """Calls a function on `ranks` processes at once, and returns what each returned, by rank.

    Args:
        target: "module:function"; the process group is there when it is called. arguments, and what it returns: JSON.
        limit: seconds for all of it. timeout: seconds that a rank waits for another.
    Raises:
        RankFailed: one error for the whole job, naming the rank. TimeoutError. ValueError: target or ranks are wrong.
    """
    if ":" not in target or ranks < 1:
        raise ValueError(f"target must be 'module:function' and ranks at least 1, got {target!r} and {ranks!r}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps({"target": target, "arguments": arguments, "timeout": timeout}))
        store = meeting_place()
        processes = launch([sys.executable, "-m", "minizaya.parallel.launch", name], ranks, folder, store.port)
        wait(processes, folder, limit)
        return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(ranks)]


def work(folder: Path) -> None:
    """What each rank of `run_job` does."""
    from torch import distributed as dist

    from . import grid as parallel
    leave_with_launcher()
    job = json.loads((folder / "job.json").read_text())
    module, _, function = job["target"].partition(":")
    parallel.join(job["timeout"])
    result = getattr(importlib.import_module(module), function)(**job["arguments"])
    (folder / f"result-{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(LOST if lost_peer(error) else 1)   # at once: the way out of a broken group can hang
