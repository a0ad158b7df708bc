"""`--device`: where a command computes. Said in one line on standard error, so that nobody waits for an idle GPU.

The rule: everything is computed where the model is. A command puts its model there; training, answering and timing ask
the model, and move what they need to it.
"""

import argparse
import re
import sys

import torch


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="WHERE",
                        help="auto, cpu, cuda or cuda:N; auto is the first GPU where there is one (default auto)")


def choose(name: str) -> torch.device:
    """The device of that name, announced. torch calls AMD's GPUs "cuda", too.

    Raises ValueError for another name than the four kinds that `--device` takes, or a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d*))?", name):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if name == "auto":
        name = "cuda" if count else "cpu"
    number = int(name.partition(":")[2] or 0)
    if name != "cpu" and number >= count:
        raise ValueError(f"device must be on this machine, which has {count} GPUs that torch can use, got {name!r}")
    device = torch.device("cpu") if name == "cpu" else torch.device("cuda", number)
    what = torch.cuda.get_device_name(number) if count and name != "cpu" else f"{torch.get_num_threads()} threads"
    print(f"device: {device} ({what})", file=sys.stderr)
    return device
