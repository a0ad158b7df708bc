"""Wrong answers to the exercises of lesson 01."""

SWIGLU = '''
def swiglu(x, gate_up, down):
    {body}
'''

MIXTURE = '''
def mixture_of_experts(x, routes, gates, gate_up, down):
    out = {start}
    for e in range({experts}):
        mine = routes == e
        gate, up = (x[mine] @ gate_up[e].T).chunk(2, dim=-1)
        out[mine] = {value}
    return out
'''


def mixture(start="torch.zeros_like(x)", experts="len(gate_up)",
            value="(F.silu(gate) * up) @ down[e].T * gates[mine, None]"):
    return MIXTURE.format(start=start, experts=experts, value=value)


WRONG = {
    "swiglu": {
        "silu on the up half": SWIGLU.format(body="gate, up = (x @ gate_up.T).chunk(2, -1)\n"
                                                  "    return (gate * F.silu(up)) @ down.T"),
        "sigmoid instead of silu": SWIGLU.format(body="gate, up = (x @ gate_up.T).chunk(2, -1)\n"
                                                      "    return (torch.sigmoid(gate) * up) @ down.T"),
        "a gate without gradient": SWIGLU.format(body="gate, up = (x @ gate_up.T).chunk(2, -1)\n"
                                                      "    return (F.silu(gate.detach()) * up) @ down.T"),
        "gelu instead of silu": SWIGLU.format(body="gate, up = (x @ gate_up.T).chunk(2, -1)\n"
                                                   "    return (F.gelu(gate) * up) @ down.T"),
        "rows interleaved": SWIGLU.format(body="h = x @ gate_up.T\n"
                                               "    return (F.silu(h[:, ::2]) * h[:, 1::2]) @ down.T"),
        "silu of the product": SWIGLU.format(body="gate, up = (x @ gate_up.T).chunk(2, -1)\n"
                                                  "    return F.silu(gate * up) @ down.T"),
        "the library's own": SWIGLU.format(body="return mz.arch.experts.swiglu(x, gate_up, down)"),
    },
    "mixture": {
        "no gate": mixture(value="(F.silu(gate) * up) @ down[e].T"),
        "gate before the expert": mixture(
            value="(F.silu(gate * gates[mine, None]) * up * gates[mine, None]) @ down[e].T"
        ),
        "skipped tokens pass through": mixture(start="x.clone()"),
        "skipped tokens pass, scaled": mixture(start="x * gates[:, None]"),
        "last expert forgotten": mixture(experts="len(gate_up) - 1"),
        "gates of the first tokens": mixture(value="(F.silu(gate) * up) @ down[e].T * gates[:mine.sum(), None]"),
        "no gradient to the router": mixture(value="(F.silu(gate) * up) @ down[e].T * gates[mine, None].detach()"),
        "left in expert order": '''
def mixture_of_experts(x, routes, gates, gate_up, down):
    done = []
    for e in range(len(gate_up)):
        mine = routes == e
        gate, up = (x[mine] @ gate_up[e].T).chunk(2, dim=-1)
        done.append((F.silu(gate) * up) @ down[e].T * gates[mine, None])
    done.append(torch.zeros_like(x[routes == len(gate_up)]))
    return torch.cat(done)
''',
        "the library's own": '''
def mixture_of_experts(x, routes, gates, gate_up, down):
    return experts_grouped(x, routes, gates, gate_up, down)
''',
    },
    "active": {
        "all of them": '''
def used_by_one_token(model):
    return sum(p.numel() for p in model.parameters())
''',
        "no expert at all": '''
def used_by_one_token(model):
    return sum(p.numel() for name, p in model.named_parameters() if ".experts." not in name)
''',
        "one expert in the whole model": '''
def used_by_one_token(model):
    shared = sum(p.numel() for name, p in model.named_parameters() if ".experts." not in name)
    return shared + sum(p[0].numel() for p in model.layers[0].experts.parameters())
''',
        "the skip route counted as an expert": '''
def used_by_one_token(model):
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    shared = sum(p.numel() for p in model.parameters()) - experts
    return shared + experts // (model.config.num_experts + 1)
''',
        "the tied head counted again": '''
def used_by_one_token(model):
    count = model.head.weight.numel()
    for name, p in model.named_parameters():
        count += p[0].numel() if ".experts." in name else p.numel()
    return count
''',
        "a fraction": '''
def used_by_one_token(model):
    return sum(p.numel() for p in model.parameters()) / model.config.num_experts
''',
    },
}
