"""Several processes, one model: data, experts and context dealt out to ranks, with the losses and gradients of one process.

In reading order: `layout` (the numbers behind dp2xep2), `expert_parallel` (tokens sent to their experts and back),
`context_parallel` (a stretch of each row a rank), `grid` (all of it together, weights and moments sharded), `trainer` (the loop),
`sharded_checkpoint` (any layout reads what any other wrote), `launch` (starts the ranks, says which one failed), `equality` and
`traffic` (is it the same model, and who sends how many bytes to whom).
"""
