"""Wrong answers to the exercises of lesson 13: exercise id -> what is wrong -> source.
Each changes one line of a right one."""

K3 = '''
def my_k3(logp, logp_rollout):
    gap = logp - logp_rollout
    return (gap.exp() - 1 - gap).mean()
'''
TAPE = '''
def my_tape(what, shape, num_experts):
    if isinstance(what, torch.Tensor):
        return bytes(255 if route < 0 else route for route in what.flatten().tolist())
    read = [-1 if byte == 255 else byte for byte in what]
    return torch.tensor(read, dtype=torch.int16).view(shape)
'''
CHOICE = '''
def my_choice(probs, bias, pinned):
    routes = (probs.detach().float() + bias).argmax(-1)
    routes = torch.where(pinned < 0, routes, pinned)
    return routes, probs.gather(-1, routes[..., None]).squeeze(-1)
'''

WRONG = {
    "k3": {
        "half of the square": '''
def my_k3(logp, logp_rollout):
    return ((logp - logp_rollout) ** 2 / 2).mean()
''',
        "without the minus one": '''
def my_k3(logp, logp_rollout):
    gap = logp - logp_rollout
    return (gap.exp() - gap).mean()
''',
        "a sum": '''
def my_k3(logp, logp_rollout):
    gap = logp - logp_rollout
    return (gap.exp() - 1 - gap).sum()
''',
        "the other way round": K3.replace("logp - logp_rollout", "logp_rollout - logp"),
        "k1": K3.replace("gap.exp() - 1 - gap", "-gap"),
        "k2": K3.replace("gap.exp() - 1 - gap", "gap**2 / 2"),
        "the sum": K3.replace(".mean()", ".sum()"),
        "clamped": K3.replace("gap = logp - logp_rollout", "gap = (logp - logp_rollout).clamp(-2, 2)"),
        "over a fixed number of tokens": K3.replace(".mean()", ".sum() / 5"),
    },
    "bytes": {
        "unrecorded is expert 0": TAPE.replace("255 if route < 0 else route", "max(route, 0)"),
        "unrecorded is the skip route": TAPE.replace("255 if route < 0 else route",
                                                     "num_experts if route < 0 else route"),
        "nothing is encoded": '''
kept = {}
def my_tape(what, shape, num_experts):
    if isinstance(what, torch.Tensor):
        kept["routes"] = what.clone()
        return bytes(what.numel())
    return kept["routes"]
''',
        "a number for each record": '''
kept = []
def my_tape(what, shape, num_experts):
    if isinstance(what, torch.Tensor):
        kept.append(what.clone())
        return bytes([len(kept) % 256] * what.numel())
    return kept[what[0] - 1]
''',
        "the last token first": TAPE.replace("what.flatten()", "what.flip(0).flatten()").replace(
            ".view(shape)", ".view(shape).flip(0)"),
        "unrecorded is 254": TAPE.replace("255", "254"),
        "column by column": TAPE.replace("what.flatten()", "what.T.flatten()"),
        "two bytes each": TAPE.replace("bytes(255 if route < 0 else route for route in what.flatten().tolist())",
                                       "what.numpy().tobytes()").replace("byte == 255", "byte > 254"),
        "int64 read back": TAPE.replace("dtype=torch.int16", "dtype=torch.int64"),
    },
    "pinned": {
        "expert 0 where nothing was recorded": CHOICE.replace(
            "torch.where(pinned < 0, routes, pinned)", "pinned.clamp_min(0)"
        ),
        "route 0 is taken for unrecorded": CHOICE.replace("pinned < 0", "pinned <= 0"),
        "the bias weighs": CHOICE.replace("return routes, probs", "return routes, (probs + bias)"),
        "softmax of what was gathered": CHOICE.replace(
            "probs.gather(-1, routes[..., None]).squeeze(-1)",
            "probs.gather(-1, routes[..., None]).softmax(-1).squeeze(-1)"),
        "the router learns from recorded routes alone": CHOICE.replace(
            "return routes, probs.gather", "probs = torch.where(pinned[..., None] < 0, probs.detach(), probs)\n"
            "    return routes, probs.gather"),
        "the gate is a constant": CHOICE.replace("return routes, probs.gather", "return routes, probs.detach().gather"),
        "scores in the type of the probabilities": CHOICE.replace("probs.detach().float()", "probs.detach()"),
        "the record is ignored": CHOICE.replace("torch.where(pinned < 0, routes, pinned)", "routes"),
    },
}
