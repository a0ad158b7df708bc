"""Wrong answers to the exercises of lesson 04: exercise id -> what is wrong -> source."""

WRONG = {
    "load": {
        "padding counted": '''
def my_load(routes, num_experts, mask=None):
    visits = F.one_hot(routes.flatten(0, 1), num_experts + 1).sum(0)
    return visits[:, :num_experts] / routes[..., 0].numel()
''',
        "padding left out above, counted below": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    visits = F.one_hot(routes[real], num_experts + 1).sum(0)
    return visits[:, :num_experts] / real.numel()
''',
        "mask read the wrong way round": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else ~mask
    visits = F.one_hot(routes[real], num_experts + 1).sum(0)
    return visits[:, :num_experts] / real.sum().clamp_min(1)
''',
        "skipped tokens not in the whole": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    visits = F.one_hot(routes[real], num_experts + 1).sum(0)[:, :num_experts]
    return visits / visits.sum(-1, keepdim=True).clamp_min(1)
''',
        "skip counted as an expert": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    return F.one_hot(routes[real], num_experts + 1).sum(0) / real.sum().clamp_min(1)
''',
        "layers mixed": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    visits = F.one_hot(routes[real], num_experts + 1).sum((0, 1))[:num_experts]
    return (visits / (real.sum() * routes.shape[-1]).clamp_min(1)).expand(routes.shape[-1], -1)
''',
        "every sequence counts the same, however long": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    visits = (F.one_hot(routes, num_experts + 1) * real[..., None, None]).sum(1)
    return (visits / real.sum(1).clamp_min(1)[:, None, None]).mean(0)[:, :num_experts]
''',
        "no tokens, so 0 / 0": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    return F.one_hot(routes[real], num_experts + 1).sum(0)[:, :num_experts] / real.sum()
''',
        "tokens counted, not their share": '''
def my_load(routes, num_experts, mask=None):
    real = torch.ones(routes.shape[:2], dtype=torch.bool) if mask is None else mask
    return F.one_hot(routes[real], num_experts + 1).sum(0)[:, :num_experts].float()
''',
    },
    "entropy": {
        "0 ln 0 is NaN": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return -(share * share.log()).sum(-1) / math.log(load.shape[-1])
''',
        "not normalised": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return -torch.xlogy(share, share).sum(-1)
''',
        "in bits, over ln E": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return -(share * share.clamp_min(1e-30).log2()).sum(-1) / math.log(load.shape[-1])
''',
        "over the log of the busy experts": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return -torch.xlogy(share, share).sum(-1) / (share > 0).sum(-1).clamp_min(2).log()
''',
        "skipped tokens forgotten": '''
def my_entropy(load):
    return -torch.xlogy(load, load).sum(-1) / math.log(load.shape[-1])
''',
        "a small number added in the log": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return -(share * (share + 1e-3).log()).sum(-1) / math.log(load.shape[-1])
''',
        "summed over the layers": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return -torch.xlogy(share, share).sum(0) / math.log(load.shape[-1])
''',
        "the sign": '''
def my_entropy(load):
    share = load / load.sum(-1, keepdim=True)
    return torch.xlogy(share, share).sum(-1) / math.log(load.shape[-1])
''',
    },
    "pid": {
        "skipped tokens count in the goal": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - 1 / loads.shape[-1]
    change = torch.diff(error, dim=0, prepend=torch.zeros_like(error[:1]))
    return -(kp * error + ki * error.cumsum(0) + kd * change)
''',
        "the sign": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    change = torch.diff(error, dim=0, prepend=torch.zeros_like(error[:1]))
    return kp * error + ki * error.cumsum(0) + kd * change
''',
        "the integral is one step late": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    change = torch.diff(error, dim=0, prepend=torch.zeros_like(error[:1]))
    return -(kp * error + ki * (error.cumsum(0) - error) + kd * change)
''',
        "no memory": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    return -(kp + ki) * error
''',
        "the last error is never kept": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    return -(kp * error + ki * error.cumsum(0) + kd * error)
''',
        "the change looks the wrong way": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    change = torch.diff(error, dim=0, prepend=torch.zeros_like(error[:1]))
    return -(kp * error + ki * error.cumsum(0) - kd * change)
''',
        "no change at the first step": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    change = torch.diff(error, dim=0, prepend=error[:1])
    return -(kp * error + ki * error.cumsum(0) + kd * change)
''',
        "moved instead of set": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    change = torch.diff(error, dim=0, prepend=torch.zeros_like(error[:1]))
    return -(kp * error + ki * error.cumsum(0) + kd * change).cumsum(0)
''',
        "the integral is an average": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    error = loads - loads.mean(-1, keepdim=True)
    change = torch.diff(error, dim=0, prepend=torch.zeros_like(error[:1]))
    average = error.cumsum(0) / torch.arange(1, len(error) + 1)[:, None]
    return -(kp * error + ki * average + kd * change)
''',
        "the goal is zero load": '''
def my_pid(loads, kp=0.5, ki=0.1, kd=0.0):
    change = torch.diff(loads, dim=0, prepend=torch.zeros_like(loads[:1]))
    return -(kp * loads + ki * loads.cumsum(0) + kd * change)
''',
    },
    "adamw": {
        "skipped tokens count in the goal": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads, start=1):
        error = load - 1 / len(load)
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        bias = bias - lr * (mean / (1 - beta1 ** k)) / ((square / (1 - beta2 ** k)).sqrt() + 1e-8)
        biases.append(bias)
    return torch.stack(biases)
''',
        "the averages are not corrected": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for load in loads:
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        bias = bias - lr * mean / (square.sqrt() + 1e-8)
        biases.append(bias)
    return torch.stack(biases)
''',
        "one tensor, changed in place": '''
def my_adamw(loads, lr, beta1, beta2):
    bias, mean, square, biases = torch.zeros(loads.shape[-1]), 0.0, 0.0, []
    for k, load in enumerate(loads, start=1):
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        bias -= lr * (mean / (1 - beta1 ** k)) / ((square / (1 - beta2 ** k)).sqrt() + 1e-8)
        biases.append(bias)
    return torch.stack(biases)
''',
        "corrected from step 0": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads):
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        size = (square / max(1 - beta2 ** k, 1e-8)).sqrt() + 1e-8
        bias = bias - lr * (mean / max(1 - beta1 ** k, 1e-8)) / size
        biases.append(bias)
    return torch.stack(biases)
