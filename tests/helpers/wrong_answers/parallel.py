"""Wrong answers to the exercises of lesson 15: exercise id -> what is wrong -> source.
Each changes a line of a right one."""

LOAD = '''
def my_load(visits):
    tokens = visits.sum(0)
    return tokens[:, :-1] / tokens.sum(-1, keepdim=True)
'''
SPLITS = '''
def my_matrix(routes, num_experts):
    ranks = len(routes)
    counts = [torch.bincount(own, minlength=num_experts + 1)[:num_experts] for own in routes]
    return torch.stack([own.view(ranks, -1).sum(1) for own in counts])
'''
HALO = '''
def my_chunk(previous, chunk, depthwise, grouped):
    zeros = chunk.new_zeros(len(chunk), 2, chunk.shape[2])
    halo = torch.cat([zeros, previous], dim=1)[:, -2:]
    z = torch.cat([halo, chunk], dim=1).transpose(1, 2)
    return grouped(depthwise(z)).transpose(1, 2)
'''

WRONG = {
    "load": {
        "the mean of the ranks' shares": '''
def my_load(visits):
    shares = visits[..., :-1] / visits.sum(-1, keepdim=True).clamp_min(1)
    return shares.mean(0)
''',
        "an expert without tokens got one": LOAD.replace("visits.sum(0)", "visits.sum(0).clamp_min(1)"),
        "a rank without tokens divides by zero": LOAD.replace(
            "return tokens[:, :-1] / tokens.sum(-1, keepdim=True)",
            "own = visits.sum(-1, keepdim=True)\n    return (visits[..., :-1] / own * own).sum(0) / own.sum(0)"),
        "one rank's own": LOAD.replace("visits.sum(0)", "visits[0]"),
        "the mean of the ranks' loads": LOAD.replace(
            "return tokens[:, :-1] / tokens.sum(-1, keepdim=True)",
            "return (visits[..., :-1] / visits.sum(-1, keepdim=True)).mean(0)"),
        "skipped tokens are left out of the whole": LOAD.replace("tokens.sum(-1", "tokens[:, :-1].sum(-1"),
        "the skip route is an expert": LOAD.replace("tokens[:, :-1] /", "tokens /"),
        "shares of all layers together": LOAD.replace("tokens.sum(-1, keepdim=True)", "tokens.sum()"),
    },
    "splits": {
        "experts dealt in turn": SPLITS.replace("own.view(ranks, -1).sum(1)", "own.view(-1, ranks).sum(0)"),
        "received, not sent": SPLITS.replace("for own in counts])", "for own in counts]).T"),
        "skipped tokens go to the last rank": SPLITS.replace(
            "counts = [torch.bincount(own, minlength=num_experts + 1)[:num_experts] for own in routes]",
            "counts = [torch.bincount(own.clamp_max(num_experts - 1), minlength=num_experts) for own in routes]"),
        "counts of experts, not of ranks": SPLITS.replace("own.view(ranks, -1).sum(1)", "own"),
        "those at home are left out": SPLITS.replace("return torch.stack(",
                                                     "return (1 - torch.eye(ranks).long()) * torch.stack("),
        "fails where an expert is empty": SPLITS.replace(", minlength=num_experts + 1", ""),
    },
    "halo": {
        "no halo": HALO.replace("halo = torch.cat([zeros, previous], dim=1)[:, -2:]", "halo = zeros"),
        "no gradient goes home": HALO.replace("[zeros, previous]", "[zeros, previous.detach()]"),
        "one token": HALO.replace("[:, -2:]", "[:, -2:] * torch.tensor([0., 1.])[:, None].to(chunk)"),
        "the first two of the past": HALO.replace("torch.cat([zeros, previous], dim=1)[:, -2:]",
                                                  "torch.cat([previous, zeros], dim=1)[:, :2]"),
        "each convolution padded alone": HALO.replace(
            "return grouped(depthwise(z)).transpose(1, 2)",
            "u = depthwise(z)[..., 1:]\n    return grouped(torch.nn.functional.pad(u, (1, 0))).transpose(1, 2)"),
        "the grouped one first": HALO.replace("grouped(depthwise(z))", "depthwise(grouped(z))"),
        "fails at the start of a sequence": HALO.replace("torch.cat([zeros, previous], dim=1)[:, -2:]",
                                                         "previous[:, -2:]"),
    },
}
