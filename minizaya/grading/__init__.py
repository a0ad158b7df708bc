"""Judging notebooks of strangers, for `minizaya grade` and `minizaya lessons`.

`notebook` reads one as cells and says which of them count; `table` has the exercises and their laws (exercises.json).
A class's folder is `submissions`, its results are `report`, with what `similarity` found; a student's own is `course`.
`warden` is the process with everything imported; it makes one `judge` for each notebook, and that one a student's
process for each exercise, which it calls over a pipe: `apart`. `handout` makes lessons without answers, and slides;
`book` the site to read. `open_exercises` have no answer here, but a cost, and a class's leader board.

What a student's process can do is answer calls with plain data and tensors. It holds no law, no tolerance and no
implementation of what the exercise asks for, and cannot read the library's text.
"""
