"""Two processes and a pipe: the judge's end and the student's.

`student` is a student's process, made by `process`, behind the walls of `fence`; `remote` is the judge's end, which
calls the functions there as if they were here. `wire` carries messages, `pack` and `unpack` make them of values and
back.
"""
