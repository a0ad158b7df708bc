"""Canaries: cheap alarms for text that has gone wrong.

A repeating text compresses too well. Each answer's token ids go through one LZ77 compressor (zlib), chunk by chunk; the
ratio of a chunk is its compressed size over its size. Below the threshold the answer is called a loop, and its reward
is zero before any advantage is computed (report, equation 16): otherwise a loop that stumbles over the answer teaches
looping.

The report does not give chunk, id width and overhead. Measured, so that nobody has to guess: a window of 2^10 bytes
(zlib's smallest that works) sees repeats up to 762 bytes back; at level 1 long matches are skipped over, so chunks of
64 or 128 catch what chunks of 256 miss. A small alphabet compresses well without any loop: written in one byte each,
digits that count upwards reach 0.03. So ids take four bytes here, and the threshold is set by `calibrated` on the
model's own answers.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import check_settings
from ..data.ids import token_ids

FLUSH = 4  # bytes that a sync flush adds to a chunk


def canary(tokens: Sequence[int] | Tensor, chunk: int = 64) -> list[float]:
    """Compressed size over size for each chunk of `chunk` tokens; a last chunk that is not full joins the one before.

    tokens: ids in 0..2^32-1. Returns one float a chunk, about 0.05 and less for a loop; [] for no tokens. The
    compressor remembers the chunks before, so a loop shows from its second turn on. Raises ValueError for others.
    """
    check_settings(locals(), chunk=1)
    ids = token_ids("tokens", tokens, 2**32)
    starts = list(range(0, len(ids), chunk))
    if len(starts) > 1 and len(ids) % chunk:
        starts.pop()  # trap: alone, three tokens of a last chunk would look incompressible
    press = zlib.compressobj(level=1, method=zlib.DEFLATED, wbits=-10)
    ratios = []
    for start, stop in zip(starts, [*starts[1:], len(ids)]):
        raw = b"".join(token.to_bytes(4, "little") for token in ids[start:stop])
        small = press.compress(raw) + press.flush(zlib.Z_SYNC_FLUSH)
        ratios.append((len(small) - FLUSH) / len(raw))
    return ratios


def repeats(tokens: Sequence[int] | Tensor, threshold: float = 0.05, chunk: int = 64) -> bool:
    """Is this answer a loop: does any chunk compress to less than `threshold`?"""
    return any(ratio < threshold for ratio in canary(tokens, chunk))


def calibrated(answers: Sequence[Sequence[int]], chunk: int = 64, share: float = 0.5) -> float:
    """A threshold for these answers, which should be healthy: `share` of the smallest ratio among them.

    Raises ValueError when there is no token to look at.
    """
    ratios = [ratio for answer in answers for ratio in canary(answer, chunk)]
    if not ratios:
        raise ValueError("answers must hold at least one token")
    return share * min(ratios)


def rare_share(tokens: Sequence[int] | Tensor, vocab_size: int, top: float = 0.05) -> float:
    """The share of tokens whose id lies in the last `top` of the vocabulary; 0 for no tokens. To log, not to punish.

    Where ids are sorted by frequency, as in most tokenizers, these are the rare ones: gibberish shows here first.
    """
    check_settings(locals(), top="(0, 1]")
    ids = torch.as_tensor([int(token) for token in tokens], device="cpu")
    return float((ids >= vocab_size * (1 - top)).float().mean()) if len(ids) else 0.0
