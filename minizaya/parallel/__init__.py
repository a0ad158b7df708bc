"""Several processes, one model: data, experts, context dealt out to ranks; losses and gradients of one process.

In reading order: `layout` (the numbers behind dp2xep2), `expert_parallel` (tokens sent to their experts and back),
`context_parallel` (a stretch of each row a rank), `grid` (all of it together, weights and moments sharded), `trainer`
(the loop), `sharded_checkpoint` and `sharded_state` (any layout reads what any other wrote), `launch` (starts the
ranks, says which one failed), `traffic` (who sends how many bytes to whom). That it is the same model is measured by
`studies.equality`.
"""
