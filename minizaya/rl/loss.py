"""From advantages to a loss: DPPO's mask, and one sum over tokens with a constant divisor.

    ratio    = exp(logp - logp_rollout)                          of the token that was sampled
    mask     = 0 where the token's probability has moved further than delta, the way in which the advantage pushes
    loss     = - sum over answers and tokens of  mask * ratio * advantage,  / (answers * length)

PPO bounds the ratio, so a token of probability 1e-4 may hardly move, and one of 0.5 may move by 0.1 and more. DPPO
bounds the probability itself: |p - p_rollout| is the total variation between the two policies, looked at as "this token
or another". The gradient of a token outside the bound is dropped, not clipped.

`length` is a constant (Dr-GRPO): dividing by an answer's own length would make a long wrong answer cheaper than a short
one.

Sources: DPPO with binary TV, Qi et al. (arXiv 2602.04879); ZAYA1-8B report, section IV-B, delta = 0.1.
"""

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # exp(20) is beyond any mask; it keeps a broken batch from overflowing


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0, kept: Tensor | None = None) -> Tensor:
    """log softmax(logits / temperature) of the given tokens, in float32 or wider.

    Args:
        logits: (..., vocab). tokens: int64 (...,).
        kept: bool (..., vocab) or None, what top-p and min-p left at sampling. The rest gets probability zero and the
            kept share one, as for the sampler. trap: without it the trainer believes in another distribution than the
            one that was sampled, and every ratio is off by the mass that was cut.
    Returns:
        (...,). Minus infinity where a token was not kept.
    """
    wide = logits.double() if logits.dtype == torch.float64 else logits.float()
    least = torch.finfo(wide.dtype).tiny  # trap: a smaller temperature is zero in float32, and 0 / 0 is NaN
    wide = (wide - wide.amax(-1, keepdim=True).detach()) / max(temperature, least)  # the other way round: inf - inf
    if kept is not None:
        wide = wide.masked_fill(~kept, float("-inf"))
    return wide.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def dppo_mask(logp: Tensor, logp_rollout: Tensor, advantage: Tensor, delta: float = 0.1,
              directional: bool = True) -> Tensor:
    """True where a token keeps its gradient.

    Args:
        logp, logp_rollout: (...,) log-probabilities of the sampled tokens, by the trainer now and by the generator
            then. trap: the generator's own numbers, not the trainer's forward over the same tokens.
        advantage: broadcastable to (...,). delta: largest move of a probability, in 0..1.
        directional: drop a token only if the update would push it further away: up and A > 0, down and A < 0 (the
            paper's form). The ZAYA1-8B report names no sign; False drops whatever has moved too far.
    Returns:
        bool (...,), without gradient.
    Raises:
        ValueError: delta outside 0..1, shapes that disagree.
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta must lie in 0..1, it bounds the move of a probability, got {delta!r}")
    if logp.shape != logp_rollout.shape:
        raise ValueError("logp and logp_rollout must have one shape, "
                         f"got {tuple(logp.shape)} and {tuple(logp_rollout.shape)}")
    moved = logp.detach().exp() - logp_rollout.exp()
    if not directional:
        return moved.abs() <= delta
    advantage = advantage.expand(logp.shape)
    return ~(((advantage > 0) & (moved > delta)) | ((advantage < 0) & (moved < -delta)))


def policy_loss(logp: Tensor, logp_rollout: Tensor, advantage: Tensor, valid: Tensor, length: float,
                delta: float = 0.1, directional: bool = True) -> Tensor:
    """The loss of a batch of answers: a scalar.

    Args:
        logp, logp_rollout: (answers, t). advantage: (answers,). valid: bool (answers, t), True on the sampled tokens.
        length: the constant that every answer's sum is divided by, such as the largest budget.
        delta, directional: see `dppo_mask`.
    Raises:
        ValueError: as `dppo_mask`; length not positive.

    Sequence mean of token sums (Dr-GRPO): every token of every answer weighs the same.
    """
    if not length > 0:
        raise ValueError(f"length must be positive, got {length!r}")
    # padding may hold anything, also minus infinity: out with it before it is multiplied
    logp = logp.masked_fill(~valid, 0.0)
    logp_rollout = logp_rollout.masked_fill(~valid, 0.0)
    advantage = advantage[:, None]
    keep = dppo_mask(logp, logp_rollout, advantage, delta, directional) & valid
    ratio = (logp - logp_rollout).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return -(keep * ratio * advantage).sum() / (len(logp) * length)
