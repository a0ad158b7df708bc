"""How `bench` times: two ways in turn, in one process, so that a machine that slows down slows both."""

import gc
import statistics
import sys
import time
from collections.abc import Callable

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


def compare(name: str, unit_count: int, ours: Callable[[], object], peers: dict[str, Callable[[], object]],
            pairs: int, device: torch.device | str = "cpu") -> dict:
    """Runs `ours` and every peer in turn `pairs` times after one warm-up; rates are units per second, medians.

    The peer's figure is that of its fastest way to run; ratio = ours / peer.
    """
    jobs = {"ours": ours, **peers}
    times = {key: [] for key in jobs}
    for round_ in tqdm(range(pairs + 1), desc=name, file=sys.stderr, leave=False):
        for key, job in jobs.items():
            took = seconds(job, device=device)
            if round_:  # round 0 warms up
                times[key].append(took)
        gc.collect()
    medians = {key: statistics.median(took) for key, took in times.items()}
    best = min(peers, key=medians.get)
    return {"name": name, "ours": unit_count / medians["ours"], "peer": unit_count / medians[best], "unit": "tokens/s",
            "ratio": statistics.median(b / a for a, b in zip(times["ours"], times[best])), "peer_path": best}
