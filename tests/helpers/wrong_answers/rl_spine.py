"""Wrong answers to the exercises of lesson 11: exercise id -> what is wrong -> source.
Each changes one line of a right one."""

MAXRL = '''
def my_advantage(rewards):
    mean = rewards.mean(-1, keepdim=True)
    return torch.where(mean > 0, (rewards - mean) / mean.clamp_min(1e-12), torch.zeros_like(rewards))
'''
MASK = '''
def my_mask(logp, logp_rollout, advantage, delta, directional):
    moved = logp.exp() - logp_rollout.exp()
    if not directional:
        return moved.abs() <= delta
    return ~((advantage > 0) & (moved > delta) | (advantage < 0) & (moved < -delta))
'''
LOSS = '''
def my_loss(logp, logp_rollout, advantage, valid, length, delta):
    logp = logp.masked_fill(~valid, 0.0)
    old = logp_rollout.masked_fill(~valid, 0.0)
    moved, push = logp.detach().exp() - old.exp(), advantage[:, None]
    dropped = (push > 0) & (moved > delta) | (push < 0) & (moved < -delta)
    return -(valid & ~dropped).mul((logp - old).exp() * push).sum() / (len(logp) * length)
'''

WRONG = {
    "maxrl": {
        "divided by the sum": '''
def my_advantage(rewards):
    total = rewards.sum(-1, keepdim=True)
    mean = rewards.mean(-1, keepdim=True)
    return torch.where(total > 0, (rewards - mean) / total.clamp_min(1e-12), torch.zeros_like(rewards))
''',
        "the mean of the whole batch": MAXRL.replace("rewards.mean(-1, keepdim=True)", "rewards.mean()"),
        "divided by the deviation": MAXRL.replace("/ mean.clamp_min(1e-12)",
                                                  "/ (rewards.std(-1, keepdim=True) + 1e-4)"),
        "the mean of the others": MAXRL.replace(
            "(rewards - mean)", "(rewards - (mean * rewards.shape[-1] - rewards) / (rewards.shape[-1] - 1))"),
        "not divided": MAXRL.replace(" / mean.clamp_min(1e-12)", ""),
        "all-wrong groups keep the baseline": MAXRL.replace("torch.zeros_like(rewards)", "-torch.ones_like(rewards)"),
        "NaN where nothing was right": '''
def my_advantage(rewards):
    mean = rewards.mean(-1, keepdim=True)
    return (rewards - mean) / mean
''',
    },
    "mask": {
        "a move of exactly delta is dropped": MASK.replace("<= delta", "< delta").replace(
            "moved > delta", "moved >= delta").replace("moved < -delta", "moved <= -delta"),
        "a ratio of one plus delta": '''
def my_mask(logp, logp_rollout, advantage, delta, directional):
    ratio = (logp - logp_rollout).exp()
    if not directional:
        return (ratio - 1).abs() <= delta
    return ~((advantage > 0) & (ratio > 1 + delta) | (advantage < 0) & (ratio < 1 - delta))
''',
        "moves of the logarithm": '''
def my_mask(logp, logp_rollout, advantage, delta, directional):
    moved = logp - logp_rollout
    if not directional:
        return moved.abs() <= delta
    return ~((advantage > 0) & (moved > delta) | (advantage < 0) & (moved < -delta))
''',
        "PPO's ratio": MASK.replace("logp.exp() - logp_rollout.exp()", "(logp - logp_rollout).exp() - 1"),
        "the difference of logarithms": MASK.replace("logp.exp() - logp_rollout.exp()", "logp - logp_rollout"),
        "the directions exchanged": (MASK.replace("advantage > 0", "advantage <= 0")
                                     .replace("advantage < 0", "advantage >= 0")),
        "the move times the advantage": MASK.replace(
            "logp.exp() - logp_rollout.exp()", "(logp.exp() - logp_rollout.exp()) * advantage.abs()"),
        "no direction": MASK.replace("    if not directional:\n        return", "    return"),
        "True where dropped": MASK.replace("return ~(", "return ("),
    },
    "loss": {
        "divided by each answer's own length": LOSS.replace(
            "* push).sum() / (len(logp) * length)", "* push).sum(-1).div(valid.sum(-1).clamp_min(1)).mean()"),
        "the sign": LOSS.replace("return -(", "return ("),
        "padding struck out after the exponential": '''
def my_loss(logp, logp_rollout, advantage, valid, length, delta):
    moved, push = logp.detach().exp() - logp_rollout.exp(), advantage[:, None]
    dropped = (push > 0) & (moved > delta) | (push < 0) & (moved < -delta)
    ratio = (logp - logp_rollout).exp()
    return -torch.where(valid & ~dropped, ratio * push, 0.0).sum() / (len(logp) * length)
''',
        "gradient through the mask's ratio only": LOSS.replace("(logp - old).exp()", "(logp - old).exp().detach()"),
        "padding multiplied by zero": LOSS.replace("logp.masked_fill(~valid, 0.0)", "logp").replace(
            "logp_rollout.masked_fill(~valid, 0.0)", "logp_rollout"),
        "the old probabilities never count": LOSS.replace("(logp - old).exp()", "(logp - logp.detach()).exp()"),
        "divided by the answers alone": LOSS.replace("(len(logp) * length)", "len(logp)"),
        "clipped, not dropped": LOSS.replace("(valid & ~dropped)", "valid"),
    },
}
