"""What `minizaya kernels` prints: all kernels, the hot loop of one, the steps of a ladder."""

from .machine.floors import FLOORS, PEAKS, UNITS
from .report import TOKENS

COUNTS = {"vgpr": ("VGPR", 6), "lds": ("LDS", 7), "scratch": ("scratch", 8), "spills": ("spills", 7),
          "occupancy": ("waves", 6), "mfma": ("MFMA", 6)}


def table(rows: list[dict]) -> str:
    """Rows of `report.rows`, and what their columns mean."""
    lines = [f"{'kernel':32}{''.join(f'{title:>{width}}' for title, width in COUNTS.values())}{'MB':>9}"
             f"{''.join(f'{name:>9}' for name in FLOORS)}{'sheet':>7}  limit"]
    for row in rows:
        cells = "".join(f"{'-' if row[key] is None else row[key]:>{width}}" for key, (_, width) in COUNTS.items())
        us = row["floors"]
        shown = "".join(f"{'-' if us is None else f'{us[name]:.1f}':>9}" for name in FLOORS)
        share = "-" if us is None or us["ceiling"] is None else f"{us['ceiling']:.0%}"
        lines.append(f"{row['name']:32}{cells}{row['bytes'] / 1e6:>9.2f}{shown}{share:>7}  {row['limit'] or '-'}")
    lines.append(f"\nat ZAYA1-8B's size, {TOKENS} tokens, on MI300X; waves: per SIMD, of 8. memory to latency: "
                 "microseconds\nthat each unit needs at least, the largest is the prediction; sheet: the share of the "
                 "sheet's matrix peak\nthat the other floors leave. Counted from the machine code and never measured. "
                 "Peaks:")
    lines += [f"  {name}: {reached:g} ({sheet:g} on the sheet): {who}" for name, (sheet, reached, who) in PEAKS.items()]
    return "\n".join(lines)


def hot_loop(row: dict, hot: dict) -> str:
    """The loop in which a kernel spends its time, its counts, and what limits it. row: of `report.rows`; hot: of
    `machine.floors.loop`."""
    us = row["floors"]
    lines = [f"{times:>7} x  {text}" for times, text in hot["lines"]]
    lines += ["", f"{row['name']}: the loop where a wave spends its time runs {hot['turns']} times; a turn has "
              + ", ".join(f"{n:g} {kind}" for kind, n in hot["kinds"].items()),
              "clocks a turn: " + ", ".join(f"{n} {kind}" for kind, n in hot["clocks"].items()),
              f"{us['blocks']} blocks, {us['waves']} waves on {UNITS} compute units, {row['occupancy']} a SIMD at a "
              f"time; a wave stands {us['waits']} times before loads",
              "floors, us: " + ", ".join(f"{floor} {us[floor]:.1f}" for floor in FLOORS)
              + f" (HBM {us['hbm']:.1f}, matrix on the sheet {us['matrix_sheet']:.1f})",
              f"limit: {us['limit']}, {us['us']:.1f} us" + (f"; at most {us['ceiling']:.0%} of the matrix cores' sheet"
                                                            if us["ceiling"] is not None else "")]
    return "\n".join(lines)


def steps(found: list[dict], size: str) -> str:
    """A ladder as a table. found: of `ladder.measure` or `products.measure`, a step each; size: of what was counted."""
    shown = [floor for floor in FLOORS if any(step["floors"][floor] for step in found)]
    lines = [f"{'step':6}{'VGPR':>6}{'LDS':>7}{''.join(f'{floor:>10}' for floor in shown)}   largest, us  of the sheet"]
    for step in found:
        cells = "".join(f"{step['floors'][floor]:>10.0f}" for floor in shown)
        share = f"{step['sheet']:>9.1%}" if "sheet" in step else f"{'-':>9}"
        lines.append(f"{step['step']:6}{step['vgpr']:>6}{step['lds']:>7}{cells}{step['us']:>8.0f} {step['limit']:8}"
                     f"{share}")
    lines.append(f"\n{size}, on MI300X; floors in microseconds, counted from the machine code and never measured")
    return "\n".join(lines)
