"""Laws of reinforcement learning: advantages, the masked loss, the length bonus, the canary, routes as bytes. "rl."."""

import itertools
import math

import torch

from ..rl import advantage as adv
from ..rl import curriculum, mismatch
from ..rl import loss as lib
from ..rl import replay as tape
from ..rl import reward as pay
from ..rl.canary import canary as ratios
from ..rl.canary import repeats
from . import strategies as draw_a
from .core import expect, law, require

G_AXES = dict(rewards="g a")


def draw_rewards(draw):
    groups, size = draw_a.size(draw, 1, 3), draw_a.size(draw, 2, 5)
    high = draw_a.pick(draw, (1, 4))  # right and wrong, or graded
    return dict(rewards=draw_a.integers(draw, groups, size, low=0, high=high).double() / high)


def graded(rewards):
    return [[float(r) for r in row] for row in rewards]


@law("rl.maxrl", "(reward - mean) / mean of the group; zero where nothing was right", cases=draw_a.cases(draw_rewards),
     axes=G_AXES, subjects={"maxrl_advantage": adv.maxrl_advantage}, guards=[adv.maxrl_advantage])
def maxrl(fn, rewards):
    """fn(rewards): float (groups, G), not negative -> advantages, the same shape."""
    wanted = []
    for row in graded(rewards):
        mean = sum(row) / len(row)
        wanted.append([(r - mean) / mean if mean else 0.0 for r in row])
    expect(fn(rewards), torch.tensor(wanted, dtype=torch.float64), "g a")


# The expected gradient over all outcomes of G independent answers, each right with probability p. For one answer the
# gradient of log pi in p is 1 / p if it is right and -1 / (1 - p) if it is wrong;
# advantages are averaged over the group.
@law("rl.maxrl_order",
     "with G answers a problem's gradient has the weight 1 + (1-p) + ... + (1-p)^(G-2), which is that of order G - 1",
     cases=draw_a.cases(lambda draw: dict(size=draw_a.size(draw, 2, 6), percent=draw_a.size(draw, 1, 99))), axes={},
     subjects={"maxrl_advantage": adv.maxrl_advantage}, guards=[adv.maxrl_advantage])
def maxrl_order(fn, size, percent):
    """fn(rewards): as in rl.maxrl."""
    p = percent / 100
    outcomes = list(itertools.product((0.0, 1.0), repeat=size))
    given = torch.tensor(outcomes, dtype=torch.float64)
    got = fn(given)
    require(got.shape == given.shape, f"for rewards {tuple(given.shape)} you gave shape {tuple(got.shape)}")
    chances = torch.tensor([p ** sum(o) * (1 - p) ** (size - sum(o)) for o in outcomes], dtype=torch.float64)
    slopes = given / p - (1 - given) / (1 - p)
    weight = (chances * (got * slopes).mean(-1)).sum()
    expect(weight, torch.tensor(sum((1 - p) ** k for k in range(size - 1)), dtype=torch.float64), "", "the weight")


@law("rl.grpo", "(reward - mean) / (standard deviation + 0.0001), the deviation over G - 1",
     cases=draw_a.cases(draw_rewards),
     axes=G_AXES, subjects={"grpo_advantage": adv.grpo_advantage}, guards=[adv.grpo_advantage])
def grpo(fn, rewards):
    """fn(rewards): float (groups, G), G >= 2 -> advantages, the same shape."""
    wanted = []
    for row in graded(rewards):
        mean = sum(row) / len(row)
        deviation = (sum((r - mean) ** 2 for r in row) / (len(row) - 1)) ** 0.5
        wanted.append([(r - mean) / (deviation + 1e-4) for r in row])
    expect(fn(rewards), torch.tensor(wanted, dtype=torch.float64), "g a")


