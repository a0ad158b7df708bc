"""Laws of size and storage: what a long text keeps, what a token reads, who is visited, and weights in one byte."""

from itertools import product

import torch
from torch import Tensor

from ..arch.model import Zaya
from ..native import matmul
from ..plan import account, devices
from . import strategies as draw_a
from .core import Broken, finite, law, require


def whole(got, wanted: int, what: str) -> None:
    require(isinstance(got, int) and not isinstance(got, bool), f"you gave {got!r}, the law wants a whole number (int)")
    require(got == wanted, f"you say {got} {what}, the law wants {wanted}")


def draw_text(draw):
    return dict(config=draw_a.config(draw), tokens=draw_a.size(draw, 1, 9))


@law("scale.kv_bytes", "the cache keeps K and V of every token in every layer, and nothing of the queries",
     cases=draw_a.cases(draw_text), axes={}, guards=[account.kv_bytes_per_token],
     subjects={"account": lambda config, tokens: tokens * account.kv_bytes_per_token(config)})
def kv_bytes(fn, config, tokens):
    """fn(config, tokens): a `ZayaConfig`, an int -> int, bytes of keys and values in bfloat16 after `tokens` tokens."""
    got = fn(config, tokens)
    model = Zaya(config).bfloat16()
    cache = model.new_cache(1)
    with torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.int64), cache=cache)
    kept = sum(kv[:, :, :tokens].numel() * kv.element_size() for kv in cache.kv)
    whole(got, kept, f"bytes for {tokens} tokens in {config.num_hidden_layers} layers, {config.num_key_value_heads} KV "
                     f"heads of {config.head_dim} numbers")


def token_bytes(config) -> int:
    """The library's subject: `devices.decode_bytes` for one sequence without a past."""
    return round(devices.decode_bytes(config, 1, 0)) - account.state_bytes_per_sequence(config)


def draw_tied(draw):
    return dict(config=draw_a.config(draw, tie_word_embeddings=draw_a.flag(draw)))


@law("scale.token_bytes",
     "a token multiplies with all weights but the experts it does not visit; to look up a row multiplies with nothing",
     cases=draw_a.cases(draw_tied), axes={}, subjects={"decode_bytes": token_bytes}, guards=[devices.decode_bytes,
                                                                                            account.active_parameters])
def bytes_of_a_token(fn, config):
    """fn(config): a `ZayaConfig` -> int, bytes of bfloat16 weights that decoding one token multiplies with. The one row
    that is looked up in an embedding which is not the head, too, does not count."""
    got = fn(config)
    with torch.device("meta"):
        model = Zaya(config)
    numbers = 0
    for name, value in model.named_parameters():
        if ".experts." in name:
            numbers += value[0].numel()
        elif name != "embed.weight" or config.tie_word_embeddings:
            numbers += value.numel()
    whole(got, 2 * numbers, f"bytes, of {config.num_experts} experts a layer, the embedding "
                            f"{'tied' if config.tie_word_embeddings else 'not tied'} to the head")


def visited(experts: int, tokens: int) -> float:
    """The library's subject, as `devices.decode_bytes` counts: E (1 - (1 - 1 / E) ** n)."""
    return experts * (1 - (1 - 1 / experts) ** tokens)


def draw_visits(draw):
    return dict(experts=draw_a.size(draw, 1, 5), tokens=draw_a.size(draw, 0, 5))


@law("scale.visited", "tokens that choose at random share experts: n tokens visit n at most",
     cases=draw_a.cases(draw_visits), axes={}, subjects={"formula": visited}, guards=[visited])
def mean_visited(fn, experts, tokens):
    """fn(experts, tokens): two ints -> float, the mean number of different experts that `tokens` tokens visit when each
    chooses one of `experts` at random, whatever the others do."""
    got = fn(experts, tokens)
    require(isinstance(got, (int, float)) and not isinstance(got, bool), f"you gave {got!r}, the law wants a number")
    everything = list(product(range(experts), repeat=tokens))
    wanted = sum(len(set(choice)) for choice in everything) / len(everything)
    require(abs(got - wanted) <= 1e-9 * (1 + wanted),
            f"of {experts} experts you expect {got} to be visited by {tokens} tokens; "
            f"the mean over all {len(everything)} ways to choose is {wanted}")


def draw_matrix(draw):
    rows, columns = draw_a.size(draw, 1, 4), draw_a.size(draw, 1, 6)
    weight = draw_a.tensor(draw, rows, columns, dtype=torch.float32)
    weight[0] *= draw_a.pick(draw, (1.0, 100.0, 0.001, 1e-6, 1e-9))    # one row far larger or smaller than the others
    if draw_a.flag(draw):
        weight[-1] = 0
    return dict(weight=weight)


@law("scale.int8", "each row has a scale of its own, and no number moves by more than half a step of it",
     cases=draw_a.cases(draw_matrix), axes=dict(weight="o c"), subjects={"quantise": matmul.quantise},
     guards=[matmul.quantise])
def int8(fn, weight):
    """fn(weight): float32 (m, k) -> int8 (m, k) and float32 (m,), with int8 * scale, row by row,
    close to the weight."""
    got = fn(weight)
    require(isinstance(got, (tuple, list)) and len(got) == 2, "the law wants two results: int8 numbers and scales")
    small, scale = got
    for name, tensor, dtype, shape in (("the numbers", small, torch.int8, weight.shape),
                                       ("the scales", scale, torch.float32, weight.shape[:1])):
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.shape != shape:
            raise Broken(f"{name} must be {dtype} of shape {tuple(shape)}, you gave "
                         f"{getattr(tensor, 'dtype', type(tensor).__name__)} "
                         f"{tuple(getattr(tensor, 'shape', ()))}")
    finite(scale, "the scales")
    require((scale > 0).all(),
            "a scale must be above zero, also for a row of zeros: divided by zero, its numbers are not numbers")
    off = (small.double() * scale[:, None].double() - weight.double()).abs()
    step = weight.double().abs().amax(-1, keepdim=True) / 127
    wrong = off > step / 2 * (1 + 1e-5) + 1e-15
    if wrong.any():
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise Broken(f"at row {row}, column {column} you store {float(small[row, column]) * float(scale[row]):.6g} for "
                     f"{float(weight[row, column]):.6g}; half a step of 1/127 of the row's largest is "
                     f"{float(step[row, 0]) / 2:.6g}")
