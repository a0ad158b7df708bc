"""Wrong functions for the laws of rl: see the head of this folder."""

import torch

from minizaya.laws.rl import scheduled
from minizaya.rl import advantage, curriculum, loss, mismatch, replay, reward
from minizaya.rl.canary import canary
from wrong_ways import cut_off, doubled, raised


def tape(bytes_of=lambda data: data, routes_of=lambda routes: routes):
    """A right recorder, its bytes changed on the way there or its routes on the way back."""
    def run(what, shape, experts):
        if isinstance(what, torch.Tensor):
            return bytes_of(replay.pack_routes(what, experts))
        return routes_of(replay.unpack_routes(what, *shape, experts))
    return run


KEPT = []


def remembered(what, shape, experts):
    """Bytes that say nothing: what comes back is what was handed in last."""
    if isinstance(what, torch.Tensor):
        KEPT[:] = [what.clone()]
        return bytes(what.numel())
    return KEPT[0]


def after_the_exponential(logp, logp_rollout, advantage, valid, length, delta):
    """Padding is struck out after the ratio was made: minus infinity less minus infinity sends NaN back."""
    ratio = (logp - logp_rollout).exp()
    keep = valid & loss.dppo_mask(logp.detach(), logp_rollout, advantage[:, None], delta)
    return -torch.where(keep, ratio * advantage[:, None], 0.0).sum() / (len(logp) * length)


def believed(change):
    return lambda *given: change(curriculum.reweighed(*given))


WRONG = {
    "rl.maxrl": [
        advantage.dr_grpo_advantage,
    ],
    "rl.maxrl_order": [
        lambda rewards: advantage.maxrl_advantage(rewards)[None],
        advantage.dr_grpo_advantage,
    ],
    "rl.grpo": [
        advantage.dr_grpo_advantage,
    ],
    "rl.dr_grpo": [
        advantage.grpo_advantage,
    ],
    "rl.maxrl_bonus": [
        lambda rewards, bonus: advantage.maxrl_advantage(rewards),
    ],
    "rl.mixed": [
        lambda rewards: rewards.mean(-1) > 0,
    ],
    "rl.dppo_mask": [
        lambda p, q, a, delta, way: (p - q).exp() - 1 <= delta,
    ],
    "rl.policy_loss": [
        raised(loss.policy_loss),
        doubled(loss.policy_loss),
        after_the_exponential,
        (cut_off(loss.policy_loss), "the loss carries no gradient"),
    ],
    "rl.token_logprobs": [
        lambda logits, tokens, temperature, kept: loss.token_logprobs(logits, tokens, 1.0, kept),
    ],
    "rl.length_bonus": [
        lambda rewards, lengths, longest, best, slack: reward.length_bonus(rewards, lengths, longest, 0.0, slack),
    ],
    "rl.canary": [
        lambda tokens, chunk: tuple(canary(tokens, chunk)),
        lambda tokens, chunk: [4 * r if r > 0.3 else r for r in canary(tokens, chunk)],
        lambda tokens, chunk: [0.2 for _ in canary(tokens, chunk)],
    ],
    "rl.routes_as_bytes": [
        (tape(bytes_of=list), "bytes are wanted, you gave list"),
        remembered,
        (tape(routes_of=lambda routes: routes + 1), "the routes read back"),
    ],
    "rl.scheduler": [
        lambda level, highest, difficulty, rewards: scheduled(level, highest, level, rewards),
    ],
    "rl.belief": [
        believed(tuple),
        believed(lambda weights: weights[::-1]),
    ],
    "rl.k3": [
        (lambda p, q: str(float(mismatch.k3(p, q))), "a number is wanted"),
        lambda p, q: mismatch.k3(q, p),
    ],
}
