"""Wrong functions for the laws of trim: see the head of this folder."""

from minizaya.data import chat, trim
from minizaya.data.trim import Trimmed, ap_trim


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
