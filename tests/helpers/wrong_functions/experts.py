"""Wrong functions for the laws of experts: see the head of this folder."""

import torch
import torch.nn.functional as F

from minizaya.arch import experts
from minizaya.plan import account
from minizaya.studies import overlap as measure
from wrong_ways import cut_off, doubled, raised


def by_expert(change):
    """The loop over experts with one thing changed: change(rows, expert, gates of these rows)."""
    def dispatch(x, routes, gates, gate_up, down):
        out = torch.zeros_like(x)
        for e in range(len(gate_up)):
            mine = routes == e
            gate, up = (x[mine] @ gate_up[e].T).chunk(2, -1)
            out[mine] = change((F.silu(gate) * up) @ down[e].T, gates[mine])
        return out
    return dispatch


def off_by_one_expert(x, routes, gates, gate_up, down):
    return by_expert(lambda y, g: y * g[:, None])(x, routes - 1, gates, gate_up, down)

def leaks(x, routes, gates, gate_up, down):
    """Skipped tokens get a trace of what they were."""
    out = experts.experts_loop(x, routes, gates, gate_up, down)
    return out + 1e-12 * (routes == len(gate_up))[:, None]


WRONG = {
    "experts.swiglu": [
        raised(experts.swiglu),
        doubled(experts.swiglu),
        lambda x, g, d: F.linear(F.silu(F.linear(x, g[1::2])) * F.linear(x, g[::2]), d),
                       lambda x, g, d: experts.swiglu(x, g.roll(len(g) // 2, 0), d)],
    "experts.dispatch": [by_expert(lambda y, g: y), by_expert(lambda y, g: y * g.mean()), off_by_one_expert],
    "experts.skip_zero": [
        by_expert(lambda y, g: y),
        leaks,
        lambda x, r, g, a, b: experts.experts_loop(x, r.clamp_max(len(a) - 1), g, a, b),
                          lambda x, r, g, a, b: x],
    "experts.token_order": [
        lambda *a: torch.cat([experts.experts_loop(*a)] * 2, -1),
        lambda *a: experts.experts_loop(*a) * (1 + torch.arange(len(a[0])))[:, None],
        off_by_one_expert, lambda x, r, g, a, b: x[r.argsort()]],
    "experts.crowded": [
        by_expert(lambda y, g: y),
    ],
    "experts.expert_order": [
        off_by_one_expert,
    ],
    "experts.gradients": [
        raised(experts.experts_loop),
        doubled(experts.experts_loop),
        (cut_off(experts.experts_loop), "the output carries no gradient"),
    ],
    "experts.active_parameters": [
        lambda model: account.active_parameters(model.config) + 1,

        lambda model: float(account.active_parameters(model.config)),
    ],
    "experts.overlap": [
        lambda a, b, d: measure.overlap(*(measure.top_subspace(m, d, "input") for m in (a, b))) / d,
    ],
}