@law("rl.dr_grpo", "reward - mean, divided by nothing", cases=draw_a.cases(draw_rewards), axes=G_AXES,
     subjects={"dr_grpo_advantage": adv.dr_grpo_advantage}, guards=[adv.dr_grpo_advantage])
def dr_grpo(fn, rewards):
    """fn(rewards): float (groups, G) -> advantages, the same shape."""
    wanted = [[r - sum(row) / len(row) for r in row] for row in graded(rewards)]
    expect(fn(rewards), torch.tensor(wanted, dtype=torch.float64), "g a")


def draw_bonus(draw):
    case = draw_rewards(draw)
    return case | dict(bonus=draw_a.tensor(draw, *case["rewards"].shape))


@law("rl.maxrl_bonus", "a bonus joins the numerator, centred with the rewards; the denominator stays the mean reward",
     cases=draw_a.cases(draw_bonus), axes=G_AXES | dict(bonus="g a"), subjects={"maxrl_advantage": adv.maxrl_advantage},
     guards=[adv.maxrl_advantage])
def maxrl_bonus(fn, rewards, bonus):
    """fn(rewards, bonus): float (groups, G) each -> advantages, the same shape."""
    wanted = []
    for row, extra in zip(graded(rewards), graded(bonus)):
        mean, shaped = sum(row) / len(row), [r + b for r, b in zip(row, extra)]
        wanted.append([(s - sum(shaped) / len(shaped)) / mean if mean else 0.0 for s in shaped])
    expect(fn(rewards, bonus), torch.tensor(wanted, dtype=torch.float64), "g a")


@law("rl.mixed", "a group teaches if its rewards are not all equal", cases=draw_a.cases(draw_rewards), axes=G_AXES,
     subjects={"mixed": adv.mixed}, guards=[adv.mixed])
def mixed(fn, rewards):
    """fn(rewards): float (groups, G) -> bool (groups,), True for the groups to train on."""
    expect(fn(rewards), torch.tensor([len(set(row)) > 1 for row in graded(rewards)]), "g")


# ---- the loss --------------------------------------------------------------------------------------------------------


def draw_tokens(draw):
    n, t = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 4)
    old = draw_a.integers(draw, n, t, low=1, high=9).double() / 10
    new = draw_a.integers(draw, n, t, low=1, high=9).double() / 10
    return dict(logp=new.log(), logp_rollout=old.log(), advantage=draw_a.integers(draw, n, low=-2, high=2).double(),
                delta=draw_a.pick(draw, (0.15, 0.35)))


T_AXES = dict(logp="a t", logp_rollout="a t", advantage="a")


def kept(p: float, q: float, a: float, delta: float, directional: bool) -> bool:
    if directional:
        return not (a > 0 and p - q > delta or a < 0 and p - q < -delta)
    return abs(p - q) <= delta


def just_delta():
    """Moves of exactly delta, up and down: 1/2 and 1/4 have logarithms whose exponentials give them back."""
    up, down = torch.tensor([[0.5]], dtype=torch.float64).log(), torch.tensor([[0.25]], dtype=torch.float64).log()
    return [dict(logp=now, logp_rollout=then, advantage=torch.tensor([sign], dtype=torch.float64), delta=0.25,
                 directional=directional)
            for now, then, sign in ((up, down, 1.0), (down, up, -1.0)) for directional in (True, False)]


@law("rl.dppo_mask",
     "a token is dropped if its probability has moved further than delta, the way its advantage pushes it",
     cases=draw_a.cases(lambda draw: draw_tokens(draw) | dict(directional=draw_a.flag(draw))), axes=T_AXES,
     always=just_delta, subjects={"dppo_mask": lambda p, q, a, d, way: lib.dppo_mask(p, q, a, d, way)},
     guards=[lib.dppo_mask])
