"""Real English that is already on your disk, and the windows a model reads it through.

Python's own help texts (`pydoc_data.topics`, the language reference) are in every installation: about
465,000 characters of careful prose and examples. So the first training run needs no network.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import check_settings
from .ids import token_tensor

# The characters a nano model knows: newline, printable ASCII, and the typographic marks of the help texts.
# trap: the help texts differ a little from one Python version to the next. An alphabet made from the text
# would change the vocabulary with the Python version, and a checkpoint made on one would not fit another.
# So the alphabet is fixed; a character that a later version adds is read as <unk>.
ALPHABET = "\n" + "".join(map(chr, range(32, 127))) + "°ß–—‘’“”…"

HELD_OUT = 0.1


def english() -> str:
    """The help texts of this Python, joined in the order of their sorted keys.

    Raises RuntimeError if this Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RuntimeError("this Python has no pydoc_data.topics; use a standard installation of Python") from error
    return "".join(topics[key] for key in sorted(topics))


def split(text: str) -> tuple[str, str]:
    """(train, held_out): the first nine tenths and the last tenth.

    One cut, not a random choice of lines: neighbouring lines say nearly the same thing, and a random choice
    would let the model read the answer next door.
    """
    cut = len(text) - int(len(text) * HELD_OUT)
    return text[:cut], text[cut:]


class Batches:
    """Random windows of a long token sequence; batch number `step` depends on (seed, step) alone.

    So there is no random state to save: a run that resumes at step 1,000 reads exactly what it would have
    read without the stop.

        batches = Batches(tokens, batch=16, seq=128, seed=0)
        inputs, targets = batches(step)

    Args:
        tokens: int64 (n,) tensor or a list of ids, n > seq.
        batch, seq: rows and columns of a batch, at least 1.
        seed: any int.

    Raises ValueError if the text is too short for one window, or holds what is no token id.
    """

    def __init__(self, tokens: Sequence[int] | Tensor, batch: int, seq: int, seed: int):
        tokens = token_tensor("tokens", tokens)
        check_settings(locals(), seq=1, batch=1)
        if len(tokens) < seq + 1:
            raise ValueError(f"tokens must hold at least seq + 1 = {seq + 1} tokens, got {len(tokens)}")
        self.tokens, self.batch, self.seq, self.seed = tokens, batch, seq, seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets), both int64 (batch, seq); targets[b, t] is the token after inputs[b, t]."""
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        # A text seed is hashed with SHA-512, the same on every machine; seed + step would make
        # (seed 0, step 1) and (seed 1, step 0) the same batch.
        rng = random.Random(f"batch/{self.seed}/{step}")
        starts = [rng.randrange(len(self.tokens) - self.seq) for _ in range(self.batch)]
        windows = torch.stack([self.tokens[start : start + self.seq + 1] for start in starts])
        return windows[:, :-1], windows[:, 1:]
