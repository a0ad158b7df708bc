"""How long a launch takes at least, by each unit of an MI300X; the largest floor is the prediction.

    floors("moe", "moe_hidden_bf16")       # {"memory": us, "matrix": us, ..., "limit": "lds", "us": ...}

One wave of the block in the middle of the grid is run through the listing (`wave`), at ZAYA1-8B's size; the others are
taken to be like it. Its clocks times the number of waves, over the units there are, give

    memory    the fewest bytes (`work`), from HBM, or from the Infinity Cache where they fit: what ran before left them
    matrix    clocks of the matrix cores, at the rate that public kernels reach
    vector    clocks of vector instructions, transcendental ones included
    lds       clocks of the banks of LDS, conflicts included
    cache     64 bytes a clock into each compute unit, whatever cache they come from
    latency   a wave alone, waits included, as often as waves do not fit in at a time

What no floor shows: waves that wait for each other at a barrier, units that cannot start at the same time, launches
(about 5 us each without a graph), a clock below 2.1 GHz. So real times are longer. Beside llvm-mca (`mca`) this counts
loops by running them, and knows LDS banks and waits; it knows no dependences between vector instructions, which other
waves hide.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from ...native.compiler import kept
from .. import kernel as module_of
from ..build import KERNELS, build
from .listing import Code, kernels_of
from .wave import Wave, cost_of

# name: (sheet, reached, who measured it)
PEAKS = {
    "HBM, TB/s": (5.3, 4.33, "81% of the sheet: aiweekly.co/alerts/amd-mi300x-hits-only-45-of-peak-flops-in-practice"),
    "Infinity Cache, TB/s": (17.2, 11.9, "chipsandcheese.com/p/testing-amds-giant-mi300x"),
    "bf16 matrix, TFLOP/s": (1307, 708, "rocm.blogs.amd.com, Measuring Max-Achievable FLOPs, part 2"),
    "f32 matrix, TFLOP/s": (163.4, 163.4, "no public figure: the sheet's"),
}
UNITS, SIMDS, CLOCK = 304, 4, 2.1e9
INFINITY = 256 * 2**20
FLOORS = ("memory", "matrix", "vector", "lds", "cache", "latency")


def launch_of(module: object, kernel: str) -> tuple[tuple[int, int, int], int, Sequence]:
    """(grid, threads a block, arguments) of a kernel's launch at ZAYA1-8B's size; big tensors on "meta"."""
    seen = []

    def run(source: str, name: str, grid: Sequence[int], block: int, args: Sequence, lds: int = 0) -> None:
        if name == kernel:
            seen.append(((*grid, 1, 1)[:3], block, list(args)))

    module.full(run, kernel)
    return seen[-1]


def walk(code: Code, grid: tuple[int, int, int], block: int, args: Sequence) -> Wave:
    """The wave in the middle, run. A tensor that the launch reads four times over, or that all L2s hold, is near."""
    at = tuple(n // 2 for n in grid)
    waves = grid[0] * grid[1] * grid[2] * -(-block // 64)
    wave = Wave(code, args, at).run()
    sizes = [arg.nbytes for arg in args if isinstance(arg, Tensor)]
    near = frozenset(i for i, size in enumerate(sizes) if size and wave.asked[i] * waves >= 4 * size)
    return wave if near <= wave.near_by else Wave(code, args, at, near).run()


@functools.cache
def counted(source: str, kernel: str) -> dict:
    """grid, block, waves, and of one wave: `done` (instruction -> times), `unit` (clocks), `clock`; kept on disk."""
    module = module_of(source)
    listing = build(source, "gfx942").with_suffix(".s").read_text("utf-8")
    launch = (KERNELS / source / f"{source}.py").read_text("utf-8")
    return count(listing, kernel, lambda: launch_of(module, kernel), launch)


def count(listing: str, kernel: str, launch: Callable[[], tuple], made_of: str) -> dict:
    """The same for a kernel of any listing. launch: gives what `launch_of` gives; made_of: whatever that hangs on."""
    parts = [Path(__file__).parent / f"{name}.py" for name in ("listing", "operations", "registers", "memory", "wave")]
    ingredients = [listing, *(part.read_text("utf-8") for part in parts), Path(__file__).read_text("utf-8"), made_of]

    def make(aside: Path) -> Path:
        grid, block, args = launch()
        wave = walk(kernels_of(listing, kernel)[kernel], grid, block, args)
        found = dict(grid=grid, block=block, done=dict(wave.done), unit=dict(wave.unit), clock=wave.clock)
        (aside / "count.json").write_text(json.dumps(found), "utf-8")
        return aside / "count.json"

    found = json.loads(kept(f"machine/{kernel}.json", ingredients, make).read_text("utf-8"))
    found["done"] = {int(at): times for at, times in found["done"].items()}
    found["unit"] = Counter(found["unit"])
    blocks = found["grid"][0] * found["grid"][1] * found["grid"][2]
    return found | dict(blocks=blocks, waves=blocks * -(-found["block"] // 64))


def floors(source: str, kernel: str, moved: int, occupancy: int) -> dict:
    """Microseconds by unit, `us` (the largest), `limit` (its name), `matrix_sheet` and `ceiling`: the share of the
    sheet's matrix peak that the largest floor but the matrix cores' own leaves, None without matrix instructions.

    moved: the fewest bytes. occupancy: waves that a SIMD holds.
    """
    return bounds(counted(source, kernel), moved, occupancy, "bf16" if kernel.endswith("bf16") else "f32")


def bounds(found: dict, moved: int, occupancy: int, dtype: str) -> dict:
    """`floors` of what `count` found; dtype, "bf16" or "f32", is that of the matrix cores."""
    unit, waves = found["unit"], found["waves"]
    simds = max(waves / (UNITS * SIMDS), 1)                # waves a SIMD has to run; one at least takes its own time
    units = max(waves / UNITS, -(-found["block"] // 64))
    us = {name: 1e6 * clocks / CLOCK for name, clocks in (
        ("matrix_sheet", unit["mfma"] * simds), ("vector", unit["vector"] * simds), ("lds", unit["lds"] * units),
        ("cache", unit["cache"] * units), ("latency", found["clock"] * max(1, waves / (UNITS * SIMDS * occupancy))))}
    sheet, reached, _ = PEAKS[f"{dtype} matrix, TFLOP/s"]
    us["matrix"] = us["matrix_sheet"] * sheet / reached
    us["hbm"], us["infinity"] = (moved / PEAKS[name][1] / 1e6 for name in ("HBM, TB/s", "Infinity Cache, TB/s"))
    us["memory"] = us["infinity"] if moved <= INFINITY else us["hbm"]
    limit = max(FLOORS, key=us.get)
    others = max(us[name] for name in FLOORS if name != "matrix")
    ceiling = us["matrix_sheet"] / max(others, us["matrix_sheet"]) if unit["mfma"] else None
    return us | dict(us=us[limit], limit=limit, ceiling=ceiling, waves=waves, blocks=found["blocks"],
                     waits=unit["vmcnt waits"])


def hot_loop(code: Code, done: dict[int, int]) -> tuple[int, int]:
    """(first, last) instruction of the loop, none inside it, on which a wave spends most clocks; (0, end) without."""
    loops = [(a, b) for a, b in code.loops if done.get(a, 0) > 1]
    inner = [(a, b) for a, b in loops if not any(a < c and d <= b for c, d in loops)]
    spent = {(a, b): sum(done.get(i, 0) * cost_of(code.instructions[i]) for i in range(a, b + 1)) for a, b in inner}
    return max(spent, key=spent.get, default=(0, len(code.instructions) - 1))


def loop(source: str, kernel: str) -> dict:
    """The hot loop of a kernel: `turns` of the wave, `lines` (times, text), `kinds` (instructions a turn), `clocks`."""
    code = kernels_of(build(source, "gfx942").with_suffix(".s").read_text("utf-8"), kernel)[kernel]
    done = counted(source, kernel)["done"]
    first, last = hot_loop(code, done)
    turns, kinds, clocks = max(done.get(first, 1), 1), Counter(), Counter()
    for i in range(first, last + 1):
        one = code.instructions[i]
        kinds[one.kind] += done.get(i, 0) / turns
        clocks[one.kind] += done.get(i, 0) / turns * cost_of(one)
    lines = [(done[i], code.instructions[i].text) for i in range(first, last + 1) if done.get(i)]
    return dict(turns=turns, kinds={kind: round(n, 2) for kind, n in kinds.items() if n},
                clocks={kind: round(clocks[kind]) for kind in ("mfma", "vector", "transcendental") if clocks[kind]},
                lines=lines)
