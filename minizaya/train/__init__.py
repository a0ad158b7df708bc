"""How the model learns: from batches as functions of a seed and a step to weights on disk.

In reading order: `muon` and `optim` (the step, and who takes which), `sources` (batches), `loop` (the loop, resumable
to the last digit), `checkpoint` (a kill at any moment leaves the last good one), `run_folder` (is it this run, and how
far does its log go), `run_lock` (one process a folder), `evaluate` (held-out loss, problems solved), `stages` (the
recipe: pretraining, context extension, SFT).
"""
