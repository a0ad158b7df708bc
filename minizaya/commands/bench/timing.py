"""How `bench` times: two ways in turn, in one process, so that a machine that slows down slows both."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm


def seconds(work: Callable, *args, device: torch.device | str = "cpu", **settings) -> float:
    """Wall-clock seconds of one call, and of what it has a GPU do: trap: a GPU works on after the call has returned.

    device: where it works; a GPU is waited for, before and after.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda device: None
    wait(device)
    start = time.perf_counter()
    work(*args, **settings)
    wait(device)
    return time.perf_counter() - start


def peak_mib(work: Callable[[], object]) -> float | None:
    """MiB of this process's memory that one call adds at its peak; None where the system does not count them (Linux
    does)."""
    def resident(name: str) -> int:
        return int(Path("/proc/self/status").read_text("utf-8").split(f"{name}:")[1].split()[0])   # kB

    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)   # trap: else what earlier calls gave back to the allocator would be free
        Path("/proc/self/clear_refs").write_text("5", "utf-8")   # the peak begins anew
        before = resident("VmRSS")
    except (OSError, IndexError, AttributeError):
        work()
        return None
    work()
    return (resident("VmHWM") - before) / 1024


def compare(name: str, unit_count: int, ours: Callable[[], object], peers: dict[str, Callable[[], object]],
            pairs: int, device: torch.device | str = "cpu") -> dict:
    """Runs `ours` and every peer in turn `pairs` times after one warm-up; rates are units per second, medians.

    The peer's figure is that of its fastest way to run; ratio = ours / peer. mib: see `peak_mib`, in the warm-up.
    """
    jobs = {"ours": ours, **peers}
    times = {key: [] for key in jobs}
    peaks = {key: peak_mib(partial(seconds, job, device=device)) for key, job in jobs.items()}   # a round that warms up
    for _ in tqdm(range(pairs), desc=name, file=sys.stderr, leave=False):
        for key, job in jobs.items():
            times[key].append(seconds(job, device=device))
        gc.collect()
    medians = {key: statistics.median(took) for key, took in times.items()}
    best = min(peers, key=medians.get)
    return {"name": name, "ours": unit_count / medians["ours"], "peer": unit_count / medians[best], "unit": "tokens/s",
            "ratio": statistics.median(b / a for a, b in zip(times["ours"], times[best])), "peer_path": best,
            "mib": peaks["ours"], "peer_mib": peaks[best]}
