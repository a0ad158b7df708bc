"""Wrong answers to the exercises of lesson 12: exercise id -> what is wrong -> source.
Each changes one line of a right one."""

BELIEF = '''
def my_weights(particles, weights, difficulty, right, asked):
    logs = []
    for (mu, s), weight in zip(particles, weights):
        z = torch.tensor((mu - difficulty) / s, dtype=torch.float64)
        rate = torch.sigmoid(z).clamp(1e-6, 1 - 1e-6)
        likelihood = right * rate.log() + (asked - right) * (1 - rate).log()
        logs.append(float(torch.tensor(weight, dtype=torch.float64).log() + likelihood))
    return torch.tensor(logs, dtype=torch.float64).softmax(-1).tolist()
'''
SCHEDULER = '''
def my_level(level, highest, difficulty, rewards):
    if difficulty != level:
        return level
    if sum(rewards) > 0.7 * len(rewards):
        return min(level + 1, highest)
    return max(level - 1, 1) if sum(rewards) == 0 else level
'''

WRONG = {
    "belief": {
        "without the old weights": '''
def my_weights(particles, weights, difficulty, right, asked):
    logs = []
    for mu, s in particles:
        z = torch.tensor((mu - difficulty) / s, dtype=torch.float64)
        rate = torch.sigmoid(z).clamp(1e-6, 1 - 1e-6)
        logs.append(float(right * rate.log() + (asked - right) * (1 - rate).log()))
    return torch.tensor(logs, dtype=torch.float64).softmax(-1).tolist()
''',
        "old weights forgotten": BELIEF.replace("torch.tensor(weight, dtype=torch.float64).log() + ", ""),
        "the curve upside down": BELIEF.replace("(mu - difficulty) / s", "(difficulty - mu) / s"),
        "wrong answers forgotten": BELIEF.replace(" + (asked - right) * (1 - rate).log()", ""),
        "not clamped": BELIEF.replace(".clamp(1e-6, 1 - 1e-6)", ".clamp(1e-12, 1)"),
        "likelihoods end at what a float can hold": BELIEF.replace("+ likelihood)", "+ likelihood.clamp_min(-700))"),
        "the old weights are overwritten": BELIEF.replace("    return ", "    weights[:] = ") + "    return weights\n",
        "not normalised": BELIEF.replace(".softmax(-1)", ".exp()"),
    },
    "scheduler": {
        "late groups count": SCHEDULER.replace("if difficulty != level:", "if False:"),
        "from the group's own level": SCHEDULER.replace("if difficulty != level:\n        return level",
                                                        "level = difficulty"),
        "at 70% already": SCHEDULER.replace("> 0.7", ">= 0.7"),
        "rounded to tenths": SCHEDULER.replace("sum(rewards) > 0.7 * len(rewards)",
                                               "round(sum(rewards) / len(rewards), 1) > 0.7"),
        "over the top": SCHEDULER.replace("min(level + 1, highest)", "level + 1"),
        "down below one half": SCHEDULER.replace("sum(rewards) == 0", "sum(rewards) < 0.5 * len(rewards)"),
        "never down": SCHEDULER.replace("max(level - 1, 1) if sum(rewards) == 0 else level", "level"),
    },
}
