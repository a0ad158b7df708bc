"""Wrong answers to the exercises of lesson 03: exercise -> what is wrong -> source."""

WRONG = {
    "choose": {
        "the bias leaks into the gate": """
def my_choose(probs, bias):
    gates, routes = (probs + bias).max(-1)
    return routes, gates
""",
        "the bias is ignored": """
def my_choose(probs, bias):
    gates, routes = probs.max(-1)
    return routes, gates
""",
        "the bias is subtracted": """
def my_choose(probs, bias):
    routes = (probs - bias).argmax(-1)
    return routes, probs.gather(-1, routes[..., None])[..., 0]
""",
        "skip can never be chosen": """
def my_choose(probs, bias):
    routes = (probs + bias)[..., :-1].argmax(-1)
    return routes, probs.gather(-1, routes[..., None])[..., 0]
""",
        "softmax over the chosen one": """
def my_choose(probs, bias):
    routes = (probs + bias).argmax(-1)
    return routes, probs.gather(-1, routes[..., None]).softmax(-1)[..., 0]
""",
        "no gradient": """
def my_choose(probs, bias):
    routes = (probs + bias).argmax(-1)
    return routes, probs.detach().gather(-1, routes[..., None])[..., 0]
""",
        "straight through: a gradient into the bias": """
def my_choose(probs, bias):
    routes = (probs + bias).argmax(-1)
    picked = lambda x: x.gather(-1, routes[..., None])[..., 0]
    return routes, picked(probs) + picked(bias + 0 * probs) - picked(bias + 0 * probs).detach()
""",
        "the gate keeps an axis": """
def my_choose(probs, bias):
    routes = (probs + bias).argmax(-1, keepdim=True)
    return routes, probs.gather(-1, routes)
""",
    },
    "limit": {
        "the biases are forgotten": """
def skip_limit(probs, bias):
    return probs[..., :-1].amax(-1) - probs[..., -1]
""",
        "p_skip is forgotten": """
def skip_limit(probs, bias):
    return (probs[..., :-1] + bias).amax(-1)
""",
        "the wrong sign": """
def skip_limit(probs, bias):
    return probs[..., -1] - (probs[..., :-1] + bias).amax(-1)
""",
        "best probability and best bias, of two experts": """
def skip_limit(probs, bias):
    return probs[..., :-1].amax(-1) + bias.amax() - probs[..., -1]
""",
        "the most probable expert, not the best score": """
def skip_limit(probs, bias):
    best = probs[..., :-1].argmax(-1)
    return probs[..., :-1].amax(-1) + bias[best] - probs[..., -1]
""",
        "always the initial bias": """
def skip_limit(probs, bias):
    return torch.full_like(probs[..., 0], -1.0)
""",
        "one limit for the whole batch": """
def skip_limit(probs, bias):
    limit = (probs[..., :-1] + bias).amax(-1) - probs[..., -1]
    return limit.amin().expand(limit.shape)
""",
    },
    "memory": {
        "only one layer back": """
def depth_memory(states, scales):
    memory = [states[0]]
    for layer in range(1, len(states)):
        memory.append(states[layer] + scales[layer] * states[layer - 1])
    return torch.stack(memory)
""",
        "a running sum without scales": """
def depth_memory(states, scales):
    return states.cumsum(0)
""",
        "no gradient to the layers below": """
def depth_memory(states, scales):
    memory = [states[0]]
    for state, scale in zip(states[1:], scales[1:]):
        memory.append(state + scale * memory[-1].detach())
    return torch.stack(memory)
""",
        "the scale of the layer below": """
def depth_memory(states, scales):
    memory = [states[0]]
    for layer in range(1, len(states)):
        memory.append(states[layer] + scales[layer - 1] * memory[-1])
    return torch.stack(memory)
""",
        "the scale weighs the new state too": """
def depth_memory(states, scales):
    memory = [states[0]]
    for layer in range(1, len(states)):
        memory.append(scales[layer] * (states[layer] + memory[-1]))
    return torch.stack(memory)
""",
        "the first layer is scaled": """
def depth_memory(states, scales):
    memory = [states[0] * scales[0]]
    for layer in range(1, len(states)):
        memory.append(states[layer] + scales[layer] * memory[-1])
    return torch.stack(memory)
""",
        "an average: one minus the scale": """
def depth_memory(states, scales):
    memory = [states[0]]
    for layer in range(1, len(states)):
        memory.append((1 - scales[layer]) * states[layer] + scales[layer] * memory[-1])
    return torch.stack(memory)
""",
        "only the last layer": """
def depth_memory(states, scales):
    below = states[0]
    for layer in range(1, len(states)):
        below = states[layer] + scales[layer] * below
    return below
""",
    },
    "overlap": {
        "the output side": """
def input_overlap(first, second, d):
    q, p = (torch.linalg.svd(m, full_matrices=False)[0][:, :d] for m in (first, second))
    return (q.T @ p).square().sum() / d
""",
        "the weakest directions": """
def input_overlap(first, second, d):
    q, p = (torch.linalg.svd(m, full_matrices=False)[2][-d:] for m in (first, second))
    return (q @ p.T).square().sum() / d
""",
        "columns of the matrix whose rows are the vectors": """
def input_overlap(first, second, d):
    q, p = (torch.linalg.svd(m, full_matrices=False)[2][:, :d] for m in (first, second))
    return (q.T @ p).square().sum() / d
""",
        "the norm is not squared": """
def input_overlap(first, second, d):
    q, p = (torch.linalg.svd(m, full_matrices=False)[2][:d] for m in (first, second))
    return (q @ p.T).norm() / d
""",
        "divided by D": """
def input_overlap(first, second, d):
    q, p = (torch.linalg.svd(m, full_matrices=False)[2][:d] for m in (first, second))
    return (q @ p.T).square().sum() / first.shape[1]
""",
        "only equal ranks are compared": """
def input_overlap(first, second, d):
    q, p = (torch.linalg.svd(m, full_matrices=False)[2][:d] for m in (first, second))
    return (q * p).sum(-1).square().sum() / d
""",
        "raw rows instead of directions": """
def input_overlap(first, second, d):
    q, p = (F.normalize(m[:d], dim=-1) for m in (first, second))
    return (q @ p.T).square().sum() / d
""",
    },
}
