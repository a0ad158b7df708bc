"""Wrong functions for the laws of parallel: see the head of this folder."""

import torch

from minizaya.laws.parallel import shares, with_halo
from minizaya.parallel import context_parallel, expert_parallel
from wrong_ways import doubled, raised

WRONG = {
    "parallel.all_to_all_splits": [
        lambda routes, experts: expert_parallel.send_matrix(routes, experts).T,
    ],
    "parallel.by_expert": [
        lambda counts: torch.arange(counts.sum()),
    ],
    "parallel.global_load": [
        lambda visits: (visits[..., :-1] / visits.sum(-1, keepdim=True)).mean(0),
    ],
    "parallel.shares": [
        lambda count, ranks: [*shares(count, ranks), (count, count)],
        lambda count, ranks: [(0, count), *[(count, count)] * (ranks - 1)],
    ],
    "parallel.halo_plan": [
        lambda lengths, lag: context_parallel.halo_plan(lengths, lag)[1:],
    ],
    "parallel.halo": [
        raised(with_halo),
        doubled(with_halo),
    ],
}