''',
        "the sign": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads, start=1):
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        size = (square / (1 - beta2 ** k)).sqrt() + 1e-8
        bias = bias + lr * (mean / (1 - beta1 ** k)) / size
        biases.append(bias)
    return torch.stack(biases)
''',
        "only the sign rule": '''
def my_adamw(loads, lr, beta1, beta2):
    return -lr * (loads - 1 / loads.shape[-1]).sign().cumsum(0)
''',
        "the root is missing": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads, start=1):
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        bias = bias - lr * (mean / (1 - beta1 ** k)) / (square / (1 - beta2 ** k) + 1e-8)
        biases.append(bias)
    return torch.stack(biases)
''',
        "the betas swapped": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads, start=1):
        error = load - load.mean()
        mean = beta2 * mean + (1 - beta2) * error
        square = beta1 * square + (1 - beta1) * error ** 2
        size = (square / (1 - beta1 ** k)).sqrt() + 1e-8
        bias = bias - lr * (mean / (1 - beta2 ** k)) / size
        biases.append(bias)
    return torch.stack(biases)
''',
        "weight decay left at PyTorch's default": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads, start=1):
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * error ** 2
        size = (square / (1 - beta2 ** k)).sqrt() + 1e-8
        bias = bias * (1 - lr * 0.01) - lr * (mean / (1 - beta1 ** k)) / size
        biases.append(bias)
    return torch.stack(biases)
''',
        "one size for all experts": '''
def my_adamw(loads, lr, beta1, beta2):
    bias = mean = square = torch.zeros(loads.shape[-1])
    biases = []
    for k, load in enumerate(loads, start=1):
        error = load - load.mean()
        mean = beta1 * mean + (1 - beta1) * error
        square = beta2 * square + (1 - beta2) * (error ** 2).mean()
        size = (square / (1 - beta2 ** k)).sqrt() + 1e-8
        bias = bias - lr * (mean / (1 - beta1 ** k)) / size
        biases.append(bias)
    return torch.stack(biases)
''',
    },
}
