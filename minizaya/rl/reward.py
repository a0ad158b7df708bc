"""What an answer earns beyond being right: shortness, where a problem is solved well enough; style, where it obeys.

The length bonus (report, equations 8-10) is for right answers alone, and is scaled by the pass rate: on a hard problem
there is nothing to save. It opens only when the model is about as good on that source as it has ever been, so that
shortness is never bought with mistakes.
"""

import torch
from torch import Tensor

from .advantage import check_rewards


def length_bonus(rewards: Tensor, lengths: Tensor, longest: float, best_rate: float = 0.0, slack: float = 0.0,
                 rate_slack: float = 0.1, scale: float = 1.0) -> Tensor:
    """scale * p * gate * lambda, for each answer, in -scale/2 .. scale/2.

        lambda = 1/2 - clamp((l - l_min) / (longest - l_min), 0, 1),   or 1/2 where l <= l_min + slack
        gate   = [p > best_rate - rate_slack] [p > 1 / G] [r = 1]

    Args:
        rewards: float (groups, G), 0 or 1. lengths: (groups, G), tokens of each answer.
        longest: the budget, a constant. best_rate: the highest pass rate that this source of problems has had so far.
        slack: so many tokens over the shortest right answer cost nothing. rate_slack: T_acc. scale: c, raised to 1
            during training.
    Returns:
        float (groups, G); p is a group's mean reward, l_min its shortest right answer.
    Raises:
        ValueError: rewards other than 0 and 1, shapes that disagree.
    """
    check_rewards(rewards)
    if lengths.shape != rewards.shape:
        raise ValueError(f"lengths must have the shape of rewards, {tuple(rewards.shape)}, got {tuple(lengths.shape)}")
    if not bool(((rewards == 0) | (rewards == 1)).all()):
        raise ValueError(f"rewards must be 0 or 1 for the length bonus, got {rewards.tolist()}")
    right, lengths = rewards == 1, lengths.to(rewards.dtype)
    rate = rewards.mean(-1, keepdim=True)
    shortest = lengths.masked_fill(~right, float("inf")).amin(-1, keepdim=True)
    shortest = torch.where(right.any(-1, keepdim=True), shortest, torch.zeros_like(shortest))  # the gate is 0 there
    span = (longest - shortest).clamp_min(1.0)  # a shortest answer that fills the budget leaves nothing to tell apart
    share = 0.5 - ((lengths - shortest) / span).clamp(0, 1)
    share = torch.where(lengths <= shortest + slack, torch.full_like(share, 0.5), share)
    gate = right & (rate > best_rate - rate_slack) & (rate > 1 / rewards.shape[1])
    return scale * rate * gate * share


def style_score(text: str, cue: str = "#", end: str = "$") -> float:
    """How plainly an answer is written, in 0..1: one cue, one end mark at the very end, and no passage written twice.

    A rule, not a judge: the share of the reasoning's four-character pieces that occur once. An answer without a cue or
    without an end scores 0.
    """
    if text.count(cue) != 1 or not text.endswith(end) or text.count(end) != 1:
        return 0.0
    reasoning = text.partition(cue)[0]
    pieces = [reasoning[i: i + 4] for i in range(len(reasoning) - 3)]
    return len(set(pieces)) / len(pieces) if pieces else 1.0


def behaviour_reward(text: str, obeyed: bool) -> float:
    """The style score, if the instruction was obeyed; else 0. So style can never make up for a wrong answer."""
    return style_score(text) if obeyed else 0.0


def signed_kl_reward(rewards: Tensor, logp: Tensor, logp_rollout: Tensor, valid: Tensor, beta: float) -> Tensor:
    """reward - beta * sum over tokens of (logp - logp_rollout): what NOT to do, kept for lesson 11.

    rewards: (answers,); logp, logp_rollout: (answers, t); valid: bool (answers, t). Returns (answers,).

    Report, equations 17-22: on tokens that the rollout policy sampled, logp - logp_rollout has the mean -KL <= 0. A
    longer answer has more such tokens, so under a stale policy this "penalty" pays for length.
    """
    return rewards - beta * ((logp - logp_rollout) * valid).sum(-1)
