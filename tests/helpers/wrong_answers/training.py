"""Wrong answers to the exercises of lesson 08: exercise id -> what is wrong -> source."""

WRONG = {
    "newton_schulz": {
        "a zero gradient is divided by zero": '''
def my_newton_schulz(g):
    x = g / g.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
''',
        "four steps": '''
def my_newton_schulz(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(4):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
''',
        "not divided": '''
def my_newton_schulz(g):
    x = g
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
''',
        "cubic term only": '''
def my_newton_schulz(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + -4.7750 * gram @ x
    return x
''',
        "coefficients swapped": '''
def my_newton_schulz(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram + -4.7750 * gram @ gram) @ x
    return x
''',
        "number by number": '''
def my_newton_schulz(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + -4.7750 * x ** 3 + 2.0315 * x ** 5
    return x
''',
    },
    "matched": {
        "one number everywhere": '''
def my_matched(g):
    return torch.full_like(g, 0.2)
''',
        "the sign": '''
def my_matched(g):
    return 0.2 * g.sign()
''',
        "the gradient brought to its size": '''
def my_matched(g):
    return 0.2 * g / g.square().mean().sqrt().clamp_min(1e-7)
''',
        "no matching": '''
def my_matched(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
''',
        "the smaller side": '''
def my_matched(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return 0.2 * min(g.shape) ** 0.5 * x
''',
        "rows only": '''
def my_matched(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return 0.2 * g.shape[0] ** 0.5 * x
''',
        "no square root": '''
def my_matched(g):
    x = g / g.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return 0.2 * max(g.shape) * x
''',
    },
    "muon": {
        "no look ahead": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = momentum * mean + (1 - momentum) * g
        x = mean
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * weight_decay) - lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
        "not matched": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = momentum * mean + (1 - momentum) * g
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * weight_decay) - lr * x
        path.append(weight)
    return torch.stack(path)
''',
        "up the hill": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = momentum * mean + (1 - momentum) * g
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * weight_decay) + lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
        "decay not scaled by lr": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = momentum * mean + (1 - momentum) * g
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - weight_decay) - lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
        "momentum forgotten": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = g
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * weight_decay) - lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
        "remembers nothing new": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = momentum * mean
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * weight_decay) - lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
        "every step from the start": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = torch.zeros_like(start), start, []
    for g in grads:
        mean = momentum * mean + (1 - momentum) * g
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = start * (1 - lr * weight_decay) - lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
        "the mean starts at the first gradient": '''
def my_muon(start, grads, lr, weight_decay, momentum):
    mean, weight, path = grads[0], start, []
    for g in grads:
        mean = momentum * mean + (1 - momentum) * g
        x = momentum * mean + (1 - momentum) * g
        x = x / x.norm().clamp_min(1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - lr * weight_decay) - lr * 0.2 * max(g.shape) ** 0.5 * x
        path.append(weight)
    return torch.stack(path)
''',
    },
}
