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


def shaped(change):
    """The right answer in another form: change(Trimmed) -> anything."""
    def wrong(conversation, budget, tokenizer):
        got = ap_trim(conversation, budget, tokenizer)
        return got and change(got)
    return wrong


def spoils_input(conversation, budget, tokenizer):
    got = ap_trim(conversation, budget, tokenizer)
    for message in conversation:   # the list of them stays as it was
        message["content"] += "?"
    return got


def without_tag(tag):
    """Where something was cut, all such tags go, too."""
    def wrong(conversation, budget, tokenizer):
        got = ap_trim(conversation, budget, tokenizer)
        if got is None or got.action == "kept":
            return got
        stays = [token != tokenizer.special_ids[tag] for token in got.tokens]
        return Trimmed(*([x for x, s in zip(part, stays) if s] for part in got[:2]), got.action)
    return wrong


def no_block_stays(conversation, budget, tokenizer):
    """Where something is cut, all blocks go."""
    got = ap_trim(conversation, budget, tokenizer)
    if got is None or got.action == "kept":
        return got
    encoded = chat.encode(conversation, tokenizer)
    return trim._without(encoded, [(block.start - 1, block.end + 1) for block in encoded.blocks], got.action)


def keeps_what_has_no_thought(conversation, budget, tokenizer):
    encoded = chat.encode(conversation, tokenizer)
    if not encoded.blocks:
        return Trimmed(encoded.tokens, encoded.loss_mask, "kept")
    return ap_trim(conversation, budget, tokenizer)


def drops_what_fits(conversation, budget, tokenizer):
    got = ap_trim(conversation, budget, tokenizer)
    return None if got and got.action == "kept" and budget < 10**6 else got


def half_when_it_fits(conversation, budget, tokenizer):
    got = ap_trim(conversation, budget, tokenizer)
    short = got and got.action == "kept" and ap_trim(conversation, max(1, len(got.tokens) - 1), tokenizer)
    return short._replace(action="kept") if short else got


def drops_at(multiple):
    """Drops at every budget that is such a multiple, and at no other."""
    return lambda c, b, t: None if b % multiple == 0 and b < 10**6 else ap_trim(c, b, t)


def earlier_too(conversation, budget, tokenizer):
    """Drops the earlier blocks always, then cuts the last one to the budget's size if need be."""
    got = ap_trim(conversation, budget, tokenizer)
    if got is None or got.action != "tail":
        return got
    encoded = chat.encode(conversation, tokenizer)
    *earlier, last = encoded.blocks
    gaps = [(block.start - 1, block.end + 1) for block in earlier]
    excess = max(0, len(encoded.tokens) - sum(end - start for start, end in gaps) - budget)
    return trim._without(encoded, [*gaps, (last.end - excess, last.end)], "tail")


def less_at_even_budgets(conversation, budget, tokenizer):
    less = ap_trim(conversation, budget - 4, tokenizer) if budget % 2 == 0 and 4 < budget < 10**6 else None
    return less or ap_trim(conversation, budget, tokenizer)


WRONG = {
    "trim.fits": [
        (shaped(lambda got: [1]), "no Trimmed"),
        (shaped(lambda got: got._replace(action="cut")), "there is no action 'cut'"),
        (spoils_input, "it changed the conversation"),
        (shaped(lambda got: got._replace(tokens=tuple(got.tokens))), "tokens must be a list of int"),
        shaped(lambda got: got._replace(loss_mask=[int(x) for x in got.loss_mask])),
        shaped(lambda got: got._replace(tokens=got.tokens[::-1])),
        without_tag("<think>"),
        in_words, by_tokens(lambda t, m, a, b: (t + t[-1:], m + m[-1:], a)),
                  lambda c, b, t: ap_trim(c, b + 1, t)],
    "trim.kept": [
        (drops_what_fits, "and fits, you dropped it"),
        half_when_it_fits,
        lambda c, b, t: ap_trim(c, b - 1, t) if b > 1 else ap_trim(c, b, t),
                  by_tokens(lambda t, m, a, b: (t, m, "kept")), by_tokens(lambda t, m, a, b: (t, m, "tail"))],
    "trim.answers": [head_cut, by_tokens(lambda t, m, a, b: (t[:-1], m[:-1], a)),
                     by_tokens(lambda t, m, a, b: (t[1:], m[1:], a))],
    "trim.prefix": [
        (no_block_stays, "must keep its tags"),
        tail_kept, oldest_first],
    "trim.exact": [lambda c, b, t: when_too_long(c, b, t, max(1, b - 1)), in_fours],
    "trim.earlier": [
        earlier_too,
        oldest_first, by_tokens(lambda t, m, a, b: (t, m, "kept" if a == "kept" else "tail"))],
    "trim.dropped": [
        keeps_what_has_no_thought,
        never_cuts, guarded_minimum, in_words],
    "trim.idempotent": [
        (head_cut, "no conversation any more"),
        head_cut, by_tokens(lambda t, m, a, b: (t, m, "tail"))],
    "trim.monotone": [
        (drops_at(2), "dropped at"), less_at_even_budgets,
        lambda c, b, t: ap_trim(c, b - b % 2 * 3 if b > 4 else b, t), guarded_minimum],
    "trim.loss_mask": [by_tokens(lambda t, m, a, b: (t, [True] * len(t), a)),
                       by_tokens(lambda t, m, a, b: (t, m[1:] + m[:1], a)),
                       by_tokens(lambda t, m, a, b: (t, m[:-1], a)),
                       mask_of_the_whole],
}
