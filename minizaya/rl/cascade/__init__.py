"""The cascade: four stages of reinforcement learning, one after the other, from a shipped reasoner.

    warm-up      fixed difficulties; the model learns to earn rewards at all
    curriculum   each task's difficulty follows the model (`curriculum.Scheduler`), from where it passes half the time
    ttc          mathematics, programs, and aggregation prompts: tails of an expert's attempts and of the model's own
    behaviour    style, gated by obedience; graded scores, so GRPO's advantages

`TOY` is our table, `REAL` is ZAYA1-8B's beside it. `SHEETS` is one stage of the third kind alone, for answers with
parts: the last thing that `nano-sheets` learned. Its prompts are Markovian RSA's own, see `records`. `train` runs a
table, one folder a stage; a run that was stopped goes on where it was.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...arch.model import Zaya
from ...config import check_settings
from ...data import tasks
from ...data.tokenizer import Tokenizer
from ...infer.rsa import RSAConfig
from ...train import checkpoint, stages
from ...train.evaluate import answers
from ...train.run_lock import RunLock
from ...train.sources import seed_of
from ..buffer import Shelf
from ..curriculum import Calibrator, Scheduler
from ..generator import room, styled, verified
from ..learner import LearnerConfig
from ..pipeline import run
from ..processes import Job
from .records import handed_on

# where the shipped nano-reasoner is unsure: the seven tasks that it has not solved up to their hardest problems
BOUNDARY = ("addition", "base", "countdown", "falsify", "invert", "program", "sorting")
MATH, CODE = ("addition", "base", "countdown"), ("falsify", "invert", "program")


@dataclass(frozen=True)
class Stage:
    """One row of the table. follow: does the difficulty follow the model? aggregation: share of such prompts.

    style: the reward is the style score of an answer that obeyed. advantage, brevity, lr: see `LearnerConfig`.
    rsa: the aggregation prompts are those that this Markovian RSA puts to the model, on training sheets.
    """

    name: str
    updates: int
    tasks: tuple[str, ...] = BOUNDARY
    follow: bool = True
    aggregation: float = 0.0
    style: bool = False
    advantage: str = "maxrl"
    brevity: float = 0.0
    lr: float = 1e-3
    rsa: RSAConfig | None = None

    def __post_init__(self):
        check_settings(vars(self), updates=1, aggregation="[0, 1]", follow=bool, style=bool)
        for name in self.tasks:
            tasks.get(name)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must hold at least one task, and none twice, got {self.tasks!r}")
        if self.style and self.brevity:
            raise ValueError(f"brevity is for rewards of 0 and 1, not for style's graded ones, got {self.brevity}")
        if self.rsa and not self.aggregation:
            raise ValueError(f"rsa must be None without a share of aggregation prompts, got {self.rsa}")
        LearnerConfig(lr=self.lr, advantage=self.advantage, brevity=self.brevity)  # what it refuses is refused now


TOY = (
    Stage("warm-up", 20, follow=False),
    Stage("curriculum", 60),
    Stage("ttc", 30, tasks=MATH + CODE, aggregation=0.4, brevity=0.2),
    Stage("behaviour", 10, style=True, advantage="grpo", lr=3e-4),
)

SHEETS = (Stage("ttc", 48, tasks=("sheet",), follow=False, aggregation=0.85, lr=5e-4,
                rsa=RSAConfig(N=8, C=4, T=1, beta=280, tau=74)),)

REAL = (  # report, section IV-B and its tables; mathematics with code and test-time compute were two runs
    {"name": "warm-up", "updates": "232", "prompts": "mathematics and puzzles"},
    {"name": "curriculum", "updates": "400", "prompts": "RLVE-Gym, 400 environments"},
    {"name": "ttc", "updates": "384 + 464", "prompts": "mathematics, code, aggregation prompts"},
    {"name": "behaviour", "updates": "384", "prompts": "chat and instructions"},
)


def calibrate(model: Zaya, tokenizer: Tokenizer, names: Sequence[str], seed: int = 0) -> dict[str, Calibrator]:
    """Asks the model eight times sixteen training problems a task; returns each task's belief (`Calibrator`)."""
    rounds, each = 8, 16
    believed = {name: Calibrator(tasks.get(name).max_difficulty, seed) for name in names}
    for turn in range(seed * 1000, seed * 1000 + rounds):
        asked = [problem for name in names
                 for problem in tasks.problems(name, "train", believed[name].ask(), each, turn)]
        right = judged(model, tokenizer, asked, turn)
        for first in range(0, len(asked), each):
            believed[asked[first].task].tell(asked[first].difficulty, sum(right[first: first + each]), each)
    return believed


def judged(model: Zaya, tokenizer: Tokenizer, problems: list[tasks.Problem], seed: int) -> list[int]:
    """One answer at temperature 1 to each problem, 1 if right; each has the room that the generator gives it."""
    rooms = [room(problem.task, problem.difficulty) for problem in problems]
    written = answers(model, tokenizer, problems, rooms, 1.0, seed, bar=False)
    return [tasks.get(problem.task).verify(problem, tokenizer.decode(answer))
            for problem, answer in zip(problems, written)]


