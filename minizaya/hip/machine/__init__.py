"""MI300X on paper: a kernel's machine code read, run for one wave, and set against what the machine can do.

In reading order: `listing` (a gfx942 listing as instructions), `operations` (what each computes), `registers` and
`memory` (what one wave sees), `wave` (the wave runs, and its clocks are counted), `floors` (the time that each unit
needs at least; the largest is the prediction), `mca` (the same loops as llvm-mca counts them).
"""
