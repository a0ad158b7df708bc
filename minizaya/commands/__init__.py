"""The command line, one module a command: `add_arguments(parser)` and `run(args) -> int`, the exit code. Nothing imports them."""
