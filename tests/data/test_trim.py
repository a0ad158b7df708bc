"""Answer-preserving trimming: worked examples, wrong functions that the laws reject, stages, errors, speed."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minizaya as mz
from minizaya import laws
from minizaya.data import chat, trim
from minizaya.data.tokenizer import ByteTokenizer, CharTokenizer
from minizaya.data.trim import ap_trim, ap_trim_reference, ap_trim_stages
from wrong_functions.trim import by_tokens

BYTE = ByteTokenizer()
TWO = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "<think>abcdefgh</think>5"},
       {"role": "user", "content": "+1?"}, {"role": "assistant", "content": "<think>ijklmnop</think>6"}]
FULL = len(chat.encode(TWO, BYTE).tokens)
NAMES = [law.name for law in laws.all() if law.name.startswith("trim.")]


def said(trimmed):
    """What the assistant says, turn by turn."""
    return [message["content"] for message in chat.read(trimmed.tokens, BYTE) if message["role"] == "assistant"]


# ---- the four rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget, action, contents", [
    (FULL + 1, "kept", ["<think>abcdefgh</think>5", "<think>ijklmnop</think>6"]),
    (FULL, "kept", ["<think>abcdefgh</think>5", "<think>ijklmnop</think>6"]),
    (FULL - 1, "tail", ["<think>abcdefgh</think>5", "<think>ijklmno</think>6"]),
    (FULL - 7, "tail", ["<think>abcdefgh</think>5", "<think>i</think>6"]),
    (FULL - 8, "tail", ["<think>abcdefgh</think>5", "<think></think>6"]),
    (FULL - 9, "thinks_dropped", ["5", "<think>ijklmnop</think>6"]),     # 8 letters and 2 tags gone, 1 to spare
    (FULL - 10, "thinks_dropped", ["5", "<think>ijklmnop</think>6"]),
    (FULL - 11, "thinks_dropped", ["5", "<think>ijklmno</think>6"]),
    (FULL - 18, "thinks_dropped", ["5", "<think></think>6"]),
])
def test_the_four_rules(budget, action, contents):
    got = mz.ap_trim(TWO, budget, BYTE)
    assert said(got) == contents and got.action == action
    assert len(got.tokens) == len(got.loss_mask) <= budget
    assert got == ap_trim_reference(TWO, budget, BYTE)


def test_what_cannot_fit_is_dropped():
    for budget in (FULL - 19, 1):
        assert ap_trim(TWO, budget, BYTE) is None and ap_trim_reference(TWO, budget, BYTE) is None
    silent = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}]
    whole = len(chat.encode(silent, BYTE).tokens)
    assert ap_trim(silent, whole, BYTE).action == "kept"
    assert ap_trim(silent, whole - 1, BYTE) is None


def test_the_last_block_may_stand_before_the_last_turn():
    quick = [*TWO, {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]
    got = ap_trim(quick, len(chat.encode(quick, BYTE).tokens) - 2, BYTE)
    assert said(got) == ["<think>abcdefgh</think>5", "<think>ijklmn</think>6", "yes"]


def test_two_blocks_in_one_turn():
    twice = [{"role": "assistant", "content": "<think>abc</think>look<think>def</think>found"}]
    whole = len(chat.encode(twice, BYTE).tokens)
    assert said(ap_trim(twice, whole - 2, BYTE)) == ["<think>abc</think>look<think>d</think>found"]
    assert said(ap_trim(twice, whole - 4, BYTE)) == ["look<think>def</think>found"]


# text with many bytes a character: a cut may go through a character, and must be right all the same
texts = st.text(st.sampled_from("ab\n<é∑🙂"), max_size=6)
answers = st.lists(st.tuples(st.none() | texts, texts), min_size=1, max_size=2).map(
    lambda parts: "".join(("" if block is None else f"<think>{block}</think>") + rest for block, rest in parts))
exchanges = st.tuples(texts, answers).map(lambda pair: [{"role": "user", "content": pair[0]},
                                                        {"role": "assistant", "content": pair[1]}])
conversations = st.lists(exchanges, min_size=1, max_size=3).map(lambda lists: sum(lists, []))


@settings(max_examples=60)
@given(conversations)
def test_fast_equals_reference_at_every_budget(conversation):
    whole = len(chat.encode(conversation, BYTE).tokens)
    budgets = range(1, whole + 2)
    stages = ap_trim_stages(conversation, budgets, BYTE)
    assert list(stages) == list(budgets)
    for budget in list(budgets)[-30:]:
        assert stages[budget] == ap_trim_reference(conversation, budget, BYTE) == ap_trim(conversation, budget, BYTE)


# ---- laws reject what is wrong ---------------------------------------------------------------------------------------


def test_malformed_results_are_told():
    assert "is a `return` missing" in laws.judge("trim.fits", lambda c, b, t: None).message
    assert "no Trimmed" in laws.judge("trim.fits", lambda c, b, t: [1]).message
    assert "there is no action 'cut'" in laws.judge("trim.fits", by_tokens(lambda t, m, a, b: (t, m, "cut"))).message
    assert "make a new list" in laws.judge("trim.fits", lambda c, b, t: (ap_trim(c, b, t), c.pop())[0]).message
    longer = laws.judge("trim.fits", lambda c, b, t: (ap_trim(c, b, t), c[0].update(content="x"))[0])
    assert "changed the conversation" in longer.message


# ---- stages, errors, speed -------------------------------------------------------------------------------------------


def test_trim_every_stage_from_the_original():
    """At FULL - 8 the last block is emptied; from there, FULL - 9 can no longer have it back."""
    first = ap_trim(TWO, FULL - 8, BYTE)
    second = ap_trim(chat.read(first.tokens, BYTE), FULL - 9, BYTE)
    assert said(second) == ["5", "<think></think>6"]
    assert said(ap_trim_stages(TWO, [FULL - 8, FULL - 9], BYTE)[FULL - 9]) == ["5", "<think>ijklmnop</think>6"]


def test_results_share_nothing():
    encoded = chat.encode(TWO, BYTE)
    for budget in (FULL, FULL - 3, FULL - 12):
        got = trim.cut(encoded, budget)
        got.tokens.clear(), got.loss_mask.clear()
    assert encoded == chat.encode(TWO, BYTE)


@pytest.mark.parametrize("budget", [0, -1, 2.0, "9", True, None])
@pytest.mark.parametrize("fn", [ap_trim, ap_trim_reference, lambda c, b, t: ap_trim_stages(c, [b], t)])
def test_a_bad_budget(fn, budget):
    with pytest.raises(ValueError, match="budget must be an int of at least 1, got"):
        fn(TWO, budget, BYTE)


def test_a_tokenizer_without_think_tags():
    plain = CharTokenizer("ab", ("<pad>", "<bos>", "<eos>", "<unk>", "<|im_start|>", "<|im_end|>"))
    with pytest.raises(ValueError, match=r"tokenizer lacks the special tokens \['<think>', '</think>'\]"):
        ap_trim(TWO, 10, plain)


def test_trimming_costs_no_more_than_reading():
    """Cutting an encoded conversation is slices of lists: cheaper than parsing its tokens from a file."""
    long = [{"role": "user", "content": "?" * 100}, {"role": "assistant", "content": f"<think>{'a' * 4000}</think>5"}]
    encoded = chat.encode(long, BYTE)
    line = json.dumps(encoded.tokens)

    def seconds(work):
        best = 9.0
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(50):
                work()
            best = min(best, time.perf_counter() - start)
        return best

    assert trim.cut(encoded, 2000).action == "tail"
    assert seconds(lambda: trim.cut(encoded, 2000)) < seconds(lambda: json.loads(line))
