"""From logits to one token: temperature, top-p, min-p, and a choice that no batch mate can disturb.

    p      = softmax(logits / temperature)          in float64
    kept   = top-p set of p  and  min-p set of p    both read off the same p, so their order does not matter
    token  = the first whose cumulated kept mass exceeds uniform * kept mass

Shapes: n sequences, v tokens of the vocabulary.
Sources: top-p, arXiv 1904.09751; min-p, arXiv 2407.01082, which the ZAYA1-8B report (appendix E) sets to 1e-5 against
gibberish of rare tokens. The report does not define it; we take the usual meaning, relative to the largest
probability, not an absolute floor. Ours, not the logits processors of transformers: those filter one after the other,
and draw from one stream of random numbers for the whole batch.
"""

import hashlib
import math
import random
import sys
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor


def check_sampling(temperature: float, top_p: float, min_p: float) -> None:
    """Raises ValueError unless 0 <= temperature < inf, 0 < top_p <= 1 and 0 <= min_p <= 1."""
    for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{name} must be a number, got {value!r}")
    if not 0 <= temperature <= sys.float_info.max:  # trap: a Python integer may be finite, and no float
        raise ValueError(f"temperature must be finite and >= 0 (0 is greedy), got {temperature!r:.80}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1] (1 keeps every token), got {top_p!r}")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p must lie in [0, 1] (0 keeps every token), got {min_p!r}")


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature): (n, v), any float type -> (n, v) float64. temperature > 0."""
    return tempered(logits, temperature).softmax(-1)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature, shifted so that the largest of each row is 0: (n, v), any float type -> (n, v) float64.

    trap: subtract the maximum before dividing. A tiny temperature would otherwise make inf - inf.
    """
    logits = logits.double()
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def top_p_mask(probs: Tensor, top_p: float) -> Tensor:
    """The smallest set of most probable tokens whose mass reaches top_p: (n, v) -> bool (n, v).

    A token is in when the tokens before it have not reached top_p yet, so the first always is. Ties go to the lower id.
    """
    if top_p == 1:  # trap: the cumulated sum may reach 1 by rounding before the last rare token
        return torch.ones_like(probs, dtype=torch.bool)
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    mass_before = F.pad(ranked.cumsum(-1)[..., :-1], (1, 0))
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, mass_before < top_p)


def min_p_mask(probs: Tensor, min_p: float) -> Tensor:
    """The tokens at least min_p times as probable as the most probable one: (n, v) -> bool (n, v)."""
    return probs >= min_p * probs.amax(-1, keepdim=True)


def keep_mask(probs: Tensor, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """What may be sampled, bool (n, v): top-p and min-p together. The most probable token always stays.

    Both sets are read off the same full `probs`: top-p counts mass before min-p renormalises anything.
    """
    return top_p_mask(probs, top_p) & min_p_mask(probs, min_p)


def filtered(logits: Tensor, temperature: float, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """Unnormalised weights of what may be sampled: (n, v) float64, zero where filtered out. temperature > 0."""
    probs = probabilities(logits, temperature)
    if top_p == 1 and min_p == 0:
        return probs
    return probs * keep_mask(probs, top_p, min_p)


def invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The token on which each sequence's uniform number falls.

    weights: (n, v) float64, not negative, a row's sum not zero. uniforms: (n,) float64 in [0, 1). Returns int64 (n,).
    A token of weight zero is never chosen.

    A uniform number is at most 1 - 2^-53, so uniform * total stays below total in float64, and some token is reached.
    trap: a parallel cumulated sum (GPU) may wiggle by one rounding over tokens of weight zero, and lift one of them
    over the target. So their entries are set to zero, which exceeds no target.
    """
    cdf = weights.cumsum(-1).masked_fill(weights == 0, 0.0)
    total = cdf.amax(-1, keepdim=True)
    return (cdf > uniforms[:, None] * total).int().argmax(-1)  # the first True


def choose(logits: Tensor, temperature: float, top_p: float = 1.0, min_p: float = 0.0,
           uniforms: Tensor | None = None) -> Tensor:
    """One token per sequence; row i depends on logits[i] and uniforms[i] alone.

    Args:
        logits: (n, v), any float type. temperature: 0 takes the largest logit, the lower id on a tie.
        uniforms: (n,) float64 in [0, 1); not read at temperature 0.
    Returns:
        int64 (n,).
    Raises:
        ValueError: a row holds NaN, or nothing finite to choose from.
    """
    best, greedy = logits.max(-1)
    if not all(map(math.isfinite, best.tolist())):   # sooner than by torch, which makes four small operations of it
        raise ValueError(f"logits must hold no NaN and no +inf, and a finite value in every row; the largest of each "
                         f"row: {best.tolist()}")
    if temperature == 0:
        return greedy
    return invert_cdf(filtered(logits, temperature, top_p, min_p), uniforms)


def draw_uniforms(prompts: list[list[int]], count: int, seed: int) -> Tensor:
    """(n, count) float64 in [0, 1): one stream of random numbers per sequence, step i reading column i.

    The stream comes from the seed, the prompt's own tokens, and how many times that prompt stood earlier in the list.
    So a prompt draws the same numbers in any company and at any place, and copies of one prompt draw different ones.
    Python's generator and SHA-256 are the same on every machine and version; a longer stream starts with the shorter.
    """
    drawn = [[stream.random() for _ in range(count)] for stream in streams(prompts, seed)]
    return torch.tensor(drawn, dtype=torch.float64, device="cpu").reshape(len(prompts), count)


def streams(prompts: list[list[int]], seed: int) -> list[random.Random]:
    """The random numbers of each prompt, as `draw_uniforms` says, to be drawn one by one."""
    copies, found = Counter(), []
    for prompt in prompts:
        text = ",".join(map(str, prompt))
        key = hashlib.sha256(f"{seed}/{copies[text]}/{text}".encode()).digest()
        copies[text] += 1
        found.append(random.Random(int.from_bytes(key, "big")))
    return found
