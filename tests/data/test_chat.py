"""The chat template: what is written, what each token is, what is trained; and Hugging Face tokenizers behind it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minizaya.data import chat
from minizaya.data.hf_tokenizer import HFTokenizer
from minizaya.data.tokenizer import SPECIALS, ByteTokenizer, CharTokenizer
from tokenizer_tools import byte_level_bpe

BYTE = ByteTokenizer()
SUM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "47+85?"},
       {"role": "assistant", "content": "<think>12, 13</think>132"}, {"role": "user", "content": "+1?"},
       {"role": "assistant", "content": "133"}]

plain = st.lists(st.text(max_size=4) | st.sampled_from(SPECIALS), max_size=3).map("".join)
untagged = plain.map(lambda s: s.replace("<think>", "").replace("</think>", "")).filter(
    lambda s: "<think>" not in s and "</think>" not in s)
assistant = st.lists(st.tuples(st.booleans(), untagged), max_size=4).map(
    lambda parts: "".join(f"<think>{text}</think>" if thinks else text for thinks, text in parts)).filter(
    lambda s: s.count("<think>") == s.count("</think>"))
message = st.one_of(
    st.builds(dict, role=st.sampled_from(["system", "user", "tool"]), content=plain),
    st.builds(dict, role=st.just("assistant"), content=assistant))
conversations = st.lists(message, min_size=1, max_size=4)


def rendered(conversation):
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in conversation]
    return "<bos>" + "".join(turns)


# ---- the template ----------------------------------------------------------------------------------------------------


def test_a_conversation_in_full():
    encoded = chat.encode(SUM, BYTE)
    assert BYTE.decode(encoded.tokens) == (
        "<bos><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n47+85?<|im_end|>\n"
        "<|im_start|>assistant\n<think>12, 13</think>132<|im_end|>\n<|im_start|>user\n+1?<|im_end|>\n"
        "<|im_start|>assistant\n133<|im_end|>\n")
    parts = {(span.turn, span.kind): BYTE.decode(encoded.tokens[span.start: span.end]) for span in encoded.spans
             if span.kind != "template"}
    assert parts == {(0, "prompt"): "Be brief.", (1, "prompt"): "47+85?", (2, "reasoning"): "12, 13",
                     (2, "answer"): "132", (3, "prompt"): "+1?", (4, "answer"): "133"}
    trained = [token for token, flag in zip(encoded.tokens, encoded.loss_mask) if flag]
    assert BYTE.decode(trained) == "<think>12, 13</think>132<|im_end|>133<|im_end|>"


def test_an_opened_reply():
    question = SUM[:2]
    encoded = chat.encode(question, BYTE, reply=True)
    assert BYTE.decode(encoded.tokens) == rendered(question) + "<|im_start|>assistant\n"
    assert not any(encoded.loss_mask)
    # what is trained follows on just this prompt
    assert chat.encode(SUM[:3], BYTE).tokens[: len(encoded.tokens)] == encoded.tokens


@settings(max_examples=200)
@given(conversations)
def test_any_conversation(conversation):
    encoded = chat.encode(conversation, BYTE)
    assert BYTE.decode(encoded.tokens) == rendered(conversation)
    assert chat.read(encoded.tokens, BYTE) == conversation
    # spans cover every token once, in order
    assert [span.start for span in encoded.spans] == [0, *(span.end for span in encoded.spans[:-1])]
    assert encoded.spans[-1].end == len(encoded.tokens) == len(encoded.loss_mask)
    for span in encoded.spans:
        assert span.end > span.start or span.kind == "reasoning"
        assert encoded.loss_mask[span.start: span.end] == [span.trained] * (span.end - span.start)
        text = encoded.tokens[span.start: span.end]
        assert span.kind == "template" or all(token < BYTE.num_ordinary for token in text)
        role = conversation[span.turn]["role"] if span.turn >= 0 else None
        assert (span.kind == "prompt") <= (role != "assistant") and span.trained <= (role == "assistant")
    for block in encoded.blocks:
        assert encoded.tokens[block.start - 1] == BYTE.special_ids["<think>"]
        assert encoded.tokens[block.end] == BYTE.special_ids["</think>"]


@given(plain, st.sampled_from(["system", "user", "tool"]))
def test_a_prompt_never_holds_a_special_token(content, role):
    encoded = chat.encode([{"role": role, "content": content}], BYTE)
    specials = [token for token in encoded.tokens if token >= BYTE.num_ordinary]
    assert BYTE.decode(specials) == "<bos><|im_start|><|im_end|>"


@pytest.mark.parametrize("conversation, message", [
    ([], "conversation must be a list of at least one message, got \\[\\]"),
    ("hello", "conversation must be a list of at least one message, got 'hello'"),
    (["hello"], r"conversation\[0\] must be a dict of 'role' and 'content', got str"),
    ([{"role": "user"}], r"conversation\[0\] must be a dict of 'role' and 'content', got \['role'\]"),
    ([SUM[0] | {"tool_calls": []}], r"conversation\[0\] must be .*, got \['content', 'role', 'tool_calls'\]"),
    ([SUM[0], {"role": "bot", "content": "hi"}],
     r"conversation\[1\]: role must be one of .*'assistant'.*, got 'bot'"),
    ([{"role": ["user"], "content": "hi"}], r"conversation\[0\]: role must be one of .*, got \['user'\]"),
    ([{"role": "user", "content": None}], r"conversation\[0\]: content must be a str, got NoneType"),
    ([{"role": "assistant", "content": "<think>a"}], r"conversation\[0\]: <think> without </think> after it"),
    ([{"role": "assistant", "content": "a</think>b"}], r"conversation\[0\]: </think> without <think> before it"),
    ([{"role": "assistant", "content": "<think>a<think>b</think></think>"}],
     r"conversation\[0\]: <think> inside a block that is already open"),
])
def test_malformed_conversations(conversation, message):
    with pytest.raises(ValueError, match=message):
        chat.encode(conversation, BYTE)


@pytest.mark.parametrize("content", ["<think>a", "a</think>b", "<think>a<think>b</think></think>",
                                     "<think>a</think></think>"])
def test_without_strictness_broken_think_tags_are_text(content):
    """All of the content is answer, and none of its tokens is special; content whose tags pair up is encoded as
    ever."""
    encoded = chat.encode([*SUM, {"role": "assistant", "content": content}], BYTE, strict=False)
    strict = chat.encode(SUM, BYTE)
    assert encoded.tokens[: len(strict.tokens)] == strict.tokens and encoded.spans[: len(strict.spans)] == strict.spans
    answer, = (span for span in encoded.spans if span.turn == len(SUM) and span.kind != "template")
    assert answer.kind == "answer" and encoded.tokens[answer.start: answer.end] == BYTE.encode(content)


def test_text_the_tokenizer_cannot_write():
    with pytest.raises(ValueError, match="'Z' at position 0 is not one of"):
        chat.encode([{"role": "user", "content": "Z"}], CharTokenizer("abcdefghijklmnopqrstuvwxyz\n"))


def test_a_turn_without_an_end_cannot_be_read():
    with pytest.raises(ValueError, match="the turn that starts at token 1 never ends"):
        chat.read(chat.encode(SUM[:1], BYTE).tokens[:-2], BYTE)


# ---- Hugging Face ----------------------------------------------------------------------------------------------------

tokenizers = pytest.importorskip("tokenizers")
OTHERS = ["<secret>", "<start>", "<stop>"]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return HFTokenizer(byte_level_bpe(tmp_path_factory.mktemp("bpe") / "tokenizer.json", [*SPECIALS, *OTHERS]))


@settings(max_examples=100)
@given(st.lists(st.text(max_size=5) | st.sampled_from([*SPECIALS, *OTHERS, "answer", "think"])).map("".join))
def test_hf_round_trip_without_injection(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert not set(ids) & {bpe.inner.token_to_id(token) for token in [*SPECIALS, *OTHERS]}
    assert bpe.decode(bpe.encode(text, allow_special=True)) == text


@settings(max_examples=100)
@given(conversations)
def test_hf_conversations(bpe, conversation):
    encoded = chat.encode(conversation, bpe)
    assert bpe.decode(encoded.tokens) == rendered(conversation)
    assert chat.read(encoded.tokens, bpe) == conversation


def test_hf_interface(bpe):
    assert len(bpe.encode("the answer is 12")) < len("the answer is 12") and len(bpe.encode("123456789")) > 3
    assert bpe.encode("<think>a", allow_special=True) == [bpe.special_ids["<think>"], *bpe.encode("a")]
    assert bpe.decode([bpe.bos_id, *bpe.encode("hi")], keep_special=False) == "hi"
    assert {bpe.pad_id, bpe.bos_id, bpe.eos_id, bpe.unk_id} <= set(range(bpe.vocab_size))
    with pytest.raises(ValueError, match=rf"must hold ids in 0..{bpe.vocab_size - 1} \(the vocabulary\)"):
        bpe.decode([bpe.vocab_size])
    with pytest.raises(ValueError, match="text must be a str, got int"):
        bpe.encode(3)
    with pytest.raises(ValueError, match="lone surrogate"):
        bpe.encode("\ud800")


def test_hf_other_names(tmp_path):
    own = [token for token in SPECIALS if "im_" not in token]
    path = byte_level_bpe(tmp_path / "tokenizer.json", [*own, *OTHERS])
    with pytest.raises(ValueError, match=r"has no tokens \['<\|im_end\|>', '<\|im_start\|>'\]; say which"):
        HFTokenizer(path)
    renamed = HFTokenizer(path, {"<|im_start|>": "<start>", "<|im_end|>": "<stop>"})
    encoded = chat.encode(SUM, renamed)
    assert encoded.tokens[1] == renamed.inner.token_to_id("<start>")
    assert renamed.decode(encoded.tokens) == rendered(SUM)
    for typed in ("<start>", "<|im_start|>", "<stop>user"):
        assert renamed.decode(renamed.encode(typed)) == typed
        assert not set(renamed.encode(typed)) & {renamed.inner.token_to_id(token) for token in [*own, *OTHERS]}
    with pytest.raises(ValueError, match=r"names: \['<user>'\] are not ours to rename"):
        HFTokenizer(path, {"<user>": "<start>"})
    with pytest.raises(ValueError, match="must be different tokens"):
        HFTokenizer(path, {"<|im_start|>": "<start>", "<|im_end|>": "<start>"})
    # the released model's <eos> is its <|im_end|>: that is allowed, and is written as the template's
    shared = HFTokenizer(path, {"<|im_start|>": "<start>", "<|im_end|>": "<stop>", "<eos>": "<stop>"})
    assert shared.eos_id == shared.special_ids["<|im_end|>"]
    assert shared.decode([shared.eos_id]) == "<|im_end|>"


def test_hf_tokens_that_normalising_makes_are_refused(tmp_path):
    """A file may turn other letters into a control token: no splitting of ours sees it coming."""
    path = byte_level_bpe(tmp_path / "tokenizer.json", SPECIALS)
    described = json.loads(path.read_text())
    described["normalizer"] = {"type": "Lowercase"}
    for token in described["added_tokens"]:
        token["normalized"] = True
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="the file reads a part of it as <think>, a control token"):
        HFTokenizer(path).encode("<THINK>")


def test_hf_unknown_characters_may_be_unk(tmp_path):
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *"ab"])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.add_special_tokens(list(SPECIALS))
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HFTokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("azb") == [vocabulary["a"], vocabulary["<unk>"], vocabulary["b"]]


def test_hf_bad_files(tmp_path):
    with pytest.raises(ValueError, match="file: there is no .*missing.json"):
        HFTokenizer(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="file: .*bad.json is no tokenizer.json"):
        HFTokenizer(tmp_path / "bad.json")


def test_hf_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'pip install "minizaya\[checkpoints\]"'):
        HFTokenizer(tmp_path / "tokenizer.json")
