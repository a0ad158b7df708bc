"""Lesson 04: a router without a model, for balancers to drive, and the pictures of what they do.

The simulated router is fixed: each expert has a preference, each token adds its own noise, and a softmax makes scores
of the sum. Then the preferences change, as if the data went from prose to code. Only the bias can answer.
There is no skip route here.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..arch import balance
from ..arch.router import choose
from ..notebook import tqdm
from .style import BLACK, BLUE, COLOR, GREEN, ORANGE, PURPLE, SKY, WIDTH, styled

RULES = {"none": COLOR["baseline"], "P": SKY, "PI": BLUE, "PID": PURPLE, "sign": ORANGE, "AdamW": BLACK}
THRESHOLD = 0.99   # of the normalised load entropy, the line in the report's Fig. 4


# ---- the router to be controlled -------------------------------------------------------------------------------------


def preferences(seed: int, num_experts: int = 16) -> Tensor:
    """What the simulated router likes before and after the shift: float32 (2, E), logits."""
    return 0.5 * torch.randn(2, num_experts, generator=torch.Generator().manual_seed(seed))


def draw_scores(preference: Tensor, tokens: int, generator: torch.Generator, sharpness: float = 1.0) -> Tensor:
    """Fresh tokens: softmax(preference + noise), float32 (tokens, E). A small sharpness: nearly equal scores."""
    return (sharpness * (preference + torch.randn(tokens, len(preference), generator=generator))).softmax(-1)


def simulate(balancers: dict, steps: int = 240, shift: int | None = 120, seed: int = 0, delay: int = 0,
             tokens: int = 4096, sharpness: float = 1.0, bar: bool = True) -> dict[str, Tensor]:
    """Every balancer drives its own copy of one router; all copies read the same tokens.

    Args:
        balancers: name -> balancer; they are changed, and may have a past.
        shift: the step from which on the router prefers other experts (None: never).
        delay: a balancer sees the load of so many steps ago (0: of the step just done).
        sharpness: of the router, as in `draw_scores`.
    Returns:
        name -> loads, float32 (steps, E).
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    before, after = preferences(seed, len(next(iter(balancers.values())).bias))
    loads = {name: [] for name in balancers}
    for step in tqdm(range(steps), desc="simulate", unit="step", leave=False, disable=not bar):
        scores = draw_scores(before if shift is None or step < shift else after, tokens, generator, sharpness)
        for name, balancer in balancers.items():
            routes, _ = choose(scores, balancer.bias)
            # `load` wants (b, t, layers): one sequence, one layer
            loads[name].append(balance.load(routes[None, :, None], len(balancer.bias))[0])
            if step >= delay:
                balancer.update(loads[name][step - delay])
    return {name: torch.stack(series) for name, series in loads.items()}


def slope(scores: Tensor, bias: Tensor, width: float = 0.01) -> Tensor:
    """How the loads answer the biases, (E, E): entry [i, j] is d load_i / d bias_j, by central differences.

    scores: (tokens, E), many tokens. bias: (E,). The matrix is symmetric, up to noise, and has no negative eigenvalue.
    """
    def load(at: Tensor):
        return balance.load(choose(scores, at)[0][None, :, None], len(bias))[0]

    nudges = width * torch.eye(len(bias))
    return torch.stack([(load(bias + nudge) - load(bias - nudge)) / (2 * width) for nudge in nudges], dim=1)


def noise_floor(tokens: int, num_experts: int = 16, draws: int = 200) -> float:
    """The MaxVio that `tokens` tokens show when every expert is equally likely: no balancer can do better."""
    routes = torch.randint(num_experts, (1, tokens, draws), generator=torch.Generator().manual_seed(0))
    return float(balance.max_violation(balance.load(routes, num_experts)).mean())


def steps_to(load: Tensor, threshold: float = THRESHOLD) -> int:
    """Steps until the load entropy first reaches the threshold; all of them if it never does. load: (steps, E)."""
    reached = balance.entropy(load) >= threshold
    return int(reached.float().argmax()) if reached.any() else len(load)


# ---- pictures --------------------------------------------------------------------------------------------------------


def six_rules(num_experts: int = 16) -> dict:
    """Fresh balancers for the signature picture."""
    return {
        "none": balance.SignBalancer(num_experts, lr=0.0),
        "P": balance.PIDBalancer(num_experts, kp=0.2, ki=0.0),
        "PI": balance.PIDBalancer(num_experts, kp=0.1, ki=0.2),
        "PID": balance.PIDBalancer(num_experts, kp=0.1, ki=0.2, kd=0.1),
        "sign": balance.SignBalancer(num_experts, lr=1e-2),
        "AdamW": balance.AdamWBalancer(num_experts, lr=1e-2, betas=(0.9, 0.95)),
    }


