"""A Hugging Face tokenizer as a part of a run: written into its checkpoint, read back from it, missed in one line."""

import json

import pytest
import torch

import minizaya as mz
from minizaya import __main__ as cli
from minizaya.data.hf_tokenizer import HFTokenizer
from minizaya.data.tokenizer import SPECIALS, from_dict
from minizaya.train.loop import Recipe, Trainer
from minizaya.train.sources import mixture, text_source

tokenizers = pytest.importorskip("tokenizers")
TEXT = "the answer is 12, then 132: <bos> and naïve\n"


@pytest.fixture
def file(tmp_path):
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=[token for token in SPECIALS if token != "<think>"] + ["<x>"],
        show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator([TEXT] * 20, trainer)
    inner.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_dict_and_back(file):
    tokenizer = HFTokenizer(file, {"<think>": "<x>"})
    again = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.special_ids == tokenizer.special_ids and again.vocab_size == tokenizer.vocab_size
    for allow in (False, True):
        ids = tokenizer.encode(TEXT + "<think>", allow)
        assert again.encode(TEXT + "<think>", allow) == ids and again.decode(ids) == tokenizer.decode(ids)
    assert again.to_dict() == tokenizer.to_dict()


@pytest.mark.parametrize("change, says", [({"file": None}, "must have file"), ({"names": ["<x>"]}, "must have file"),
                                          ({"file": "{}"}, "the tokenizer.json in data is no tokenizer.json"),
                                          ({"names": {}}, "has no tokens")])
def test_a_wrong_dict_is_refused(file, change, says):
    with pytest.raises(ValueError, match=says):
        from_dict(HFTokenizer(file, {"<think>": "<x>"}).to_dict() | change)


def test_a_run_trained_with_it_opens_again(file, tmp_path):
    tokenizer = HFTokenizer(file, {"<think>": "<x>"})
    config = mz.ZayaConfig.preset("nano", vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=1,
                                  num_experts=2, pad_token_id=tokenizer.pad_id, bos_token_id=tokenizer.bos_id,
                                  eos_token_id=tokenizer.eos_id)
    sources = mixture(text_source(tokenizer.encode(TEXT * 50), 2, 16, 0))
    trainer = Trainer(mz.Zaya(config), Recipe(steps=2), sources, run=tmp_path / "run",
                      keep={"tokenizer": tokenizer.to_dict()})
    assert trainer.train(bar=False)
    file.unlink()   # the checkpoint needs nothing beside it
    model, again = mz.zoo.open_model(str(tmp_path / "run"))
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert torch.equal(model.embed.weight, trainer.model.embed.weight)


def test_without_the_package_the_command_says_it_in_a_line(file, tmp_path, monkeypatch, capsys):
    folder = mz.hub.save(mz.Zaya(mz.ZayaConfig.preset("nano", vocab_size=300)), tmp_path / "weights")
    file.rename(folder / "tokenizer.json")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    assert cli.main(["sample", "--weights", str(folder), "--prompt", "Hello"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and 'pip install "minizaya[checkpoints]"' in said


# ---- marks of texts --------------------------------------------------------------------------------------------------

MARK = "\u2581"
PIECES = {  # what puts a mark where a text begins or ends: Llama 2's file, its newer form, GPT-2's option, CLIP's words
    "prepend": ({"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": MARK},
        {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}}, MARK),
    "metaspace": ({"pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always",
                                     "split": False}}, MARK),
    "first": ({"pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first",
                                 "split": False}}, MARK),
    "prefix space": ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                        "use_regex": True}}, "\u0120"),
    "behind": ({"normalizer": {"type": "Replace", "pattern": {"Regex": r"\z"}, "content": "!"}}, "!"),
    "end of word": ({"model": {"end_of_word_suffix": "</w>"}}, "</w>"),
}


def changed(file, change):
    described = json.loads(file.read_text())
    for name, value in change.items():
        described[name] = described[name] | value if name == "model" else value
    file.write_text(json.dumps(described))
    return file


@pytest.mark.parametrize("change, mark", PIECES.values(), ids=PIECES)
def test_a_file_that_marks_texts_is_refused(file, change, mark):
    names = {"<think>": "<x>"}
    plain = HFTokenizer(file, names)
    marked = changed(file, change)
    with pytest.raises(ValueError, match=f"file: .* adds '{mark}' to every text"):
        HFTokenizer(marked, names)
    with pytest.raises(ValueError, match=f"file: the tokenizer.json in data adds '{mark}' to every text"):
        from_dict(plain.to_dict() | {"file": marked.read_text()})


@pytest.mark.parametrize("change", [
    {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": MARK}},    # Gemma's, the released model's
    {"pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "never", "split": False}},
    {"normalizer": {"type": "NFKC"}}, {"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": None}],
    ids=["gemma", "never", "NFKC", "lowercase", "none"])
def test_a_file_that_marks_words_alone_is_read(file, change):
    assert HFTokenizer(changed(file, change), {"<think>": "<x>"})


def test_a_text_is_what_its_pieces_are(file):
    tokenizer = HFTokenizer(file, {"<think>": "<x>"})
    pieces = [TEXT, "a", " b", "", "c ", "<bos>", "\n", "the"]
    assert tokenizer.decode([i for piece in pieces for i in tokenizer.encode(piece)]) == "".join(pieces)
