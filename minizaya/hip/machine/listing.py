"""A gfx942 listing as a list of instructions: what `report`, `wave` and `floors` read.

    code = kernels_of(path.read_text())["moe_hidden_bf16"]
    code.instructions[7].op, code.instructions[7].operands, code.loops
"""

import re
from dataclasses import dataclass, field

METADATA = ("vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count",
            "group_segment_fixed_size", "private_segment_fixed_size", "max_flat_workgroup_size", "kernarg_segment_size")
# what takes which unit: the first pattern that fits names the kind
KINDS = (("mfma", r"v_mfma_"), ("transcendental", r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_"), ("vector", r"v_"),
         ("lds", r"ds_"), ("load", r"(global|flat|buffer)_load"), ("store", r"(global|flat|buffer)_(store|atomic)"),
         ("wait", r"s_waitcnt"), ("barrier", r"s_barrier"), ("scalar", r"s_"))


@dataclass(slots=True)
class Instruction:
    """One line: `op` without the assembler's suffix (_e32, _e64), operands as written, what follows as modifiers."""

    op: str
    operands: list[str]
    modifiers: str
    kind: str
    text: str


@dataclass
class Code:
    """A kernel: its instructions, where labels point, its loops ((first, last) instruction, inner ones later), and
    what the compiler says of it."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    ids: int = 1                           # how many of the block's three indices it is given

    @property
    def loops(self) -> list[tuple[int, int]]:
        """(first, last) of every stretch that a branch at its end runs again, by where it begins, the longest first."""
        found = {}
        for i, one in enumerate(self.instructions):
            if one.op.startswith(("s_branch", "s_cbranch")) and self.labels[one.operands[0]] <= i:
                start = self.labels[one.operands[0]]
                found[start] = max(i, found.get(start, 0))
        return sorted(found.items())


def kernels_of(listing: str, only: str | None = None) -> dict[str, Code]:
    """Kernel name -> its `Code`, from the text of a listing. only: the one that is wanted, since most are long."""
    found = {}
    for name, numbers in metadata(listing).items():
        if only not in (None, name):
            continue
        start = listing.index(f"\n{name}:")
        body, _, tail = listing[start:].partition("\n\t.section")
        code = found[name] = Code(numbers=numbers)
        code.ids = len(re.findall(r"workgroup_id_[xyz] 1", tail[:3000].partition(".end_amdhsa_kernel")[0]))
        for line in body.splitlines():
            label = re.match(r"(\.LBB\w+):", line)
            if label:
                code.labels[label[1]] = len(code.instructions)
            words = re.match(r"\t([a-z]\w+)\s*(.*?)\s*(;.*)?$", line)
            if words:
                code.instructions.append(instruction(words[1], words[2]))
    return found


def instruction(op: str, rest: str) -> Instruction:
    names, _, modifiers = re.sub(r",\s+", ",", rest).partition(" ")
    return Instruction(re.sub(r"_(e32|e64|sdwa)$", "", op), names.split(",") if names else [], modifiers,
                       next((kind for kind, pattern in KINDS if re.match(pattern, op)), "scalar"), f"{op} {rest}")


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
