"""Trains with two processes and kills one or the other at random; then counts what became of every batch.

    python tests/helpers/kill_pipeline.py --minutes 30 [--seed 0] [--folder DIR]

Prints one JSON document: kills of each kind, updates, batches made, trained on, stale, evicted, waiting; and fails if a
batch is lost or trained on twice, or an answer was more than two updates behind. `test_pipeline.py` runs a short one.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import minizaya as mz
from minizaya.data import text
from minizaya.data.tokenizer import CharTokenizer
from minizaya.rl.buffer import Shelf
from minizaya.rl.curriculum import Scheduler
from minizaya.rl.learner import LearnerConfig
from minizaya.rl.pipeline import run
from minizaya.rl.processes import Job

TOKENIZER = CharTokenizer(text.ALPHABET, unknown="unk")


def tiny_model(seed: int = 0) -> mz.Zaya:
    torch.manual_seed(seed)
    return mz.Zaya(mz.ZayaConfig.preset("nano", hidden_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
                                        moe_intermediate_size=16, router_hidden_size=8, initializer_range=0.2))


def even(asked: dict, text: str) -> float:
    """A judge that is pleased half of the time, also by a model that knows nothing."""
    return float(sum(map(ord, text)) % 2 == 0)


def tiny_job(updates: int) -> Job:
    """Short answers of a random model, judged by `even`: almost every batch moves the weights."""
    levels = {"copy": 1, "parity": 1}
    return Job(updates, Scheduler(levels, {"copy": 3, "parity": 3}), LearnerConfig(lr=1e-4), groups=2, group=4, slots=8,
               size=64, threshold=0.0, judge=even, seed=3)


def child(folder: str, updates: int) -> None:
    """What is killed: trains until all updates are made."""
    torch.set_num_threads(1)
    run(tiny_job(updates), tiny_model(), TOKENIZER, folder, processes=2, bar=False)


def generators_of(trainer: int) -> list[int]:
    """Process ids of the generator: the trainer's children that run spawn_main of multiprocessing."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == trainer and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, ValueError):
            pass
    return found


def fates(folder: Path) -> dict:
    """What became of every batch, from the logs and the shelf."""
    def lines(path: Path) -> list[dict]:  # a process that died early has left none
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    log, events = lines(folder / "trainer" / "log.jsonl"), lines(folder / "shelf" / "generator.jsonl")
    shelf = Shelf(folder / "shelf")
    return {"updates": [r["update"] for r in log if "update" in r],
            "trained": [r["batch"] for r in log if "update" in r],
            "staleness": [r["staleness"] for r in log if "update" in r],
            "stale": [r["stale"] for r in log if "stale" in r],
            "made": [e["made"] for e in events if "made" in e],
            "evicted": [e["evicted"] for e in events if "evicted" in e],
            "waiting": shelf.numbers("batch"), "taken": shelf.numbers("taken")}


def judge(found: dict) -> None:
    """Raises AssertionError when a batch was lost or used twice, or an answer was too old."""
    assert found["updates"] == list(range(1, len(found["updates"]) + 1)), "an update is missing or was made twice"
    assert len(found["trained"]) == len(set(found["trained"])), "a batch was trained on twice"
    assert max(found["staleness"], default=0) <= 2, "an answer was more than two updates behind"
    ends = [*found["trained"], *found["stale"], *found["evicted"], *found["waiting"]]
    assert len(ends) == len(set(ends)), f"a batch has two fates: {sorted(n for n in set(ends) if ends.count(n) > 1)}"
    made = set(found["made"])
    # killed between the file and its log line
    assert set(ends) <= made | {max([*ends, -1])}, "a batch that nobody made"
    lost = made - set(ends)
    assert not lost, f"lost batches: {sorted(lost)}"


def kill_at_random(folder: Path, seconds: float, seed: int, between: tuple[float, float] = (3.0, 12.0)) -> dict:
    """Kills for `seconds`, then stops. Returns `fates` and the number of kills."""
    rng, kills, finish = random.Random(seed), {"trainer": 0, "generator": 0}, time.monotonic() + seconds
    start = [sys.executable, __file__, "--child", str(folder), "--updates", "1000000"]
    process = subprocess.Popen(start, stderr=subprocess.DEVNULL)
    while time.monotonic() < finish:
        time.sleep(rng.uniform(*between))
        if rng.random() < 0.5:
            process.kill()
            process.wait()
            kills["trainer"] += 1
            process = subprocess.Popen(start, stderr=subprocess.DEVNULL)
        else:
            for number in generators_of(process.pid):
                os.kill(number, signal.SIGKILL)
                kills["generator"] += 1
    process.kill()
    process.wait()
    time.sleep(1.5)  # the generator notices that its parent is gone
    # one orderly start: what the last kill left half done is settled, as any restart would
    made = len(fates(folder)["updates"])
    run(tiny_job(made + 2), tiny_model(), TOKENIZER, folder, processes=1, bar=False)
    return fates(folder) | {"kills": kills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--between", type=float, nargs=2, default=(8.0, 30.0), metavar=("LEAST", "MOST"),
                        help="seconds from one kill to the next: long enough for the other side to start")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--updates", type=int, default=0)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.updates)
        return
    folder = args.folder or Path(tempfile.mkdtemp())
    found = kill_at_random(folder, args.minutes * 60, args.seed, args.between)
    print(json.dumps({key: value if isinstance(value, dict) else len(value) for key, value in found.items()}
                     | {"staleness": max(found["staleness"])}))
    judge(found)


if __name__ == "__main__":
    main()
