"""A checkpoint folder as something that answers: the paged model, and the tokenizer that lies beside the weights.

    model, tokenizer = open_weights("ZAYA1-8B")      # a download of the released weights, or what `materialize` wrote

The released folder brings its own tokenizer.json. Random weights have none: a stand-in reads bytes and shows what it
cannot read as its number, so that everything can be tried.
"""

import argparse
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import torch

from ..data.hf_tokenizer import HFTokenizer
from ..data.ids import token_ids
from ..data.tokenizer import ByteTokenizer
from ..native import compiler
from .paging import PagedZaya


class StandIn(ByteTokenizer):
    """Bytes for a model with more ids than there are bytes; an id that means nothing is shown as "[12345]".

    vocab_size: the model's. Raises ValueError when that is less than what bytes and special tokens need.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        if vocab_size < self.vocab_size:
            raise ValueError(f"vocab_size must be at least {self.vocab_size} to read bytes, got {vocab_size}: put the "
                             "model's own tokenizer.json beside the weights, or take a preset with more ids, "
                             "such as micro")
        self.known, self.vocab_size = self.vocab_size, vocab_size

    def decode(self, ids: Iterable[int], keep_special: bool = True) -> str:
        pieces = []
        for known, run in groupby(token_ids("ids", ids), lambda token: 0 <= token < self.known):
            run = list(run)
            pieces.append(super().decode(run, keep_special) if known else "".join(f"[{token}]" for token in run))
        return "".join(pieces)


def home(preset: str) -> Path:
    """Where a folder of this preset lives unless somebody says otherwise: in the user's cache. It need not be there."""
    return compiler.home() / preset


def open_weights(folder: str | Path, dtype: str = "float32",
                 int8: bool = False) -> tuple[PagedZaya, HFTokenizer | StandIn]:
    """(PagedZaya, tokenizer) of a checkpoint folder in any layout.

    dtype: "float32" or "bfloat16", of activations and cache. Raises FileNotFoundError, or ValueError saying what is
    wrong, also when the tokenizer has ids that the model has not.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"weights must be a checkpoint folder, got {str(folder)!r}")
    model = PagedZaya(folder, getattr(torch, dtype), int8)
    file = folder / "tokenizer.json"
    tokenizer, ids = HFTokenizer(file) if file.exists() else StandIn(model.config.vocab_size), model.config.vocab_size
    if tokenizer.vocab_size > ids:
        raise ValueError(f"{file} has {tokenizer.vocab_size} ids, the model {ids}: it is another model's tokenizer")
    return model, tokenizer


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sample` and `serve` that go with --weights."""
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="with --weights: of activations and cache (default: %(default)s)")
    parser.add_argument("--int8", action="store_true", help="with --weights: keep visited experts in memory as int8")
