"""Advantages: how much better an answer was than the others to the same problem.

G answers are drawn for each problem; r is 1 for a right one, else 0 (MaxRL allows any r >= 0). A policy gradient then
raises the log-probability of an answer in proportion to its advantage:

    MaxRL      (r - mean) / mean        zero where nothing was right
    GRPO       (r - mean) / (std + eps)
    Dr-GRPO     r - mean

What MaxRL climbs: the gradient of a pass rate p gets the weight w = sum_{k < T} (1 - p)^k, which grows from 1
(REINFORCE, T = 1) to 1 / p (maximum likelihood, T without end). Problems that are seldom solved count more. With G
answers, w is exactly that of T = G - 1 (`rl.maxrl_order` checks it by going through all outcomes): one order is lost
because a group without a right answer is left out. Kept in, with the baseline's term -sum of grad log p, it would be
T = G; but such a group teaches only what not to do, and the report drops it.

Sources: MaxRL, Tajwar et al. (arXiv 2602.02710), equation 7 of the ZAYA1-8B report; GRPO, Shao et al. (arXiv
2402.03300); Dr-GRPO, Liu et al. (arXiv 2503.20783).
"""

import torch
from torch import Tensor


def check_rewards(rewards: Tensor, name: str = "rewards") -> Tensor:
    """Raises ValueError unless `rewards` is a finite float (groups, G)."""
    if not isinstance(rewards, Tensor) or not rewards.is_floating_point() or rewards.dim() != 2 or rewards.shape[1] < 1:
        given = f"{rewards.dtype} {tuple(rewards.shape)}" if isinstance(rewards, Tensor) else repr(rewards)
        raise ValueError(f"{name} must be a float tensor (groups, G), got {given}")
    if not bool(rewards.isfinite().all()):
        raise ValueError(f"{name} must be finite, got {rewards.tolist()}")
    return rewards


def maxrl_advantage(rewards: Tensor, bonus: Tensor | None = None) -> Tensor:
    """(r + bonus - mean(r + bonus)) / mean(r); zero for a group whose rewards are all zero.

    Args:
        rewards: float (groups, G), not negative. bonus: float (groups, G) or None, such as `reward.length_bonus`. It
            moves the numerator only, so it never changes how much a problem counts (report, below equation 7). The
            report does not say whether the bonus is centred with the rewards; here it is, so that advantages of a
            group add up to zero.
    Returns:
        float (groups, G).
    Raises:
        ValueError: shapes that disagree, numbers that are negative or not finite.
    """
    if bool((check_rewards(rewards) < 0).any()):
        raise ValueError(f"rewards must not be negative for MaxRL, got {float(rewards.min())}")
    mean = rewards.mean(-1, keepdim=True)
    shaped = rewards
    if bonus is not None:
        if check_rewards(bonus, "bonus").shape != rewards.shape:
            raise ValueError(f"bonus must have the shape of rewards, {tuple(rewards.shape)}, got {tuple(bonus.shape)}")
        shaped = rewards + bonus
    centred = shaped - shaped.mean(-1, keepdim=True)
    # trap: torch.where evaluates both sides; dividing by a mean of zero first would put NaN into a gradient
    return torch.where(mean > 0, centred / mean.masked_fill(mean == 0, 1.0), torch.zeros_like(centred))


def grpo_advantage(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """(r - mean) / (std + eps), the standard deviation over G - 1: float (groups, G) -> same. G >= 2.

    It weighs a problem by 1 / sqrt(p (1 - p)): the nearly solved as much as the nearly unsolved. The behavioural stage
    uses it, because its scores are graded and have no natural zero.
    """
    if check_rewards(rewards).shape[1] < 2:
        raise ValueError(f"rewards must hold at least 2 answers a group, got {rewards.shape[1]}")
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + eps)


def dr_grpo_advantage(rewards: Tensor) -> Tensor:
    """r - mean, nothing else: float (groups, G) -> same. Every problem weighs p's plain gradient."""
    return check_rewards(rewards) - rewards.mean(-1, keepdim=True)


def mixed(rewards: Tensor) -> Tensor:
    """Dynamic sampling: bool (groups,), True where not all rewards of a group are equal.

    The others have no advantage to speak of, and would only thin the batch out.
    """
    check_rewards(rewards)
    return (rewards != rewards[:, :1]).any(-1)