def dppo_mask(fn, logp, logp_rollout, advantage, delta, directional):
    """fn(logp, logp_rollout, advantage, delta, directional): log-probabilities (n, t) now and at the rollout, advantage
    (n, 1), delta float, directional bool (False: drop whatever has moved too far) -> bool (n, t), True where kept."""
    p, q = logp.exp().tolist(), logp_rollout.exp().tolist()
    wanted = [[kept(x, y, float(a), delta, directional) for x, y in zip(*rows)] for *rows, a in zip(p, q, advantage)]
    expect(fn(logp, logp_rollout, advantage[:, None], delta, directional), torch.tensor(wanted), "a t")


@law("rl.policy_loss",
     "minus the sum of ratio times advantage over the kept tokens of all answers, by answers times a constant",
     cases=draw_a.cases(
         lambda draw: draw_tokens(draw) | dict(length=draw_a.size(draw, 1, 9), cut=draw_a.size(draw, 0, 3))
     ),
     axes=T_AXES, subjects={"policy_loss": lib.policy_loss}, guards=[lib.policy_loss, lib.dppo_mask])
def policy_loss(fn, logp, logp_rollout, advantage, delta, length, cut):
    """fn(logp, logp_rollout, advantage, valid, length, delta): log-probabilities (n, t), advantage (n,), valid bool
    (n, t), length and delta float -> the loss, a scalar. Gradients flow through logp alone; what is not valid may be
    anything, also minus infinity."""
    valid = torch.ones_like(logp, dtype=torch.bool)
    valid[0, logp.shape[1] - cut:] = cut == 0
    valid[-1, -1] = False                     # there is always some padding
    # trap: a `where` between leaf and fn would swallow the NaN that padding may send back
    leaf = torch.where(valid, logp, float("-inf")).requires_grad_(True)
    loss = fn(leaf, torch.where(valid, logp_rollout, float("-inf")), advantage, valid, float(length), delta)
    total, slopes = 0.0, torch.zeros_like(logp)
    for i in range(len(logp)):
        for t in range(logp.shape[1]):
            p, q, a = float(logp[i, t].exp()), float(logp_rollout[i, t].exp()), float(advantage[i])
            if valid[i, t] and kept(p, q, a, delta, True):
                total -= p / q * a
                slopes[i, t] = -p / q * a
    scale = len(logp) * length
    expect(loss, torch.tensor(total / scale, dtype=torch.float64), "", "the loss")
    require(loss.requires_grad, "the loss carries no gradient, so nothing could learn")
    gradient, = torch.autograd.grad(loss, leaf)
    expect(gradient, slopes / scale, "a t", "gradient of logp")


def draw_logits(draw):
    n, v = draw_a.size(draw, 1, 3), draw_a.size(draw, 2, 5)
    tokens = draw_a.integers(draw, n, low=0, high=v - 1)
    left = draw_a.integers(draw, n, v, low=0, high=1).bool()
    left[torch.arange(n), tokens] = True
    return dict(logits=draw_a.tensor(draw, n, v), tokens=tokens, temperature=draw_a.pick(draw, (1.0, 0.5)), kept=left)


@law("rl.token_logprobs", "a sampled token's log-probability among the tokens that the sampler kept",
     cases=draw_a.cases(draw_logits), axes=dict(logits="n v", tokens="n", kept="n v"),
     subjects={"token_logprobs": lib.token_logprobs}, guards=[lib.token_logprobs])
def token_logprobs(fn, logits, tokens, temperature, kept):
    """fn(logits, tokens, temperature, kept): float (n, vocab), int64 (n,), float, bool (n, vocab) -> float (n,)."""
    wanted = []
    for row, token, left in zip((logits / temperature).exp().tolist(), tokens.tolist(), kept.tolist()):
        wanted.append(math.log(row[token] / sum(weight for weight, stays in zip(row, left) if stays)))
    expect(fn(logits, tokens, temperature, kept), torch.tensor(wanted, dtype=torch.float64), "n")


# ---- rewards and canaries --------------------------------------------------------------------------------------------