def examine(model: Zaya, tokenizer: Tokenizer, levels: dict[str, int], problems: int, seed: int) -> dict[str, float]:
    """Accuracy of single rollouts on held-out problems: task -> share of `problems`, each task at its level."""
    asked = [p for name in sorted(levels) for p in tasks.problems(name, "held_out", levels[name], problems, seed)]
    right = judged(model, tokenizer, asked, seed)
    return {name: sum(right[i * problems: (i + 1) * problems]) / problems for i, name in enumerate(sorted(levels))}


def train(model: Zaya, tokenizer: Tokenizer, folder: str | Path, table: tuple[Stage, ...] = TOY, seed: int = 0,
          processes: int = 1, share: float = 1.0, bar: bool = True) -> bool:
    """Runs all stages on `model`, in place. Each stage's shelf, log and checkpoint lie in `folder`/N-name.

    share: of every stage's updates. Returns True when all are done, False when Ctrl-C stopped one: call it again with
    the same arguments to go on. Raises ValueError when `folder` was made with others, or another process trains in it.
    """
    folder = Path(folder)
    with RunLock(folder):
        # as it reads back from the file: lists for tuples
        plan = json.loads(json.dumps({"table": [asdict(stage) for stage in table], "seed": seed, "share": share}))
        plan_file = folder / "plan.json"
        if plan_file.exists():
            known = json.loads(plan_file.read_text("utf-8"))
            if {key: known[key] for key in plan} != plan:
                raise ValueError(f"{folder} was made with another table, seed or share; choose another folder")
        else:
            believed = calibrate(model, tokenizer, sorted({name for stage in table for name in stage.tasks}), seed)
            known = plan | {"levels": {name: belief.best() for name, belief in believed.items()}}
            checkpoint.replace_file(plan_file, json.dumps(known, indent=1).encode())
        levels = dict(known["levels"])
        for number, stage in enumerate(table, start=1):
            own = folder / f"{number}-{stage.name}"
            job = job_of(stage, levels, seed * 100 + number, share)
            own.mkdir(parents=True, exist_ok=True)
            chances = seed_of("cascade", seed, number)
            if stage.rsa:
                problems = max(1, round(240 * share))
                job.records = handed_on(own / "own.jsonl", model, tokenizer, stage.rsa, problems, chances)
            elif stage.aggregation:  # as the SFT had them
                wanted = {name: span for name, span in stages.AGGREGATED.items() if name in stage.tasks}
                job.records = stages.rollouts(own / "own.jsonl", model, tokenizer, wanted, max(8, round(160 * share)),
                                              chances)
            keep = {"stage": stage.name, "tokenizer": tokenizer.to_dict()}
            if not run(job, model, tokenizer, own, keep, processes, bar=bar):
                return False
            levels = {**levels, **last_levels(own)}
        return True


def job_of(stage: Stage, levels: dict[str, int], seed: int, share: float) -> Job:
    """The stage as the pipeline wants it."""
    start = {name: levels[name] for name in stage.tasks}
    scheduler = (Scheduler if stage.follow else Fixed)(start, {name: tasks.get(name).max_difficulty for name in start})
    learner = LearnerConfig(lr=stage.lr, advantage=stage.advantage, brevity=stage.brevity)
    return Job(max(2, round(stage.updates * share)), scheduler, learner, aggregation=stage.aggregation,
               judge=styled if stage.style else verified, seed=seed,
               size=1024 if stage.rsa else Job.size)   # a sheet of 24, four tails and an answer


class Fixed(Scheduler):
    """Difficulties that stay."""

    def update(self, name: str, difficulty: int, rewards: Sequence[float]) -> int:
        return self.levels[name]


def last_levels(stage_folder: Path) -> dict[str, int]:
    """The difficulties that a finished stage's scheduler ended with."""
    info = Shelf(stage_folder / "shelf").newest_info()
    return info["scheduler"]["levels"] if info else {}


def minutes(folder: str | Path) -> float:
    """Minutes of all updates and of the waiting between them, from the stages' logs."""
    logs = [log.read_text("utf-8") for log in sorted(Path(folder).glob("*/trainer/log.jsonl"))]
    return sum(json.loads(line).get("seconds", 0.0) for log in logs for line in log.splitlines()) / 60


# ---- the table, to read ----------------------------------------------------------------------------------------------


def rows() -> list[dict]:
    """One row a stage: ours, and the real one's updates and prompts."""
    return [asdict(toy) | {"real": real} for toy, real in zip(TOY, REAL, strict=True)]


def text_table() -> str:
    """`rows` as lines."""
    lines = [f"{'stage':12}{'updates':>8}  {'advantage':10} aggregation |  ZAYA1-8B: updates, prompts"]
    for row in rows():
        lines.append(f"{row['name']:12}{row['updates']:8}  {row['advantage']:10} {row['aggregation']:11.1f} |"
                     f"  {row['real']['updates']:>10}, {row['real']['prompts']}")
    return "\n".join(lines)
