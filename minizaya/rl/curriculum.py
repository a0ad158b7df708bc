"""Which problem next: difficulties where a model passes about half the time, found first and followed then.

Before training, `Calibrator` finds for each task the difficulty with a pass rate of one half. It believes that the pass
rate falls with difficulty as a logistic curve, 1 / (1 + exp((d - mu) / s)), and holds its belief as a cloud of
particles (mu, s). It asks at the difficulty that one particle, drawn by weight, thinks right (Thompson sampling), and
weighs every particle by how well it foretold the outcome (equations 12-14).

During training `Scheduler` follows the boundary as it moves: up by one when a group at the present difficulty passes
more than 70%, down by one when it passes 0% (equation 11). The task that was drawn least often is drawn next.

Why one half: a group whose answers are all right, or all wrong, has no advantage. At one half most answers teach.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..config import check_settings


class Calibrator:
    """The belief about one task's pass-rate curve.

    Args:
        highest: difficulties are 1..highest. seed: of all its chance. particles: how many curves it holds.
        target, spread: it asks where the pass rate should be `target`, half of the time target +- spread, so that it
            learns the slope, too.
    Raises ValueError for numbers below 1, and rates that do not lie between 0 and 1.
    """

    def __init__(self, highest: int, seed: int = 0, particles: int = 256, target: float = 0.5, spread: float = 0.25):
        check_settings(locals(), highest=1, particles=1)
        if not (0 <= spread and 0 < target - spread and target + spread < 1):   # no difficulty has a rate beyond
            raise ValueError(f"target +- spread must lie in 0 < rate < 1, got {target} +- {spread}")
        self.highest, self.target, self.spread = highest, target, spread
        self.rng = random.Random(f"calibrator/{seed}")
        self.particles = [self.guess() for _ in range(particles)]
        self.weights = [1 / particles] * particles

    def guess(self) -> tuple[float, float]:
        """A curve from the prior: its middle anywhere, also beyond both ends; its width up to a third of the range."""
        return self.rng.uniform(0, self.highest + 1), self.rng.uniform(0.2, max(0.5, self.highest / 3))

    def ask(self) -> int:
        """The next difficulty to try."""
        (mu, s), = self.rng.choices(self.particles, self.weights)
        rate = self.target if self.rng.random() < 0.5 else self.target + self.rng.uniform(-self.spread, self.spread)
        return self.clip(mu + s * math.log((1 - rate) / rate))

    def tell(self, difficulty: int, right: int, asked: int) -> None:
        """`right` of `asked` answers at this difficulty were right. Raises ValueError unless 0 <= right <= asked."""
        if not 0 <= right <= asked:
            raise ValueError(f"right must lie in 0..asked = {asked}, got {right}")
        self.weights = reweighed(self.particles, self.weights, difficulty, right, asked)
        if 1 / sum(weight**2 for weight in self.weights) < len(self.weights) / 2:
            self.resample()

    def resample(self) -> None:
        """Draws the particles anew by weight, each a little moved, all with equal weight."""
        drawn = self.rng.choices(self.particles, self.weights, k=len(self.particles))
        step = 0.02 * (self.highest + 1)
        self.particles = [(mu + self.rng.gauss(0, step), max(0.1, s * math.exp(self.rng.gauss(0, 0.1))))
                          for mu, s in drawn]
        self.weights = [1 / len(drawn)] * len(drawn)

    def middle(self) -> float:
        """The mean belief about the difficulty with the pass rate `target`; not rounded."""
        shift = math.log((1 - self.target) / self.target)
        return sum(weight * (mu + s * shift) for (mu, s), weight in zip(self.particles, self.weights))

    def best(self) -> int:
        """The difficulty to start training at."""
        return self.clip(self.middle())

    def clip(self, difficulty: float) -> int:
        return min(max(round(difficulty), 1), self.highest)


def pass_rate(difficulty: float, mu: float, s: float) -> float:
    """1 / (1 + exp((d - mu) / s)), equation 12."""
    return 1 / (1 + math.exp(min(max((difficulty - mu) / s, -50), 50)))


def reweighed(particles: list[tuple[float, float]], weights: list[float], difficulty: float, right: int,
              asked: int) -> list[float]:
    """Each particle's weight times the chance that it gave to what happened (binomial, equation 14); the sum is one.

    trap: 200 answers make likelihoods of 1e-60, so logarithms are added, and the largest is taken out before exp. A
    curve that foretold a certainty is wrong for ever after one surprise, so no chance is below 1e-6.
    """
    log_weights = []
    for (mu, s), weight in zip(particles, weights):
        rate = min(max(pass_rate(difficulty, mu, s), 1e-6), 1 - 1e-6)
        log_weights.append(math.log(weight) + right * math.log(rate) + (asked - right) * math.log1p(-rate))
    top = max(log_weights)
    shares = [math.exp(value - top) for value in log_weights]
    return [max(share / sum(shares), 1e-300) for share in shares]


@dataclass
class Scheduler:
    """The present difficulty of every task, and how often each was drawn.

    levels: task -> present difficulty. highest: task -> its largest. up: the pass rate above which a task gets harder.
    """

    levels: dict[str, int]
    highest: dict[str, int]
    up: float = 0.7
    drawn: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        self.levels = dict(self.levels)
        check_settings(vars(self), up="[0, 1]")
        if not self.levels or self.levels.keys() - self.highest.keys():
            raise ValueError(f"levels must hold some of the tasks {sorted(self.highest)}, got {sorted(self.levels)}")
        for name, level in self.levels.items():
            if type(level) is not int or not 1 <= level <= self.highest[name]:
                raise ValueError(f"levels: {name} must lie in 1..{self.highest[name]}, got {level}")
        self.drawn = {name: self.drawn.get(name, 0) for name in sorted(self.levels)}

    def draw(self, n: int) -> list[tuple[str, int]]:
        """The next `n` (task, difficulty) pairs, the task drawn least often first; equals in alphabetical order."""
        found = []
        for _ in range(n):
            name = min(self.drawn, key=lambda task: (self.drawn[task], task))
            self.drawn[name] += 1
            found.append((name, self.levels[name]))
        return found

    def update(self, name: str, difficulty: int, rewards: Sequence[float]) -> int:
        """Takes in one group's rewards; returns the task's new difficulty (equation 11).

        trap: a group drawn at another difficulty than the present one says nothing about it. Groups arrive late,
        several at once; without this test, four good groups of one level would jump four levels.
        """
        if difficulty == self.levels[name]:
            rate = sum(rewards) / len(rewards)
            step = 1 if rate > self.up else -1 if rate == 0 else 0
            self.levels[name] = min(max(difficulty + step, 1), self.highest[name])
        return self.levels[name]

    def state(self) -> dict:
        """Plain JSON values, to be kept in a checkpoint."""
        return {"levels": dict(self.levels), "drawn": dict(self.drawn)}

    def load_state(self, state: dict) -> None:
        self.levels, self.drawn = dict(state["levels"]), dict(state["drawn"])