def draw_lengths(draw):
    groups, size = draw_a.size(draw, 1, 3), draw_a.size(draw, 1, 5)
    return dict(rewards=draw_a.integers(draw, groups, size, low=0, high=1).double(),
                lengths=draw_a.integers(draw, groups, size, low=1, high=12), longest=draw_a.pick(draw, (12.0, 6.0)),
                best_rate=draw_a.pick(draw, (0.0, 0.5, 0.9)), slack=draw_a.size(draw, 0, 2))


@law("rl.length_bonus",
     "right answers earn for shortness, times the pass rate, where that is near its best and above 1 / G",
     cases=draw_a.cases(draw_lengths), axes=dict(rewards="g a", lengths="g a"), examples=80,
     subjects={"length_bonus": pay.length_bonus}, guards=[pay.length_bonus])
def length_bonus(fn, rewards, lengths, longest, best_rate, slack):
    """fn(rewards, lengths, longest, best_rate, slack): rewards 0 or 1, lengths int64, both (groups, G); longest: the
    budget; best_rate: the best pass rate so far, at most 0.1 above this one's; slack: tokens over the shortest right
    answer that cost nothing -> float (groups, G)."""
    wanted = []
    for row, sizes in zip(graded(rewards), lengths.tolist()):
        rate, right = sum(row) / len(row), [n for r, n in zip(row, sizes) if r]
        line = []
        for r, n in zip(row, sizes):
            if not r or rate <= best_rate - 0.1 or rate <= 1 / len(row):
                line.append(0.0)
                continue
            least = min(right)
            share = 0.5 if n <= least + slack else 0.5 - min(max((n - least) / max(1.0, longest - least), 0.0), 1.0)
            line.append(rate * share)
        wanted.append(line)
    expect(fn(rewards, lengths, longest, best_rate, slack), torch.tensor(wanted, dtype=torch.float64), "g a")


def draw_loop(draw):
    return dict(period=draw_a.size(draw, 1, 12), start=draw_a.size(draw, 0, 40), length=draw_a.size(draw, 1, 330),
                seed=draw_a.size(draw, 0, 99))


@law("rl.canary",
     "one ratio a chunk, a short last chunk joined to the one before; a loop compresses far better than chance",
     cases=draw_a.cases(draw_loop), axes={}, subjects={"canary": ratios}, guards=[ratios, repeats])
