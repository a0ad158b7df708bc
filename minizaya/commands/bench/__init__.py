"""`python -m minizaya bench`: the machine's limits, and ours beside transformers.

In reading order: `timing` (two ways in turn), `command` (training, prefill, decoding, the engine), `data` (trimming,
packing, Muon), `answers` (RSA, an update of reinforcement learning), `full` (the 8B from its file).
"""
