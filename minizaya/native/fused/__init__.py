"""What stands between the matrix products of a model, as loops in C++ with gradients: training and long prompts.

In reading order: `library` compiles the loops and calls them; `merge` joins the residual stream and norms it; `mix`
makes queries, keys and values; `attend` looks at them, a tile at a time; `route` chooses an expert for each token,
`experts` runs each expert on its own; `loss` never holds all logits at once; `model` puts them together. The C++
(`fused.cpp`, `mix.cpp`, `attend.cpp`, `experts.cpp`) stands beside them. The plain path of each is in `arch`.
"""
