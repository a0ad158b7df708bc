"""What a kernel costs on MI300X, read off its machine code.

Registers, LDS, scratch and spills come from the metadata that the compiler writes beside the code. Occupancy follows
from them. The predicted time is the largest of six floors (`machine.floors`), at ZAYA1-8B's size with 16384 tokens. No
MI300X has been at hand to compare. The metadata are YAML; nine numbers need no package to be found.
"""

import re
from collections import Counter

from torch import Tensor

from ..native import compiler
from . import kernel, names
from .build import KERNELS, build
from .machine.floors import FLOORS, SIMDS, bounds, count, floors
from .machine.listing import metadata

REGISTERS, LDS, MOST_WAVES = 512, 65536, 8
TOKENS = 16384
COLUMNS = ("name", "source", "vgpr", "sgpr", "lds", "scratch", "spills", "occupancy", "mfma", "bytes", "flops",
           "intensity", "predicted_us", "limit", "floors", "hsaco")


def occupancy(numbers: dict, dynamic_lds: int = 0) -> int:
    """Waves that a SIMD holds at a time, 0 to 8: what registers and LDS leave room for."""
    waves = -(-numbers["max_flat_workgroup_size"] // 64)
    by_registers = min(MOST_WAVES, REGISTERS // max(8, -(-numbers["vgpr_count"] // 8) * 8))
    blocks = by_registers * SIMDS // waves                                   # whole blocks only
    lds = numbers["group_segment_fixed_size"] + dynamic_lds
    if lds:
        blocks = min(blocks, LDS // lds)
    return min(MOST_WAVES, -(-blocks * waves // SIMDS))


def rows(only: str | None = None) -> list[dict]:
    """One row for each kernel function; `floors` is that of `machine.floors`. Without a compiler for gfx942 the numbers
    of the machine code are None."""
    able, found = compiler.gfx942() is not None, []
    for source in [only] if only else names():
        module = kernel(source)
        functions = declared(source)
        if able:
            path = build(source, "gfx942")
            listing = metadata(path.with_suffix(".s").read_text("utf-8"))
        for name in functions:
            bytes_, flops = module.work(name, TOKENS)
            row = dict.fromkeys(COLUMNS) | dict(name=name, source=source, bytes=bytes_, flops=flops,
                                                intensity=round(flops / bytes_, 2))
            if able:
                n = listing[name]
                dynamic = module.dynamic_lds(name) if hasattr(module, "dynamic_lds") else 0
                row |= dict(vgpr=n["vgpr_count"], sgpr=n["sgpr_count"], lds=n["group_segment_fixed_size"] + dynamic,
                            scratch=n["private_segment_fixed_size"],
                            spills=n["vgpr_spill_count"] + n["sgpr_spill_count"],
                            occupancy=occupancy(n, dynamic), mfma=n["mfma"], hsaco=str(path))
                row["floors"] = floors(source, name, bytes_, row["occupancy"])
                row |= dict(predicted_us=round(row["floors"]["us"], 3), limit=row["floors"]["limit"])
            found.append(row)
    return found


def predicted(listing: str, name: str, launch: tuple, least: int, dtype: str = "f32", times: int = 1) -> dict:
    """vgpr, lds, occupancy and `floors` of any kernel. launch: (grid, threads, arguments), big tensors on "meta".
    least: the fewest bytes. dtype: "f32" or "bf16", what the matrix cores would take. times: the launch stands for a
    wave that does so many times as much, all of it alike."""
    numbers, (grid, block, args) = metadata(listing)[name], launch
    shapes = [tuple(arg.shape) if isinstance(arg, Tensor) else arg for arg in args]
    found, waves = count(listing, name, lambda: launch, repr((grid, block, shapes))), occupancy(numbers)
    found |= dict(clock=times * found["clock"], unit=Counter({unit: times * n for unit, n in found["unit"].items()}))
    return dict(vgpr=numbers["vgpr_count"], lds=numbers["group_segment_fixed_size"], occupancy=waves,
                floors=bounds(found, least, waves, dtype))


def markdown(source: str) -> str:
    """The kernel's rows as the table that its README shows: registers, LDS, waves, and the floors in microseconds."""
    lines = [f"| kernel | VGPR | LDS | waves | {' | '.join(FLOORS)} | of the sheet |", "|---" * (len(FLOORS) + 5) + "|"]
    for row in rows(source):
        us = row["floors"]
        cells = [f"**{us[name]:.1f}**" if name == us["limit"] else f"{us[name]:.1f}" for name in FLOORS]
        share = "-" if us["ceiling"] is None else f"{us['ceiling']:.0%}"
        first = [row["name"], row["vgpr"], row["lds"], row["occupancy"]]
        lines.append(f"| {' | '.join(map(str, [*first, *cells, share]))} |")
    return "\n".join(lines)


def declared(source: str) -> list[str]:
    """The kernel functions of a source, in its order: what LAUNCHABLE names, its macros' parameters filled in. No
    compiler is asked, so that the list can be had anywhere."""
    text = (KERNELS / source / f"{source}.hip").read_text("utf-8").replace("\\\n", " ")
    macros = {name: (re.split(r",\s*", parameters), re.findall(r"LAUNCHABLE\(([^)]*)\)", body))
              for name, parameters, body in re.findall(r"^#define (\w+)\(([^)]*)\)(.*)$", text, re.M)}
    found = []
    for call, arguments in re.findall(r"^\s*(\w+)\(([^()]*)\)\s*$", text, re.M):
        if call == "LAUNCHABLE":
            found.append(arguments)
        elif call in macros:
            filled = dict(zip(macros[call][0], re.split(r",\s*", arguments)))
            found += ["".join(filled.get(part, part) for part in pattern.split("##")) for pattern in macros[call][1]]
    return found
