"""What a kernel costs on MI300X, read off its machine code.

Registers, LDS, scratch and spills come from the metadata that the compiler writes beside the code. Occupancy follows
from them. The predicted time is the roofline's: the slower of moving the fewest possible bytes at 4.33 TB/s (measured
by others; the sheet says 5.3) and computing at the sheet's peak, both at ZAYA1-8B's size with 16384 tokens. A lower
bound, without the cost of a launch. No MI300X has been at hand to compare. The metadata are YAML; nine numbers need no
package to be found.
"""

import re

from ..native import compiler
from . import kernel, names
from .build import KERNELS, build

BANDWIDTH = 4.33e12                       # bytes/s of HBM in practice
PEAK = {"bf16": 1307e12, "f32": 163e12}   # FLOP/s of the matrix cores; float32 vectors have the same 163
UNITS, SIMDS, REGISTERS, LDS, MOST_WAVES = 304, 4, 512, 65536, 8
TOKENS = 16384
COLUMNS = ("name", "source", "vgpr", "sgpr", "lds", "scratch", "spills", "occupancy", "mfma", "bytes", "flops",
           "intensity", "predicted_us", "hsaco")

METADATA = ("vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count",
            "group_segment_fixed_size", "private_segment_fixed_size", "max_flat_workgroup_size", "kernarg_segment_size")


def metadata(listing: str) -> dict[str, dict]:
    """Kernel name -> its numbers, from the text of a gfx942 listing.

    vgpr_count counts the accumulation registers (agpr) too; group_segment_fixed_size is static LDS, and
    private_segment_fixed_size scratch, both in bytes. `mfma`: matrix instructions in the code. `code`: bytes.
    """
    found = {}
    head, _, tail = listing.partition("amdhsa.kernels:")
    for part in re.split(r"\n  - \.agpr_count:", tail)[1:]:
        part = ".agpr_count:" + part
        numbers = {key: int(value) for key, value in re.findall(r"\.(\w+):\s+(\d+)\s*$", part, re.M) if key in METADATA}
        name = re.search(r"^    \.name:\s+(\S+)", part, re.M)[1]
        body = head[head.index(f"\n{name}:"):]
        body = body[: body.index(".end_amdhsa_kernel")] + body[body.index(".end_amdhsa_kernel"):][:4000]
        numbers["mfma"] = len(re.findall(r"^\tv_mfma_", body, re.M))
        numbers["code"] = int(re.search(r"; codeLenInByte = (\d+)", body)[1])
        found[name] = numbers
    return found


def occupancy(numbers: dict, dynamic_lds: int = 0) -> int:
    """Waves that a SIMD holds at a time, 0 to 8: what registers and LDS leave room for."""
    waves = -(-numbers["max_flat_workgroup_size"] // 64)
    by_registers = min(MOST_WAVES, REGISTERS // max(8, -(-numbers["vgpr_count"] // 8) * 8))
    blocks = by_registers * SIMDS // waves                                   # whole blocks only
    lds = numbers["group_segment_fixed_size"] + dynamic_lds
    if lds:
        blocks = min(blocks, LDS // lds)
    return min(MOST_WAVES, -(-blocks * waves // SIMDS))


def predicted_us(moved: int, flops: int, name: str, mfma: int) -> float:
    """The roofline's microseconds: the slower of memory and arithmetic."""
    peak = PEAK["bf16" if name.endswith("bf16") and mfma else "f32"]
    return 1e6 * max(moved / BANDWIDTH, flops / peak)


def rows(only: str | None = None) -> list[dict]:
    """One row for each kernel function. Without a compiler for gfx942 the numbers of the machine code are None."""
    able, found = compiler.gfx942() is not None, []
    for source in [only] if only else names():
        module = kernel(source)
        functions = declared(source)
        if able:
            path = build(source, "gfx942")
            listing = metadata(path.with_suffix(".s").read_text())
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
                            occupancy=occupancy(n, dynamic), mfma=n["mfma"],
                            predicted_us=round(predicted_us(bytes_, flops, name, n["mfma"]), 3), hsaco=str(path))
            found.append(row)
    return found


def declared(source: str) -> list[str]:
    """The kernel functions of a source, in its order: what LAUNCHABLE names, its macros' parameters filled in. No
    compiler is asked, so that the list can be had anywhere."""
    text = (KERNELS / source / f"{source}.hip").read_text().replace("\\\n", " ")
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