@styled
def over_steps(loads: dict[str, Tensor] | None = None, shift: int | None = 120, tokens: int = 4096) -> Figure:
    """Load entropy (the shape of the report's Fig. 4) and MaxVio over steps.

    loads: name -> (steps, E), from `simulate` with this `shift` and these `tokens`; None: the rules of this lesson.
    """
    loads = loads or simulate(six_rules(), shift=shift, tokens=tokens)
    steps, experts = next(iter(loads.values())).shape
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), sharex=True)
    for name, load in loads.items():
        # PI is dashed and on top: it would hide under PID
        look = dict(color=RULES.get(name), label=name, linewidth=1.3, linestyle="--" if name == "PI" else "-",
                    zorder=3 if name == "PI" else 2)
        top.plot(balance.entropy(load), **look)
        bottom.plot(balance.max_violation(load), **look)
    top.axhline(THRESHOLD, color=GREEN, linestyle="--", linewidth=1)
    top.text(steps, THRESHOLD - 0.004, f"{THRESHOLD}", color=GREEN, ha="right", va="top")
    floor = noise_floor(tokens, experts)
    bottom.axhline(floor, color=GREEN, linestyle="--", linewidth=1)
    bottom.text(steps / 100, 0.042, f"dashed: what {tokens:,} tokens show under perfect balance", color=GREEN,
                va="bottom")
    if shift is not None:
        for axis in (top, bottom):
            axis.axvline(shift, color=COLOR["baseline"], linestyle=":", linewidth=1)
        top.text(shift + steps / 60, 0.805, "the data changes", color=COLOR["baseline"])
    top.set(ylabel="load entropy / ln E", ylim=(0.8, 1.003))
    bottom.set(ylabel="MaxVio", yscale="log", ylim=(0.04, experts / 2), yticks=(0.1, 0.3, 1, 3),
               yticklabels=("0.1", "0.3", "1", "3"), xlabel="step", xlim=(0, steps))
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=len(loads))
    return figure


@styled
def stability(shares: list[float], violations: dict[tuple[int, int], list[float]]) -> Figure:
    """MaxVio against the integral gain as a share of the predicted limit: flat below one, steep above it.

    violations: (delay, seed) -> one value a share.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.8))
    colors = dict(zip(sorted({delay for delay, _ in violations}), (BLUE, ORANGE, PURPLE)))
    for (delay, seed), values in violations.items():
        name = f"load {delay} steps late" if delay else "load of this step"
        axis.plot(shares, values, "o-", color=colors[delay], markersize=4, linewidth=1.2,
                  label=name if seed == min(s for _, s in violations) else None)
    axis.axvline(1, color=COLOR["baseline"], linestyle="--", linewidth=1)
    axis.text(1, axis.get_ylim()[1], " predicted limit", color=COLOR["baseline"], va="top")
    axis.set(xlabel="integral gain / predicted limit (one line a seed)", ylabel="MaxVio at the end", yscale="log",
             yticks=(0.1, 0.3, 1, 3), yticklabels=("0.1", "0.3", "1", "3"))
    figure.legend(loc="outside upper center", ncols=len(colors))
    return figure


@styled
def sharpnesses(violations: dict[str, dict[float, float]], floor: float) -> Figure:
    """MaxVio at the end against the sharpness of the router's scores, a line a rule; dashed: perfect balance.

    violations: rule -> sharpness -> value.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    for name, values in violations.items():
        slow = name.startswith("slow ")
        axis.plot(list(values), list(values.values()), "o:" if slow else "o-", markersize=4, label=name,
                  color=RULES[name.removeprefix("slow ")])
    axis.axhline(floor, color=GREEN, linestyle="--", linewidth=1)
    sharp = sorted(next(iter(violations.values())))
    axis.set(xscale="log", yscale="log", xlabel="sharpness of the scores (1: the router above)",
             ylabel="MaxVio at the end", xticks=sharp, xticklabels=[f"{value:g}" for value in sharp],
             yticks=(0.1, 0.3, 1, 3, 10), yticklabels=("0.1", "0.3", "1", "3", "10"))
    axis.minorticks_off()
    figure.legend(loc="outside upper center", ncols=len(violations))
    return figure


@styled
def while_training(results: list[dict], variants: list[str]) -> Figure:
    """Load entropy of training models: the mean over seeds, and a band from the lowest to the highest seed."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    for variant, color in zip(variants, (ORANGE, PURPLE, BLUE, COLOR["baseline"], PURPLE, BLUE)):
        series = torch.tensor([run["entropy"] for run in results if run["variant"] == variant])
        smooth = series.unfold(1, 10, 1).mean(-1)                        # over ten steps
        steps = range(10, series.shape[1] + 1)
        axis.plot(steps, smooth.mean(0), "--" if "PI" in variant else "-", color=color, label=variant)
        axis.fill_between(steps, smooth.amin(0), smooth.amax(0), color=color, alpha=0.15, linewidth=0)
    axis.axhline(THRESHOLD, color=GREEN, linestyle="--", linewidth=1, label=f"{THRESHOLD}")
    axis.set(xlabel="training step", ylabel="load entropy / ln E", ylim=(0, 1.02), xlim=(0, series.shape[1]))
    figure.legend(loc="outside upper center", ncols=2, fontsize=8.5)
    return figure
