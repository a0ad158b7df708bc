"""What a token id is: one rule, wherever ids come in. Flags, measurements, texts and their bytes are none."""

import array

import numpy as np
import pytest
import torch

import minizaya as mz
from minizaya.data import chat, ngram, pack
from minizaya.data.ids import token_ids, token_tensor
from minizaya.data.text import Batches
from minizaya.data.tokenizer import ByteTokenizer
from minizaya.hub.weights import StandIn
from minizaya.infer.engine import Engine
from minizaya.infer.generate import generate
from minizaya.infer.rsa import RSAConfig, markovian_rsa
from minizaya.rl.canary import canary

BYTES = ByteTokenizer()
IDS = [np.array([1, 2, 0]), np.array([1, 2, 0], dtype=np.uint8), torch.tensor([1, 2, 0]), (1, 2, 0),
       [np.int32(1), 2, 0], torch.tensor([1, 2, 0], dtype=torch.uint8), array.array("i", [1, 2, 0]),
       [torch.tensor(1), 2, torch.tensor(0, dtype=torch.int8)]]
NONE = [[True, False], np.array([True, False]), torch.tensor([True, False]), [1, True], [np.bool_(True)],
        [torch.tensor(True)], [1.0, 2.0], [1.9], np.array([1.0]), torch.tensor([1.0, 2.0]), [np.float32(1)],
        [torch.tensor(1.0)], ["1"], "12", b"ab", bytearray(b"ab"), [[1]], torch.tensor([[1, 2]]),
        torch.tensor([[1], [2]]), [torch.tensor([1])], np.array([[1]]), [None], {1: 2}, [1j], torch.tensor([1j])]


@pytest.fixture(scope="module")
def model():
    return mz.Zaya(mz.ZayaConfig.preset("nano")).eval()


def batches(ids):
    return Batches(ids, 1, 1, 0).tokens.tolist()


def rows(ids):
    return pack.lay_out([ids], [[0]], 9, 0).tokens[0, : len(ids)].tolist()


def tries(model):
    """Each place where others' ids come in -> what it makes of them."""
    def traces(prompts, room):
        return [given for _ in prompts]

    def rsa(ids):
        nonlocal given
        given = ids
        return markovian_rsa(traces, [1, 2], one).rounds[0][0]

    given, one = None, RSAConfig(N=1, C=1, T=0, beta=9, tau=2)
    return {
        "decode": lambda ids: [ord(letter) for letter in BYTES.decode(ids)],
        "stand-in": lambda ids: [ord(letter) for letter in StandIn(300).decode(ids)],
        "read": lambda ids: chat.read(ids, BYTES) or [1, 2, 0], "batches": batches, "pack": rows,
        "ngram": lambda ids: ngram.witten_bell(ids, [1], 9) and [1, 2, 0],
        "canary": lambda ids: canary(ids) and [1, 2, 0],
        "prompt": lambda ids: generate(model, [ids], 1, temperature=0) and [1, 2, 0],
        "stop": lambda ids: generate(model, [[1]], 1, temperature=0, stop=ids) and [1, 2, 0],
        "engine": lambda ids: Engine(model, 1, 16).submit(ids, 1) is not None and [1, 2, 0], "rsa": rsa,
        "question": lambda ids: markovian_rsa(lambda p, room: [[1]], ids, one) and [1, 2, 0],
        "ids": lambda ids: token_ids("x", ids, 9), "tensor": lambda ids: token_tensor("x", ids).tolist()}


@pytest.mark.parametrize("ids", IDS, ids=repr)
def test_any_integers_are_ids(ids, model):
    for place, take in tries(model).items():
        assert take(ids) == [1, 2, 0], place


@pytest.mark.parametrize("ids", NONE, ids=repr)
def test_what_is_no_integer_is_none(ids, model):
    for place, take in tries(model).items():
        with pytest.raises(ValueError, match="must be (a list of token ids|one-dimensional) *.*integers") as error:
            pytest.fail(f"{place}: {take(ids)}")
        assert len(str(error.value)) < 300


def test_what_is_said_is_short_and_names_the_first_wrong_id():
    with pytest.raises(ValueError, match=r"x must be a list of token ids \(integers\), got \[0.5, 0.5,.*\.\.\.\]"):
        token_ids("x", [0.5] * 10000)
    with pytest.raises(ValueError, match=r"got tensor\(.*, torch.bool \(2,\)"):
        token_ids("x", torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"x must hold ids in 0..8 \(the vocabulary\), got 9"):
        token_ids("x", [1, 9, 10, -1], 9)
    assert token_ids("x", iter([3]), 9) == token_ids("x", {3}, 9) == [3] and token_ids("x", []) == []
    assert token_tensor("x", []).dtype == torch.int64


def test_a_loss_mask_holds_flags():
    """A weight would count as True."""
    for flags in ([True, False], [1, 0], torch.tensor([1, 0]), np.array([True, False])):
        assert pack.lay_out([[5, 6]], [[0]], 2, 0, [flags]).targets.tolist() == [[-100, -100]]
    for flags in ([1, 0.5], [2, 0], torch.tensor([0.1, 1.0])):
        with pytest.raises(ValueError, match=r"loss_masks\[0\] must hold True and False"):
            pack.lay_out([[5, 6]], [[0]], 2, 0, [flags])