def canary(fn, period, start, length, seed):
    """fn(tokens, chunk): a list of ids in 0..2^32-1, and the tokens of a chunk -> a list of float, compressed size over
    size, each chunk seen with the ones before."""
    chance = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 50_000, (length,), generator=chance).tolist()
    loop = [*noise[:start], *(noise[i % period] for i in range(max(0, length - start)))]
    loop = loop[:length]
    for text in (noise, loop):
        got = fn(list(text), 64)
        require(isinstance(got, list) and len(got) == max(1, len(text) // 64),
                f"for {len(text)} tokens in chunks of 64 you gave "
                f"{len(got) if isinstance(got, list) else got!r} ratios, the law "
                f"wants {max(1, len(text) // 64)}")
        require(all(0 < ratio <= 2 for ratio in got), f"ratios lie between 0 and 2, you gave {got}")
    if length >= 192 and start < 64:
        random, looping = fn(noise, 64)[-1], fn(loop, 64)[-1]
        require(looping < 0.12 < 0.3 < random,
                f"the last chunk of a loop has {looping:.3f}, of random ids {random:.3f}")


def draw_tape(draw):
    tokens, layers, experts = draw_a.size(draw, 1, 4), draw_a.size(draw, 1, 3), draw_a.pick(draw, (1, 4, 254))
    routes = draw_a.integers(draw, tokens, layers, low=0, high=experts).to(torch.int16)
    if draw_a.flag(draw):
        routes[-1] = -1
    return dict(routes=routes, num_experts=experts)


def both_ways(what, shape: tuple[int, int], num_experts: int):
    """Routes to bytes, bytes to routes."""
    if isinstance(what, torch.Tensor):
        return tape.pack_routes(what, num_experts)
    return tape.unpack_routes(what, *shape, num_experts)


@law("rl.routes_as_bytes",
     "routes come back from bytes as they were, -1 too: one byte a token and layer, token by token",
     cases=draw_a.cases(draw_tape), axes=dict(routes="t l"), subjects={"replay": both_ways},
     always=lambda: [dict(routes=torch.tensor([[254], [-1]], dtype=torch.int16), num_experts=254)],
     guards=[tape.pack_routes, tape.unpack_routes])
def routes_as_bytes(fn, routes, num_experts):
    """fn(what, shape, num_experts): int16 routes (tokens, layers), -1 for not recorded, num_experts for skip -> bytes;
    and such bytes -> the int16 routes of this shape. Records are cut and joined as bytes."""
    (tokens, layers), data = routes.shape, fn(routes, tuple(routes.shape), num_experts)
    require(isinstance(data, (bytes, bytearray)) and len(data) == routes.numel(),
            f"{routes.numel()} bytes are wanted, you gave "
            f"{len(data) if isinstance(data, (bytes, bytearray)) else type(data).__name__}")
    expect(fn(bytes(data), (tokens, layers), num_experts), routes, "t l", "the routes read back")
    # bytes that it has never made: an answer that remembers its routes has nothing to remember
    twice = fn(bytes(data[:layers] + data), (tokens + 1, layers), num_experts)
    expect(twice, torch.cat([routes[:1], routes]), "t l", "routes of the first token's bytes, then of all")


# ---- curriculum and mismatch -----------------------------------------------------------------------------------------


def scheduled(level: int, highest: int, difficulty: int, rewards: list[float]) -> int:
    return curriculum.Scheduler({"task": level}, {"task": highest}).update("task", difficulty, rewards)


def draw_group(draw):
    highest = draw_a.size(draw, 1, 5)
    level = draw_a.size(draw, 1, highest)
    near = draw_a.size(draw, max(1, level - 1), min(highest, level + 1))
    size = draw_a.pick(draw, (4, 10))
    return dict(level=level, highest=highest, difficulty=near, right=draw_a.size(draw, 0, size), size=size)


def borders():
    """Groups of ten at the borders: none right, one, exactly 70%, more; at the lowest level, between, and the top. And
    71% of seven, which is more than 70%."""
    return [dict(level=1, highest=3, difficulty=1, right=5, size=7),
            *(dict(level=level, highest=3, difficulty=level, right=right, size=10)
              for level in (1, 2, 3) for right in (0, 1, 7, 8, 10))]


@law("rl.scheduler",
     "up by one if over 70% of a group at the present level passed, down by one if none did, within 1..highest",
     cases=draw_a.cases(draw_group), always=borders, axes={}, examples=150, subjects={"Scheduler": scheduled},
     guards=[curriculum.Scheduler.update])
def scheduler(fn, level, highest, difficulty, right, size):
    """fn(level, highest, difficulty, rewards): the task's present level, its highest one, the level at which this group
    was asked, and the group's rewards, a list of 0.0 and 1.0 -> the new level, int."""
    rewards = [1.0] * right + [0.0] * (size - right)
    got = fn(level, highest, difficulty, rewards)
    wanted = level
    if difficulty == level:
        wanted = min(level + 1, highest) if 10 * right > 7 * size else max(level - 1, 1) if right == 0 else level
    require(isinstance(got, int) and got == wanted,
            f"at level {level} of {highest}, {right} of {size} right at difficulty {difficulty}: you gave {got!r}, the "
            f"law wants {wanted}")


def draw_belief(draw):
    count = draw_a.size(draw, 1, 4)
    shares = [draw_a.size(draw, 1, 5) for _ in range(count)]
    asked = draw_a.pick(draw, (1, 400))
    return dict(particles=[(float(draw_a.size(draw, 1, 9)), draw_a.pick(draw, (0.5, 2.0))) for _ in range(count)],
                weights=[share / sum(shares) for share in shares], difficulty=draw_a.size(draw, 1, 9),
                asked=asked, right=draw_a.size(draw, 0, asked))


def surprises():
    """Curves that are all but certain, and outcomes that they thought impossible: rates under 1e-6 and over."""
    curves = dict(particles=[(1.0, 0.5), (9.0, 0.5)], weights=[0.5, 0.5])
    both = dict(particles=[(1.0, 0.5), (3.0, 0.5)], weights=[0.5, 0.5], difficulty=9, asked=400, right=200)
    return [both, *(curves | dict(difficulty=difficulty, asked=asked, right=right)
                    for difficulty in (1, 9) for asked in (1, 400) for right in (0, 1, asked))]


@law("rl.belief", "each curve's weight is multiplied by the chance it gave to the outcome, and weights add up to one",
     cases=draw_a.cases(draw_belief), always=surprises, axes={}, examples=100,
     subjects={"reweighed": curriculum.reweighed}, guards=[curriculum.reweighed])
def belief(fn, particles, weights, difficulty, asked, right):
    """fn(particles, weights, difficulty, right, asked): particles is a list of (mu, s), the pass rate being
    1 / (1 + exp((difficulty - mu) / s)); weights a list that adds up to one; right of asked answers were right -> the
    new weights, a list of float. asked may be 400."""
    got = fn(list(particles), list(weights), difficulty, right, asked)
    require(isinstance(got, list) and len(got) == len(weights),
            f"a list of {len(weights)} weights is wanted, you gave {got!r}")
    logs = []
    for (mu, s), weight in zip(particles, weights):
        rate = 1 / (1 + math.exp((difficulty - mu) / s))
        rate = min(max(rate, 1e-6), 1 - 1e-6)
        logs.append(math.log(weight) + right * math.log(rate) + (asked - right) * math.log(1 - rate))
    shares = [math.exp(value - max(logs)) for value in logs]
    wanted = torch.tensor([share / sum(shares) for share in shares], dtype=torch.float64)
    expect(torch.tensor([float(x) for x in got], dtype=torch.float64), wanted, "m", "weight")


def draw_pair(draw):
    n = draw_a.size(draw, 1, 6)
    return dict(logp=-draw_a.tensor(draw, n).abs(), logp_rollout=-draw_a.tensor(draw, n).abs())


def far_apart():
    """A token that the two disagree about by a factor of e^5, either way."""
    far, near = torch.tensor([-6.0, -1.0], dtype=torch.float64), torch.tensor([-1.0, -6.0], dtype=torch.float64)
    return [dict(logp=far, logp_rollout=near)]


@law("rl.k3", "the mean of exp(L) - 1 - L, with L the trainer's log-probability minus the generator's",
     cases=draw_a.cases(draw_pair), always=far_apart,
     axes=dict(logp="n", logp_rollout="n"), subjects={"k3": mismatch.k3}, guards=[mismatch.k3, mismatch.agreement])
def k3(fn, logp, logp_rollout):
    """fn(logp, logp_rollout): float64 (n,) each, of the sampled tokens, by the trainer and by the generator -> a
    scalar, an estimate of KL(generator || trainer) that is never negative."""
    gaps = [a - b for a, b in zip(logp.tolist(), logp_rollout.tolist())]
    wanted = torch.tensor(sum(math.exp(gap) - 1 - gap for gap in gaps) / len(gaps), dtype=torch.float64)
    got = fn(logp, logp_rollout)
    require(isinstance(got, (torch.Tensor, float)), f"a number is wanted, you gave {got!r}")
    expect(torch.as_tensor(got, dtype=torch.float64), wanted, "", "k3")
