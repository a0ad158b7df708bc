"""The command line, one module a command: `add_arguments(parser)` and `run(args) -> int`, the exit code.

`shared` is what several of them need: the flag `--device`, and no flag without effect. Nothing imports
them but `minizaya.__main__`. argparse and f-strings serve: a library for commands or tables (click, rich) would shorten
nothing here, and each command should run where only the course's own packages are.
"""
