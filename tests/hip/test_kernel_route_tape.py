"""kernels/route_tape: what was recorded is what is replayed, byte for byte as `rl.replay` packs it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planted
from kernel_tools import every_way, needs_compiler, run
from minizaya import hip
from minizaya.rl.replay import pack_routes

pytestmark = needs_compiler
tape_kernel = hip.kernel("route_tape")
both_ints = pytest.mark.parametrize("dtype", [torch.int64, torch.int16], ids=["i64", "i16"])
# tokens, layers, slots, capacity
SIZES = [(1, 1, 1, 1), (1, 40, 3, 5), (63, 40, 4, 30), (65, 3, 5, 40), (130, 4, 10, 20), (7, 0, 2, 4), (0, 40, 2, 4),
         (9, 131, 2, 8)]


def step(size, dtype, seed=0):
    """A step of the engine: tokens at rows of their own, some unrecorded, some out of the tape; a tape with old ids."""
    draw = torch.Generator().manual_seed(seed)
    n, layers, slots, capacity = size
    routes = torch.randint(-1, 255, (n, layers), generator=draw).to(dtype)
    rows = torch.randperm(slots * capacity, generator=draw)[:n]
    slot, position = (rows // capacity).int(), (rows % capacity).int()
    wild = torch.rand(len(rows), generator=draw)
    slot[wild < 0.1] = -1
    slot[(wild >= 0.1) & (wild < 0.15)] = slots
    position[(wild >= 0.15) & (wild < 0.2)] = capacity
    position[(wild >= 0.2) & (wild < 0.25)] = -1
    tape = torch.randint(0, 256, (slots, capacity, layers + seed % 5), generator=draw).to(torch.uint8)
    return routes[:len(rows)].contiguous(), slot, position, tape


def check(launcher, size, dtype, seed=0):
    routes, slot, position, tape = step(size, dtype, seed)
    layers = size[1]
    wanted = tape_kernel.reference(routes, slot, position, tape.clone())
    got = tape_kernel.launch(launcher, routes, slot, position, tape.clone())
    assert torch.equal(got, wanted), "tape"
    back = tape_kernel.launch_replay(launcher, got, slot, position, layers, dtype)
    right = tape_kernel.reference_replay(wanted, slot, position, layers, dtype)
    assert back.dtype == dtype and torch.equal(back, right), "routes"
    inside = tape_kernel.within(slot, position, tape)
    assert torch.equal(back[inside], routes[inside]) and bool((back[~inside] == -1).all()), "not what was recorded"


@every_way
@both_ints
def test_record_and_replay(way, dtype):
    for size in SIZES:
        run(way, check, size, dtype)
        run(way, check, size, dtype, seed=4)        # rows with room


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(st.integers(0, 150), st.integers(0, 45), st.integers(1, 6), st.integers(1, 50)),
       dtype=st.sampled_from([torch.int64, torch.int16]), seed=st.integers(0, 2 ** 20))
def test_any_size(size, dtype, seed):
    run(("cpu", 64, str(seed)), check, size, dtype, seed)


def test_the_tape_is_what_goes_to_disk():
    """Prompt first, then token by token, the last one never read: the slot's bytes are `pack_routes`'s."""
    launcher, layers = hip.launcher("cpu"), 40
    routes = torch.randint(0, 17, (12, layers), dtype=torch.int16)
    routes[-1] = -1
    tape = tape_kernel.blank(3, 12, layers)
    for start, stop in ((0, 7), *((i, i + 1) for i in range(7, 11))):
        tape_kernel.launch(launcher, routes[start:stop], torch.full((stop - start,), 1, dtype=torch.int32),
                           torch.arange(start, stop, dtype=torch.int32), tape)
    assert tape.shape == (3, 12, 64) and tape[1, :, :layers].numpy().tobytes() == pack_routes(routes, 16)
    assert bool((tape[[0, 2]] == 255).all())


def test_a_tape_that_starts_at_an_odd_address():
    whole = torch.full((2 * 5 * 4 + 1,), 255, dtype=torch.uint8)
    tape, slot = whole[1:].view(2, 5, 4), torch.ones(3, dtype=torch.int32)
    routes = torch.arange(12).view(3, 4)
    position = torch.tensor([4, 0, 2], dtype=torch.int32)
    launcher = hip.launcher("trace")
    tape_kernel.launch(launcher, routes, slot, position, tape)
    assert torch.equal(tape_kernel.launch_replay(launcher, tape, slot, position, 4), routes)


@both_ints
@pytest.mark.parametrize("tokens", [slice(0, 64), slice(64, 192), slice(0, 192)], ids=["decode", "prompt", "both"])
def test_moves_little_more_than_it_must(tokens, dtype):
    """In 64-byte pieces. Of a tape's row 40 bytes are used, so int16 ids move up to 1.25 times the least."""
    from minizaya.hip.trace import traced

    routes, slot, position, tape = tape_kernel.example(dtype)
    routes, slot, position = routes[tokens], slot[tokens], position[tokens]
    most = 1.1 if dtype == torch.int64 else 1.25
    for call in (lambda run: tape_kernel.launch(run, routes, slot, position, tape),
                 lambda run: tape_kernel.launch_replay(run, tape, slot, position, 40, dtype)):
        with traced() as trace:
            call(trace.launcher)
        assert trace.asked == trace.least == tape_kernel.work("i64" if most == 1.1 else "i16", len(slot))[0]
        assert trace.moved <= most * trace.least, (trace.moved, trace.least)


def test_bad_input():
    routes, slot, position, tape = step((5, 4, 2, 6), torch.int64)
    launcher = hip.launcher("cpu")
    assert tape_kernel.supports(routes) is None and "int32" in tape_kernel.supports(routes.int())
    for name, args in (("tape", (routes, slot, position, tape[..., :3])), ("slot", (routes, slot[:2], position, tape)),
                       ("position", (routes, slot, position.long(), tape))):
        with pytest.raises(ValueError, match=name):
            tape_kernel.launch(launcher, *args)


BUGS = [
    ("  __syncthreads();\n", "", "rows are read before they are found"),
    ("first + (int)threadIdx.x < tokens", "true", "places are read past the last token"),
    ("p >= 0 && p < capacity", "p >= 0", "a position past the tape lands in the next slot"),
    ("s >= 0 && s < slots &&", "s >= 0 &&", "a slot past the tape is written behind it"),
    ("route < 0 || route > 254 ? 255 : (unsigned char)route", "(unsigned char)(route < 0 ? 0 : route)",
     "-1 sent to expert 0"),
    ("return byte == 255 ? -1 : byte;", "return byte;", "255 comes back as an expert"),
    ("(long long)s * capacity + p", "(long long)s * slots + p", "wrong stride of the tape"),
    ("part < parts; part += WAVE", "part < WAVE && part < parts; part += WAVE", "a row longer than a wave is cut"),
    ("token += THREADS / WAVE * at_once", "token += THREADS / 64 * at_once", "waves of 32 take a token twice"),
    ("if (lane / parts >= at_once) return;", "", "lanes left over take the next wave's token"),
]


@planted.each(BUGS)
def test_planted_bugs_are_caught(bug):
    def checks(launcher):
        for size in SIZES:
            check(launcher, size, torch.int64)
        check(launcher, (200, 40, 7, 40), torch.int16)
    planted.caught("route_tape", BUGS, bug, checks)
