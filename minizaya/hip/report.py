"""What a kernel costs on MI300X, read off its machine code: the command `kernels`.

Registers, LDS, scratch and spills come from the metadata that the compiler writes beside the code. Occupancy follows from
them. The predicted time is the roofline's: the slower of moving the fewest possible bytes at 4.33 TB/s (measured by others;
the sheet says 5.3) and computing at the sheet's peak, both at ZAYA1-8B's size with 16384 tokens. A lower bound, without the
cost of a launch. No MI300X has been at hand to compare.
"""

import json
import re
import sys

from . import kernel, names
from .build import KERNELS, NoCompiler, build, build_all, compiler

BANDWIDTH = 4.33e12                       # bytes/s of HBM in practice
PEAK = {"bf16": 1307e12, "f32": 163e12}   # FLOP/s of the matrix cores; float32 vectors have the same 163
UNITS, SIMDS, REGISTERS, LDS, MOST_WAVES = 304, 4, 512, 65536, 8
TOKENS = 16384

METADATA = ("vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count", "group_segment_fixed_size",
            "private_segment_fixed_size", "max_flat_workgroup_size", "kernarg_segment_size")


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
    try:
        compiler("gfx942")
        able = True
    except NoCompiler:
        able = False
    found = []
    for source in [only] if only else names():
        module = kernel(source)
        functions = declared(source)
        if able:
            path = build(source, "gfx942")
            listing = metadata(path.with_suffix(".s").read_text())
        for name in functions:
            bytes_, flops = module.work(name, TOKENS)
            row = dict(name=name, source=source, vgpr=None, sgpr=None, lds=None, scratch=None, spills=None, occupancy=None,
                       mfma=None, bytes=bytes_, flops=flops, intensity=round(flops / bytes_, 2), predicted_us=None, hsaco=None)
            if able:
                n = listing[name]
                dynamic = module.dynamic_lds(name) if hasattr(module, "dynamic_lds") else 0
                row |= dict(vgpr=n["vgpr_count"], sgpr=n["sgpr_count"], lds=n["group_segment_fixed_size"] + dynamic,
                            scratch=n["private_segment_fixed_size"], spills=n["vgpr_spill_count"] + n["sgpr_spill_count"],
                            occupancy=occupancy(n, dynamic), mfma=n["mfma"],
                            predicted_us=round(predicted_us(bytes_, flops, name, n["mfma"]), 3), hsaco=str(path))
            found.append(row)
    return found


def declared(source: str) -> list[str]:
    """The kernel functions of a source, in its order: what LAUNCHABLE names, its macros' parameters filled in. No compiler
    is asked, so that the list can be had anywhere."""
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


# ---- the command -----------------------------------------------------------------------------------------------------


def add_arguments(parser) -> None:
    parser.add_argument("name", nargs="?", choices=names() or None, help="one kernel only")
    parser.add_argument("--build", action="store_true", help="build all of them, for the CPU and for MI300 (gfx942)")
    parser.add_argument("--trace", action="store_true", help="run the example on the CPU and count what it moves")
    parser.add_argument("--figure", metavar="FILE", help="with --trace: draw who touches what into FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args) -> int:
    if not names():
        raise ValueError("the folder `kernels` is not beside the package: install from a checkout (pip install -e .)")
    if args.build:
        built(args.name)
    if args.trace or args.figure:
        return trace(args)
    found = rows(args.name)
    if found[0]["hsaco"] is None:
        print("no compiler for gfx942, so no registers: `apt-get install clang-19 lld-19`", file=sys.stderr)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"{'kernel':34}{'VGPR':>6}{'LDS':>7}{'scratch':>8}{'spills':>7}{'waves':>6}{'MFMA':>6}{'MB':>9}{'FLOP/B':>8}{'us':>9}")
    for row in found:
        cells = [("-" if row[key] is None else row[key]) for key in ("vgpr", "lds", "scratch", "spills", "occupancy", "mfma")]
        us = "-" if row["predicted_us"] is None else f"{row['predicted_us']:.1f}"
        print(f"{row['name']:34}{cells[0]:>6}{cells[1]:>7}{cells[2]:>8}{cells[3]:>7}{cells[4]:>6}{cells[5]:>6}"
              f"{row['bytes'] / 1e6:>9.2f}{row['intensity']:>8}{us:>9}")
    print(f"\nat ZAYA1-8B's size, {TOKENS} tokens, on MI300X; waves: per SIMD, of 8; us: the roofline's lower bound")
    return 0


def built(only: str | None) -> None:
    """Builds for every target that this machine has a compiler for, and says which it has not."""
    targets = []
    for target in ("cpu", "gfx942"):
        try:
            compiler(target)
            targets.append(target)
        except NoCompiler as error:
            print(error, file=sys.stderr)
    done = [build(only, target) for target in targets] if only else build_all(targets)
    print(f"built {len(done)} libraries for {' and '.join(targets) or 'nothing'}", file=sys.stderr)


def trace(args) -> int:
    """The three measures of each tensor, counted access by access."""
    import torch

    from .trace import traced

    documents = []
    for name in [args.name] if args.name else names():
        with traced() as found:
            module = kernel(name)
            module.launch(found.launcher, *module.example(torch.bfloat16), **getattr(module, "TRACED", {}))
        documents.append(dict(name=name, asked=found.asked, moved=found.moved, least=found.least,
                              conflicts=round(found.conflicts(), 3), tensors=found.table()))
        if args.figure:
            from ..plots.hip_kernels import traffic

            traffic(found).savefig(args.figure)
    if args.json:
        print(json.dumps(documents))
        return 0
    for row in documents:
        print(f"{row['name']}: {row['moved']} bytes moved, {row['least']} at least ({row['moved'] / row['least']:.2f}); LDS takes "
              f"{row['conflicts']} times the cycles it would without bank conflicts")
        for t in row["tensors"]:
            print(f"    {t['kernel']:32} {t['dtype']:9}{str(tuple(t['shape'])):18} moved {t['moved']:>9}, at least {t['least']:>9}")
    return 0
