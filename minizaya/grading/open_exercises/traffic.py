"""Lesson 14: an RMSNorm of rows of any width with fewer bytes moved, by the tracer, against the lesson's own answer."""

import re

import torch

from ...hip import KernelError, ladder
from ...laws.core import Broken, Subject, expect, require
from .renamed import number

LAWS = ("kernels.rms_norm",)
COST = "bytes moved for each byte that must be"
ROWS, WIDTHS = 2, (700, 2049, 4097)
# trap: what the compiler is told not to watch, or does by a call into a library, moves bytes that the tracer never sees
UNSEEN = re.compile(r"\b(asm|__asm\w*|mem\w+|std|pragma|__attribute\w*|__builtin\w*|mz_\w+|trace|fibers|"
                    r"extern(?!\s*\"C\"\s*__global__))\b|\[\[|##|#\s*(?!include\b|define\b)\w|\?\?")


def measured(fn: Subject, seed: str) -> float:
    """fn(): the text of a kernel, as in the law `kernels.rms_norm`."""
    text, moved, least = fn(), 0, 0
    require(isinstance(text, str), f"you gave a {type(text).__name__}, the law wants the kernel's text")
    found = UNSEEN.search(text)
    require(not found, f"the tracer may not see what {found and found[0]!r} does; leave it out")
    for width in WIDTHS:
        draw = torch.Generator().manual_seed(number(seed, width))
        x, weight = torch.randn(ROWS, width, generator=draw), torch.randn(width, generator=draw)
        seen: list[int] = []
        try:
            y = ladder.rms_norm_from(text, 64, seen)(x, weight, 1e-5)
        except KernelError as error:
            raise Broken(str(error)[-1500:]) from error
        exact = x.double()
        expect(y, (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-5) * weight).float(), "y c")
        fewest = 4 * (2 * x.numel() + width)
        require(sum(seen) >= fewest, f"at width {width} the tracer saw {sum(seen)} bytes of {fewest}")
        moved, least = moved + sum(seen), least + fewest
    return moved / least


def baseline(seed: str) -> float:
    return measured(Subject(ladder.rms_norm_text), seed)
