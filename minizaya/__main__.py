"""The command line: `minizaya COMMAND`, or `python -m minizaya COMMAND`. Without a command it lists them.

Each command is a module with two functions, `add_arguments(parser)` and `run(args) -> int` (the exit code); this file
only knows where they live. With `--json` a command prints exactly one JSON document on standard output; progress bars
and notes go to standard error.

Exit codes: 0 done, 1 the command ran and the answer is no, 2 wrong input (one line says what), 130 stopped by Ctrl-C,
141 nobody reads the output any more (`| head`): then nothing is said.
"""

import argparse
import importlib
import os
import select
import sys
from pathlib import Path
from typing import TextIO

COMMANDS = {
    "doctor": ("minizaya.commands.doctor", "what this machine has, and what each lesson needs"),
    "demo": ("minizaya.commands.demo", "train nano here and show what it learned"),
    "train": ("minizaya.commands.train", "train a model, or go on training it"),
    "parallel": ("minizaya.commands.parallel", "train on several processes: data, expert, context parallel"),
    "stages": ("minizaya.commands.stages", "train a reasoner through all stages"),
    "cascade": ("minizaya.commands.cascade", "reinforcement learning in four stages, from a shipped reasoner"),
    "solve": ("minizaya.commands.solve", "put held-out problems to a model"),
    "evaluate": ("minizaya.commands.evaluate.command", "any server or model on a file of questions"),
    "serve": ("minizaya.commands.serve", "a chat server on this machine, in the protocol of OpenAI"),
    "sample": ("minizaya.commands.sample", "let a trained model answer"),
    "bench": ("minizaya.commands.bench.command", "time this machine, and minizaya against transformers"),
    "kernels": ("minizaya.commands.kernels", "the HIP kernels: registers, LDS, bytes and predicted time on MI300X"),
    "plan": ("minizaya.commands.plan", "parameters, memory, arithmetic, time and cost of a preset"),
    "materialize": ("minizaya.commands.materialize", "a checkpoint folder of random weights, of any preset"),
    "laws": ("minizaya.commands.laws", "what must hold; and a function of yours judged by it"),
    "lessons": ("minizaya.commands.lessons", "check the exercises of the lessons"),
    "grade": ("minizaya.commands.grade", "judge a class's notebooks, each behind walls of its own"),
    "leaderboard": ("minizaya.commands.leaderboard", "a class's best answers to the open exercises"),
}


def available() -> dict[str, tuple[str, str]]:
    """The commands whose module is there. Looks at files: importing them all would take seconds."""
    package = Path(__file__).resolve().parent
    return {name: (module, about) for name, (module, about) in COMMANDS.items()
            if package.joinpath(*module.split(".")[1:]).with_suffix(".py").is_file()}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code. As usual with argparse, --help and wrong flags raise SystemExit."""
    code = 0
    try:
        try:
            code = run(sys.argv[1:] if argv is None else argv)
        finally:
            print(end="", flush=True)    # trap: what is still in the buffer would fail where nobody can say a line
    except BrokenPipeError:
        let_go()
        return 141
    except OSError as error:             # a full disk
        let_go()
        return code or complain("", str(error), 2)
    return code


def run(argv: list[str]) -> int:
    """What `main` does, without a last look at whether the output has arrived."""
    for stream in (sys.stdout, sys.stderr):   # a terminal without our ticks shows their numbers; another stream its own
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="minizaya", description="minizaya: ZAYA1-8B, built to be read.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    first = next((word for word in argv if not word.startswith("-")), None)
    try:
        os.getcwd()    # trap: torch's MKL ends the process where the working folder is gone, and blames itself
    except FileNotFoundError:
        return complain(first, "the working folder is gone: cd to one that is there", 2)
    try:
        for name, (module, about) in available().items():
            command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
            if name == first:  # only the chosen command pays for its imports
                chosen = importlib.import_module(module)
                chosen.add_arguments(command)
        args = parser.parse_args(argv)  # trap: before the next lines, for an unknown command has no `chosen`
        if args.command is None:
            parser.print_help()
            return 0
        return chosen.run(args)
    except KeyboardInterrupt:
        return complain(first, "stopped", 130)
    except ModuleNotFoundError as error:
        return complain(first, f"{error}; `python -m minizaya doctor` says what to install", 2)
    except (ValueError, OSError) as error:  # wrong input; anything else is a bug and shows its traceback
        if isinstance(error, BrokenPipeError) and unread():
            raise
        return complain(first, str(error), 2)


def complain(command: str, message: str, code: int) -> int:
    """One line on standard error, whatever the message holds."""
    print(f"{f'minizaya {command}'.strip()}: {' '.join(message.split())}", file=sys.stderr)
    return code


def unread() -> list[TextIO]:
    """Those of our own streams that are a pipe which nobody reads; a helper that died broke another one."""
    ours, asked = {}, select.poll()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            ours[stream.fileno()] = stream
        except OSError:     # a notebook's is no file
            continue
        asked.register(stream, 0)
    return [ours[number] for number, happened in asked.poll(0) if happened & select.POLLERR]


def let_go() -> None:
    """What the streams still hold goes nowhere, so that Python does not try once more, and complain, at its end."""
    nowhere, broken = os.open(os.devnull, os.O_WRONLY), unread()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            broken.append(stream)
    for stream in broken:
        os.dup2(nowhere, stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
