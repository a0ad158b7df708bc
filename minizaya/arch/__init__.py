"""The model: what happens between a token's id and the next token's probabilities.

In reading order: `residual` (norms, and the learned scales on both streams), `attention` (positions, masks, attention
itself), `cache` (what must be remembered between two calls), `cca` (attention in a narrow space), `router` (which
expert a token visits), `balance` (keeping every expert busy), `experts` (the experts: a plain loop and a fast path),
`block` (one layer), `model` (all of them). Where a function has a fast twin, the plain one is the text to read, and one
law judges both.
"""
