"""Answer-preserving trimming: a conversation that is too long loses reasoning, never an answer.

Pretraining at a context of 4K tokens meets reasoning traces that are much longer. Cut at 4K, they lose their answers;
dropped, they leave only problems that take little thought. The report (arXiv 2605.05365) trims them instead, by the
first of four rules that applies:

    1. It fits: keep it as it is.                                            action "kept"
    2. Cut the tail of the last reasoning block, right before its </think>,
       so that the whole is exactly the budget.                              action "tail"
    3. Drop all earlier reasoning blocks, then try rules 1 and 2 again.      action "thinks_dropped"
    4. Even so it does not fit: drop the conversation.                       None

What the report leaves open, and what we chose:
- The budget counts every token, template and <bos> included. The cut is on token ids: a string that is cut and encoded
  again may have another length.
- An earlier block goes with its tags. The last block keeps them, even when nothing is left between them: an empty block
  says that the answer came without reasoning. No minimum of reasoning is kept.
- "Answer" is everything that is no reasoning block: prompts and template too are never cut.
- Earlier blocks go all at once. (A recipe on the web drops them one by one, oldest first.)
- The last block is the last in the conversation, also if a later turn has none.

trap: a popular account says that the middle of the monologue is cut and its two ends kept. The report cuts the tail:
what remains of a block is always its beginning, and no step refers to one that was cut out before it.

trap: trim for every stage from the original conversations. Trimming to 32K and the result to 4K may differ from
trimming to 4K: the first cut may have emptied the last block, where the second would rather drop the earlier ones.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .chat import Chat, encode
from .tokenizer_base import Tokenizer


class Trimmed(NamedTuple):
    """tokens: list of int. loss_mask: list of bool, as in `chat.Chat`. action: "kept", "tail" or "thinks_dropped"."""

    tokens: list[int]
    loss_mask: list[bool]
    action: str


def ap_trim(conversation: Sequence[dict], budget: int, tokenizer: Tokenizer) -> Trimmed | None:
    """The conversation in at most `budget` tokens, every answer whole; None if that cannot be.

    Raises ValueError for a budget that is no int of at least 1, and whatever `chat.encode` raises.
    """
    return cut(encode(conversation, tokenizer), budget)


def ap_trim_stages(conversation: Sequence[dict], budgets: Iterable[int],
                   tokenizer: Tokenizer) -> dict[int, Trimmed | None]:
    """The conversation trimmed for every stage, budget -> `ap_trim` at it. It is encoded once, and then only sliced."""
    chat = encode(conversation, tokenizer)
    return {budget: cut(chat, budget) for budget in budgets}


def cut(chat: Chat, budget: int) -> Trimmed | None:
    """`ap_trim` of a conversation that is already encoded; `chat` stays as it is."""
    _check_budget(budget)
    excess = len(chat.tokens) - budget
    if excess <= 0:
        return Trimmed(list(chat.tokens), list(chat.loss_mask), "kept")
    if not chat.blocks:
        return None
    *earlier, last = chat.blocks
    if excess <= last.end - last.start:
        return _without(chat, [(last.end - excess, last.end)], "tail")
    gaps = [(block.start - 1, block.end + 1) for block in earlier]   # with their tags
    excess = max(0, excess - sum(end - start for start, end in gaps))
    if excess > last.end - last.start:
        return None
    return _without(chat, [*gaps, (last.end - excess, last.end)], "thinks_dropped")


def _without(chat: Chat, gaps: list[tuple[int, int]], action: str) -> Trimmed:
    """All tokens but those in the gaps, which are (start, end) pairs in order."""
    tokens, loss_mask, at = [], [], 0
    for start, end in gaps:
        tokens += chat.tokens[at:start]
        loss_mask += chat.loss_mask[at:start]
        at = end
    tokens += chat.tokens[at:]
    loss_mask += chat.loss_mask[at:]
    return Trimmed(tokens, loss_mask, action)


def ap_trim_reference(conversation: Sequence[dict], budget: int, tokenizer: Tokenizer) -> Trimmed | None:
    """`ap_trim`, one token at a time: slow, and easy to see to be right."""
    _check_budget(budget)
    chat = encode(conversation, tokenizer)
    everything = list(range(len(chat.tokens)))
    text_of, block_of = {}, {}                     # token index -> block number; the second counts the tags too
    for number, block in enumerate(chat.blocks):
        text_of |= dict.fromkeys(range(block.start, block.end), number)
        block_of |= dict.fromkeys(range(block.start - 1, block.end + 1), number)
    last = len(chat.blocks) - 1
    no_earlier = [i for i in everything if block_of.get(i, last) == last]

    for kept, action in (everything, "tail"), (no_earlier, "thinks_dropped"):
        while len(kept) > budget and any(text_of.get(i) == last for i in kept):
            kept.remove(max(i for i in kept if text_of.get(i) == last))
        if len(kept) <= budget:
            action = "kept" if len(kept) == len(chat.tokens) else action
            return Trimmed([chat.tokens[i] for i in kept], [chat.loss_mask[i] for i in kept], action)
    return None


def _check_budget(budget: int) -> None:
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        raise ValueError(f"budget must be an int of at least 1, got {budget!r}")
