"""moe on the CPU: the order of the tokens, both products stage by stage, the whole, and planted bugs.

Each product is compared from the very numbers that it was given, so its tolerance is that of one float32 sum, carried
through the kernel's own roundings (`kernel_spans`). The whole is compared with experts_loop in the same type. In
bfloat16 a hidden number at a tie may round the other way, which moves the output by 2 ** -7 |h down|, one term among F,
and the product and the gated product may each round the other way: 2 ** -6 of the number, and of the typical number,
in all.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_spans import about
from kernel_tools import WAYS, assert_close, both_types, every_way, needs_compiler, run
from minizaya import hip

pytestmark = needs_compiler
moe = hip.kernel("moe")
# tokens, channels, hidden numbers, experts: odd sizes with scalar tails, whole 16-byte pieces, several tiles both ways
SIZES = [(1, 1, 1, 1), (5, 7, 3, 4), (70, 40, 24, 2), (33, 37, 67, 5), (131, 24, 70, 3), (20, 150, 16, 16),
         (150, 40, 140, 1)]
SMALL = [(3, 9, 5, 2), (66, 24, 40, 3)]    # the tracer looks at every byte


def inputs(n, width, inner, experts, dtype, seed=0, routes=None):
    draw = torch.Generator().manual_seed(seed)
    def normal(*shape):
        return torch.randn(*shape, generator=draw).to(dtype)
    if routes is None:
        routes = torch.randint(0, experts + 1, (n,), generator=draw)
    return (normal(n, width), routes, normal(n).sigmoid(), normal(experts, 2 * inner, width) * width ** -0.5,
            normal(experts, width, inner) * inner ** -0.5)


def check_group(run, routes, experts):
    order, starts = moe.group(run, routes, experts)
    groups = torch.where((routes < 0) | (routes > experts), experts, routes)
    assert order.tolist() == groups.argsort(stable=True).tolist()
    assert starts.tolist() == [int((groups < group).sum()) for group in range(experts + 1)]


def check_stages(run, x, routes, gates, gate_up, down):
    """Every stage against float32 products of the numbers that it read."""
    width, experts, dtype = x.shape[1], len(gate_up), x.dtype
    order, starts = moe.group(run, routes, experts)
    kept = order[: starts[-1]].long()
    h = moe.hidden(run, x, gate_up, order, starts)
    products = torch.einsum("nd,nfd->nf", x[kept].double(), gate_up[routes[kept]].double())
    gate, up = (about(part).rounded(dtype) for part in products.chunk(2, dim=-1))
    wanted = (gate.map(F.silu).loose(1e-6).rounded(dtype) * up).loose(1e-7).rounded(dtype)
    wanted.holds(h[: starts[-1]], "hidden")
    out = moe.output(run, h, down, gates, order, starts)
    product = torch.einsum("nf,ndf->nd", h[: starts[-1]].double(), down[routes[kept]].double())
    weight = about(gates[kept, None].double(), 0)
    (about(product).rounded(dtype) * weight).loose(1e-7).rounded(dtype).holds(out[kept], "output")
    skipped = order[starts[-1]:].long()
    assert torch.equal(out[skipped], torch.zeros(len(skipped), width, dtype=dtype))


def check_whole(run, *args):
    """float32 against experts_loop in float64; bfloat16 against experts_loop in bfloat16."""
    got = moe.launch(run, *args)
    if args[0].dtype == torch.float32:
        return assert_close(got, moe.reference(*(arg.double() if arg.is_floating_point() else arg for arg in args)))
    wanted = moe.reference(*args).double()
    size = wanted.square().mean().sqrt()
    assert ((got.double() - wanted).abs() <= 2.0 ** -6 * (size + wanted.abs())).all()


def traced(way, sizes):
    return SMALL if way[0] == "trace" else sizes


@every_way
@both_types
def test_stages(way, dtype):
    for number, sizes in enumerate(traced(way, SIZES)):
        run(way, check_stages, *inputs(*sizes, dtype, seed=number))


@both_types
def test_equals_the_loop(dtype):
    for number, sizes in enumerate(SIZES):
        run(WAYS[0], check_whole, *inputs(*sizes, dtype, seed=10 + number))


@settings(max_examples=60)
@given(st.lists(st.integers(-1, 6), max_size=90), st.integers(1, 5), st.sampled_from(WAYS[:3]))
def test_group_sorts_and_keeps_the_order(routes, experts, way):
    run(way, check_group, torch.tensor(routes, dtype=torch.int64), experts)


@every_way
def test_group_over_several_rounds(way):
    draw = torch.Generator().manual_seed(1)
    for n in (1024, 2500):
        run(way, check_group, torch.randint(0, 18, (n,), generator=draw), 17)


@both_types
@pytest.mark.parametrize("load", ["one expert", "no skip", "all skipped", "first empty", "no tokens", "full tiles"])
def test_any_load(dtype, load):
    n = {"no tokens": 0, "full tiles": 128}.get(load, 67)
    routes = {"one expert": torch.full((n,), 2), "no skip": torch.arange(n) % 3, "all skipped": torch.full((n,), 3),
              "first empty": 1 + torch.arange(n) % 2, "no tokens": torch.zeros(0, dtype=torch.int64),
              "full tiles": torch.arange(n) % 2}[load]
    args = inputs(n, 19, 21, 3, dtype, routes=routes)
    for way in WAYS[:3]:
        run(way, check_stages, *args)
        if n:
            run(way, check_whole, *args)


def test_a_gate_in_float32_is_used_as_it_is():
    x, routes, gates, gate_up, down = inputs(9, 16, 16, 2, torch.bfloat16)
    gates = torch.linspace(0.1, 1, 9)
    run(WAYS[0], check_stages, x, routes, gates, gate_up, down)


def test_a_token_does_not_depend_on_its_neighbours():
    """Whatever tile a token falls into, and whoever else is there: the same bits."""
    x, routes, gates, gate_up, down = inputs(80, 40, 24, 3, torch.bfloat16)
    whole = run(WAYS[0], moe.launch, x, routes, gates, gate_up, down)
    part = run(WAYS[0], moe.launch, x[41:50].clone(), routes[41:50].clone(), gates[41:50].clone(), gate_up, down)
    assert torch.equal(whole[41:50], part)


def test_rows_that_begin_off_16_bytes():
    """A slice of a longer tensor may begin anywhere: the kernel must not use its 16-byte loads then."""
    x, routes, gates, gate_up, down = inputs(12, 16, 16, 2, torch.bfloat16)
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view_as(x).copy_(x)
    assert torch.equal(run(WAYS[3], moe.launch, shifted, routes, gates, gate_up, down),
                       run(WAYS[0], moe.launch, x, routes, gates, gate_up, down))


def test_supports():
    args = moe.example()
    assert moe.supports(*args) is None
    assert "float64" in moe.supports(args[0].double(), *args[1:])
    assert "weights" in moe.supports(args[0].float(), *args[1:])
    assert moe.supports(*args[:3], args[3][:0], args[4][:0]) == "no experts"
    for dtype in (torch.float32, torch.bfloat16):
        run(WAYS[0], check_whole, *moe.example(dtype))


def test_work():
    """Two products of 2048 x 4096 and 2048 x 2048 a token; the weights of 16 experts once."""
    assert moe.work("moe_hidden_bf16")[1] + moe.work("moe_output_bf16")[1] == 16384 * 6 * 2048 * 2048
    assert moe.work("moe_output_bf16", tokens=0)[0] == 16 * 2048 * 2048 * 2


BUGS = [
    ("if ((int)threadIdx.x % WAVE >= by) sum += other;", "sum += other;", "a lane adds itself"),
    ("all += totals[w];\n  }\n  __syncthreads();", "all += totals[w];\n  }\n", "barrier removed: totals overwritten"),
    ("= sum;\n  __syncthreads();", "= sum;\n", "barrier removed: totals read before they are there"),
    ("if (token + j < n && group_of", "if (group_of", "no tail guard over the routes"),
    ("first + j * THREADS < n && group_of", "group_of", "no tail guard over the routes of earlier groups"),
    ("routes[at_most(token + j, n - 1)]", "routes[token + j]", "routes are read past the end"),
    ("at += all;", "at += count;", "each thread moves its own place on"),
    ("tiles = (last - first + ROWS - 1) / ROWS", "tiles = (last - first) / ROWS", "short tiles are lost"),
    ("number -= tiles;", "number -= tiles + 1;", "tile table off by one"),
    ("(size_t)(inner + column) * width", "(size_t)(inner + column - 1) * width", "up rows off by one"),
    ("order[at_most(tile.first + m * TILE + threadIdx.x / 4, tile.last - 1)]",
     "order[tile.first + m * TILE + threadIdx.x / 4]", "rows past the end of a tile are gathered"),
    ("tokens[m] = x + (size_t)order[at_most(tile.first + m * TILE", "tokens[m] = x + (size_t)order[at_most(tile.first",
     "the lower half of a tile is the upper one again"),
    ("if (place < tile.last && column < inner)\n", "if (column < inner)\n", "a short tile writes on"),
    ("token[r] = order[at_most(first + tile_row(r), tile.last - 1)]",
     "token[r] = at_most(first + tile_row(r), tile.last - 1)", "rows are not scattered back"),
    ("gate[r] = gates[token[r]];", "gate[r] = gates[at_most(first + tile_row(r), n - 1)];",
     "gates taken in grouped order"),
    ("if (first + tile_row(r) >= tile.last) continue;", "", "a short tile scatters its last row again"),
]


@planted.each(BUGS)
def test_planted_bugs(bug):
    def checks(run):
        check_group(run, torch.arange(4200) % 4, 3)      # more than a block loads at once
        check_stages(run, *inputs(69, 9, 6, 2, torch.bfloat16))
        check_stages(run, *inputs(200, 40, 5, 1, torch.float32))       # more than a tile's tokens, several steps
    planted.caught("moe", BUGS, bug, checks, [WAYS[3], WAYS[0]])
