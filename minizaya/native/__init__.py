"""C++ beside Python: the loops that Python is too slow for, each beside the plain path that says what it means.

In reading order: `compiler` finds this machine's compilers and keeps what they made; `matmul` multiplies with weights
as they are stored; `layout` says where the numbers of a model lie; `step` takes one token of each sequence through all
layers; `fused` trains, and reads long prompts; `known` says which models C++ can run. The C++ of `matmul` and `step` is
in `decode`: `matmul.cpp` multiplies, `decode/model.cpp` says where a model's numbers lie, `past.cpp` looks at the past,
and `step.cpp` goes through the layers. `lanes.cpp` is for all loops: vectors of floats.
Without a compiler the plain paths do everything: same numbers, slower.
"""
