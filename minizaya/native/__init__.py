"""C++ beside Python: the loops that Python is too slow for, each beside the plain path that says what it means.

In reading order: `compiler` finds this machine's compilers and keeps what they made; `matmul` multiplies with weights
as they are stored; `step` takes one token of each of a few sequences through all layers. The C++ itself (`matmul.cpp`,
`step.cpp`) stands beside them. Without a compiler the plain paths do everything: same numbers, slower.
"""
