"""What the RL cascade buys the shipped reasoner: `python -m minizaya cascade` with three seeds.

A run takes about 12 minutes with two cores. Its generator and trainer work side by side, so it does not come out the
same to the last digit a second time.
"""

import json
import tempfile
from pathlib import Path

import torch

from ..arch.model import Zaya
from ..data.tokenizer import Tokenizer
from ..hub import zoo
from ..rl import cascade

SETTING = {"model": "nano-reasoner", "problems": 100, "seeds": 3, "processes": 2,
           "table": [[stage.name, stage.updates, stage.lr] for stage in cascade.TOY]}


def runs() -> list[dict]:
    return [{"seed": seed} for seed in range(SETTING["seeds"])]


def one(seed: int) -> dict:
    """Accuracy by task before and after, the curve of the rewards, and the difficulties."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = zoo.load(SETTING["model"])
        cascade.train(model, tokenizer, folder, seed=seed, processes=SETTING["processes"])
        start, _ = zoo.load(SETTING["model"])
        return facts(Path(folder), start, model.eval(), tokenizer)


def facts(folder: Path, start: Zaya, model: Zaya, tokenizer: Tokenizer) -> dict:
    """What is kept of a finished run's folder."""
    levels = json.loads((folder / "plan.json").read_text("utf-8"))["levels"]
    curve, difficulty = [], []
    for own in sorted(folder.glob("[0-9]-*")):
        log = [json.loads(line) for line in (own / "trainer" / "log.jsonl").read_text("utf-8").splitlines()]
        curve += [{"stage": own.name, "reward": round(r["reward"], 4), "length": round(r["length"], 1),
                   "k3": r.get("k3", 0.0), "staleness": r["staleness"]} for r in log if "update" in r]
        made = [json.loads(line) for line in (own / "shelf" / "generator.jsonl").read_text("utf-8").splitlines()]
        difficulty += [{"stage": own.name, "levels": line["levels"]} for line in made if "levels" in line]
    return {"levels": levels, "minutes": round(cascade.minutes(folder), 1),
            "before": cascade.examine(start, tokenizer, levels, SETTING["problems"], seed=7),
            "after": cascade.examine(model, tokenizer, levels, SETTING["problems"], seed=7),
            "curve": curve, "difficulty": difficulty}
