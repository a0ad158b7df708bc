"""The pictures of the lessons, one module a lesson; `python -m minizaya.plots FOLDER` draws the signature ones.

FIGURES maps a file name, without ".png", to a function without arguments that returns a matplotlib Figure.
"""

from . import (
    balance,
    cca,
    decoding,
    full_8b,
    hip_kernels,
    markovian_rsa,
    mini_zaya,
    moe,
    parallel,
    reasoning_data,
    residual,
    rl_cascade,
    rl_spine,
    router,
    router_replay,
    training,
    turned,
)
from .screen import dial
from .style import COLOR, EXPERTS, WIDTH, styled

FIGURES = {
    "01_moe": moe.where_parameters_sit,
    "02_cca": cca.map_at_each_step,
    "03_router": router.where_characters_go,
    "04_balance": balance.over_steps,
    "05_residual": residual.through_depth,
    "06_mini_zaya": mini_zaya.one_layer,
    "07_reasoning_data": reasoning_data.three_budgets,
    "08_training": training.early_or_late,
    "09_decoding": decoding.two_filters,
    "10_markovian_rsa": markovian_rsa.by_length,
    "11_rl_spine": rl_spine.what_counts,
    "12_rl_cascade": rl_cascade.gain,
    "13_router_replay": router_replay.two_by_two,
    "14_hip_kernels": hip_kernels.climb,
    "15_parallel": parallel.who_sends,
    "16_full_8b": full_8b.ladder,
}
