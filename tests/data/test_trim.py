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
from minizaya.data.trim import Trimmed, ap_trim, ap_trim_reference, ap_trim_stages

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


def by_tokens(change):
    """The right answer with one thing changed: change(tokens, mask, action, budget) -> the same three, or None."""
    def wrong(conversation, budget, tokenizer):
        got = ap_trim(conversation, budget, tokenizer)
        result = got and change(got.tokens, got.loss_mask, got.action, budget)
        return result and Trimmed(*result)
    return wrong


def head_cut(conversation, budget, tokenizer):
    """Truncation from the right: what naive code does."""
    encoded = chat.encode(conversation, tokenizer)
    action = "tail" if len(encoded.tokens) > budget else "kept"
    return Trimmed(encoded.tokens[:budget], encoded.loss_mask[:budget], action)


def tail_kept(conversation, budget, tokenizer):
    encoded = chat.encode(conversation, tokenizer)
    excess = len(encoded.tokens) - budget
    if excess <= 0 or not encoded.blocks:
        return ap_trim(conversation, budget, tokenizer)
    at = encoded.blocks[-1].start
    if excess > encoded.blocks[-1].end - at:
        return ap_trim(conversation, budget, tokenizer)
    return trim._without(encoded, [(at, at + excess)], "tail")


def oldest_first(conversation, budget, tokenizer):
    """Earlier blocks go one by one."""
    encoded = chat.encode(conversation, tokenizer)
    last = encoded.blocks[-1] if encoded.blocks else None
    for count in range(len(encoded.blocks)):
        gaps = [(block.start - 1, block.end + 1) for block in encoded.blocks[:count]]
        excess = len(encoded.tokens) - budget - sum(end - start for start, end in gaps)
        if excess <= last.end - last.start:
            action = "thinks_dropped" if count else "tail" if excess > 0 else "kept"
            return trim._without(encoded, [*gaps, (last.end - max(0, excess), last.end)], action)
    return ap_trim(conversation, budget, tokenizer)


def never_cuts(conversation, budget, tokenizer):
    got = ap_trim(conversation, budget, tokenizer)
    return got if got and got.action == "kept" else None


def guarded_minimum(conversation, budget, tokenizer):
    """Keeps at least two tokens of reasoning or drops the conversation."""
    got = ap_trim(conversation, budget, tokenizer)
    short = got and got.action != "kept" and chat.encode(conversation, tokenizer).blocks and any(
        b - a < 3 for a, b in zip([i for i, t in enumerate(got.tokens) if t == tokenizer.special_ids["<think>"]],
                                  [i for i, t in enumerate(got.tokens) if t == tokenizer.special_ids["</think>"]]))
    return None if short else got


def when_too_long(conversation, budget, tokenizer, other):
    """Cuts to another budget than it was given."""
    got = ap_trim(conversation, budget, tokenizer)
    return got if got and got.action == "kept" else ap_trim(conversation, other, tokenizer)


def in_fours(conversation, budget, tokenizer):
    """Cuts four tokens at a time."""
    return when_too_long(conversation, budget, tokenizer, max(1, budget // 4 * 4))


def mask_of_the_whole(conversation, budget, tokenizer):
    got = ap_trim(conversation, budget, tokenizer)
    return got and got._replace(loss_mask=chat.encode(conversation, tokenizer).loss_mask[: len(got.tokens)])


def in_words(conversation, budget, tokenizer):
    """Trims the text instead of the template: forgets to count the template's tokens."""
    return ap_trim(conversation, budget + 3, tokenizer)


WRONG = {
    "trim.fits": [in_words, by_tokens(lambda t, m, a, b: (t + t[-1:], m + m[-1:], a)),
                  lambda c, b, t: ap_trim(c, b + 1, t)],
    "trim.kept": [lambda c, b, t: ap_trim(c, b - 1, t) if b > 1 else ap_trim(c, b, t),
                  by_tokens(lambda t, m, a, b: (t, m, "kept")), by_tokens(lambda t, m, a, b: (t, m, "tail"))],
    "trim.answers": [head_cut, by_tokens(lambda t, m, a, b: (t[:-1], m[:-1], a)),
                     by_tokens(lambda t, m, a, b: (t[1:], m[1:], a))],
    "trim.prefix": [tail_kept, oldest_first],
    "trim.exact": [lambda c, b, t: when_too_long(c, b, t, max(1, b - 1)), in_fours],
    "trim.earlier": [oldest_first, by_tokens(lambda t, m, a, b: (t, m, "kept" if a == "kept" else "tail"))],
    "trim.dropped": [never_cuts, guarded_minimum, in_words],
    "trim.idempotent": [head_cut, by_tokens(lambda t, m, a, b: (t, m, "tail"))],
    "trim.monotone": [lambda c, b, t: ap_trim(c, b - b % 2 * 3 if b > 4 else b, t), guarded_minimum],
    "trim.loss_mask": [by_tokens(lambda t, m, a, b: (t, [True] * len(t), a)),
                       by_tokens(lambda t, m, a, b: (t, m[1:] + m[:1], a)),
                       by_tokens(lambda t, m, a, b: (t, m[:-1], a)),
                       mask_of_the_whole],
}
WRONG_CASES = [(name, i) for name in WRONG for i in range(len(WRONG[name]))]


def test_every_law_has_wrong_answers():
    assert sorted(WRONG) == sorted(NAMES)


@pytest.mark.parametrize("name, i", WRONG_CASES, ids=[f"{name}-{i}" for name, i in WRONG_CASES])
def test_a_wrong_answer_is_rejected(name, i):
    verdict = laws.judge(name, WRONG[name][i], shrink=False)
    assert not verdict.passed and verdict.attempted and verdict.message.startswith("with conversation = ")


def test_dropping_everything_is_a_stub_and_malformed_results_are_told():
    assert not laws.judge("trim.fits", lambda c, b, t: None).attempted
    assert "no Trimmed" in laws.judge("trim.fits", lambda c, b, t: [1]).message
    assert "there is no action 'cut'" in laws.judge("trim.fits", by_tokens(lambda t, m, a, b: (t, m, "cut"))).message
    assert "changed the conversation" in laws.judge("trim.fits", lambda c, b, t: (ap_trim(c, b, t), c.pop())[0]).message


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
