"""`python -m minizaya bench`: the machine's limits, and ours beside transformers.

In reading order: `timing` (two ways in turn), `command` (training, prefill, decoding, the engine), `data` (trimming,
packing, Muon), `answers` (RSA, an update of reinforcement learning), `losses` (50 steps from the same
weights), `full` (the 8B from its file), `growth` (cost as context, batch, experts and threads grow).
"""
