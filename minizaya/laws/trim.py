"""Laws of answer-preserving trimming. Names start with "trim."."""

import copy

from ..data import text
from ..data import trim as lib
from ..data.chat import read
from ..data.tokenizer import CharTokenizer
from . import strategies as draw_a
from .core import Broken, law, require

TOKENIZER = CharTokenizer(text.ALPHABET)
OPEN, CLOSE = TOKENIZER.special_ids["<think>"], TOKENIZER.special_ids["</think>"]
START, END = TOKENIZER.special_ids["<|im_start|>"], TOKENIZER.special_ids["<|im_end|>"]
ROOM = 10**9   # a budget that nothing exceeds


def written(conversation) -> list[int]:
    """The whole conversation as tokens, by the template's definition."""
    tokens = [TOKENIZER.bos_id]
    for message in conversation:
        tokens += [START, *TOKENIZER.encode(message["role"] + "\n")]
        tokens += TOKENIZER.encode(message["content"], allow_special=message["role"] == "assistant")
        tokens += [END, *TOKENIZER.encode("\n")]
    return tokens


def thoughts(tokens) -> list[list[int]]:
    """The reasoning blocks, without their tags. Only the assistant's tags are special tokens."""
    starts = [i + 1 for i, token in enumerate(tokens) if token == OPEN]
    return [tokens[i: tokens.index(CLOSE, i)] for i in starts]


def outside(tokens) -> list[int]:
    """All tokens outside the reasoning blocks and their tags."""
    kept, inside = [], False
    for token in tokens:
        inside = inside or token == OPEN
        if not inside:
            kept.append(token)
        inside = inside and token != CLOSE
    return kept


def least(tokens) -> int:
    """The fewest tokens that hold every answer: one empty block stays, if there was one."""
    return len(outside(tokens)) + 2 * bool(thoughts(tokens))


def say(tokens) -> str:
    return repr(TOKENIZER.decode(tokens))


def trimmed(fn, conversation, budget):
    """The judged function's result, after checking its form.

    A dropped conversation is None, and so is what a stub returns: the stub is told by dropping what surely fits.
    """
    handed = copy.deepcopy(conversation)
    fn(handed, ROOM, TOKENIZER)
    got, = fn.run(lambda *args: (fn.fn(*args),), handed, budget, TOKENIZER)
    require(handed == conversation, "it changed the conversation it was given")
    if got is None:
        return None
    require(isinstance(got, tuple) and len(got) == 3, "you gave no Trimmed(tokens, loss_mask, action), and not None")
    got = lib.Trimmed(*got)
    tokens, loss_mask, action = got
    require(isinstance(tokens, list) and set(map(type, tokens)) <= {int}, "tokens must be a list of int")
    require(isinstance(loss_mask, list) and set(map(type, loss_mask)) <= {bool}, "loss_mask must be a list of bool")
    require(action in ("kept", "tail", "thinks_dropped"), f"there is no action {action!r}")
    rest = iter(written(conversation))
    require(all(token in rest for token in tokens), "your tokens are not those of the conversation, in their order")
    require(tokens.count(OPEN) == tokens.count(CLOSE), "you kept one tag of a block without the other")
    return got


def draw_conversation(draw):
    """Letters run on through the alphabet, so that a token shows where it came from."""
    place = 0

    def letters(count):
        nonlocal place
        place += count
        return "".join(chr(97 + i % 26) for i in range(place - count, place))

    def said():
        plain = letters(draw_a.size(draw, 0, 3))
        return draw_a.pick(draw, (plain, plain, plain, "<think>a</think>", "<|im_end|>"))

    conversation = [{"role": "system", "content": said()}] if draw_a.flag(draw) else []
    for _ in range(draw_a.size(draw, 1, 3)):
        content = ""
        # two blocks in a turn: it thinks again after a tool call
        for _ in range(draw_a.pick(draw, (1, 1, 1, 0, 2))):
            content += f"<think>{letters(draw_a.size(draw, 0, 6))}</think>{letters(draw_a.size(draw, 0, 3))}"
        conversation += [{"role": "user", "content": said()},
                         {"role": "assistant", "content": content or letters(2)}]
    return conversation


def draw_case(draw):
    """A budget near one of the places where another rule takes over."""
    conversation = draw_conversation(draw)
    tokens = written(conversation)
    blocks = thoughts(tokens) or [[]]
    last = len(blocks[-1])
    border = draw_a.pick(draw, (len(tokens), len(tokens) - last // 2, len(tokens) - last, least(tokens) + last,
                                least(tokens) + last // 2, least(tokens)))
    return dict(conversation=conversation, budget=max(1, border + draw_a.size(draw, -3, 3)))


def borders():
    """Without a thought and a token over the budget; and three thoughts, at each place where another rule begins."""
    plain = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}]
    three = [{"role": role, "content": content} for block in ("abcd", "efgh", "ijkl")
             for role, content in (("user", "m"), ("assistant", f"<think>{block}</think>n"))]
    whole, few = len(written(three)), least(written(three))
    return [dict(conversation=plain, budget=len(written(plain)) - 1),
            *(dict(conversation=three, budget=n) for n in (whole, whole - 1, whole - 4, whole - 5, few + 1, few,
                                                           few - 1))]


TRIM = dict(cases=draw_a.cases(draw_case), always=borders,
            guards=[lib.ap_trim, lib.ap_trim_reference, lib.ap_trim_stages, lib.cut],
            subjects={"ap_trim": lib.ap_trim, "ap_trim_reference": lib.ap_trim_reference}, examples=100)


@law("trim.fits", "what is kept is never longer than the budget", **TRIM)
def fits(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): messages {"role", "content"}, the most tokens allowed, a tokenizer ->
    Trimmed(tokens, loss_mask, action): a list of int, a list of bool, "kept" | "tail" | "thinks_dropped"; or None."""
    got = trimmed(fn, conversation, budget)
    if got:
        require(len(got.tokens) <= budget, f"you kept {len(got.tokens)} tokens")


@law("trim.kept", "what fits is kept as it is, and nothing else is called kept", **TRIM)
def kept(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    tokens, got = written(conversation), trimmed(fn, conversation, budget)
    if len(tokens) <= budget:
        require(got, f"it has {len(tokens)} tokens and fits, you dropped it")
        require(got.tokens == tokens, f"it has {len(tokens)} tokens and fits, you kept {say(got.tokens)}")
    if got:
        require((got.action == "kept") == (len(tokens) <= budget),
                f"it has {len(tokens)} tokens, you say {got.action!r}")


@law("trim.answers", "prompts and answers survive token for token: only reasoning is removed", **TRIM)
def answers(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    got = trimmed(fn, conversation, budget)
    if got:
        wanted, rest = outside(written(conversation)), outside(got.tokens)
        require(rest == wanted, f"outside reasoning you kept {say(rest)}, the law wants {say(wanted)}")


@law("trim.prefix", "what is kept of a reasoning block is its beginning: the last is cut at its end, no other is cut",
     **TRIM)
def prefix(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    got = trimmed(fn, conversation, budget)
    was = thoughts(written(conversation))
    if got and was:
        now = thoughts(got.tokens)
        require(now, "the last block must keep its tags, even if it is empty")
        require(now[-1] == was[-1][:len(now[-1])], f"of the last block you kept {say(now[-1])}, no beginning of "
                f"{say(was[-1])}")
        require(now[:-1] in ([], was[:-1]), f"earlier blocks are all whole or all gone, you kept "
                f"{[TOKENIZER.decode(block) for block in now[:-1]]}")


@law("trim.exact", "where the last block is cut, the whole is exactly the budget", **TRIM)
def exact(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    got = trimmed(fn, conversation, budget)
    was = thoughts(written(conversation))
    if got and was:
        now = thoughts(got.tokens)
        is_cut = got.action == "tail" or len(now[-1] if now else []) < len(was[-1])
        require(not is_cut or len(got.tokens) == budget, f"you cut the last block and kept {len(got.tokens)} tokens")


@law("trim.earlier", "earlier blocks are dropped only if cutting the last block is not enough, and then all of them",
     **TRIM)
def earlier(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    tokens, got = written(conversation), trimmed(fn, conversation, budget)
    blocks = thoughts(tokens)
    if got and blocks and len(tokens) > budget:
        enough = len(tokens) - len(blocks[-1]) <= budget
        left = len(thoughts(got.tokens))
        require(left == (len(blocks) if enough else 1), f"cutting the last block is {'' if enough else 'not '}enough, "
                f"you kept {left} of {len(blocks)} blocks")
        wanted = "tail" if enough else "thinks_dropped"
        require(got.action == wanted, f"the action is {wanted!r}, you say {got.action!r}")


@law("trim.dropped", "a conversation is dropped exactly when its answers alone do not fit", **TRIM)
def dropped(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    need, got = least(written(conversation)), trimmed(fn, conversation, budget)
    require((got is None) == (need > budget),
            f"with its last block empty and no other it has {need} tokens, you {'kept' if got else 'dropped'} it")


@law("trim.idempotent", "trimming a trimmed conversation to the same budget changes nothing", **TRIM)
def idempotent(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    got = trimmed(fn, conversation, budget)
    if got:
        try:
            again = read(got.tokens, TOKENIZER)
        except ValueError as error:
            raise Broken(f"what you kept is no conversation any more: {error}") from error
        second = trimmed(fn, again, budget)
        require(second and second.action == "kept" and second[:2] == got[:2], f"the first time you kept "
                f"{say(got.tokens)}, trimming that gives {second and say(second.tokens)}, {second and second.action!r}")


def draw_two(draw):
    return draw_case(draw) | dict(more=draw_a.pick(draw, (1, 2, 5, 20)))


@law("trim.monotone", "a larger budget never keeps fewer tokens or fewer blocks",
     **TRIM | dict(cases=draw_a.cases(draw_two), always=lambda: [case | dict(more=1) for case in borders()]))
def monotone(fn, conversation, budget, more):
    """fn(conversation, budget, tokenizer): as in trim.fits; asked at `budget` and at `budget + more`."""
    # tokens in all: of the last block alone, the smaller budget may keep more, having dropped the earlier ones
    small, large = trimmed(fn, conversation, budget), trimmed(fn, conversation, budget + more)
    if small:
        require(large, f"kept at {budget}, dropped at {budget + more}")
        for what, count in ("tokens", len), ("blocks", lambda tokens: len(thoughts(tokens))):
            few, many = count(small.tokens), count(large.tokens)
            require(few <= many, f"{few} {what} at {budget}, {many} at {budget + more}")


@law("trim.loss_mask", "trained is what the assistant writes: blocks with their tags, answers, the end of its turn",
     **TRIM)
def loss_mask(fn, conversation, budget):
    """fn(conversation, budget, tokenizer): as in trim.fits."""
    got = trimmed(fn, conversation, budget)
    if got:
        require(len(got.loss_mask) == len(got.tokens),
                f"{len(got.tokens)} tokens, {len(got.loss_mask)} flags in the loss mask")
        wanted, opening = [], [START, *TOKENIZER.encode("assistant\n")]
        speaks = False
        for i, token in enumerate(got.tokens):
            wanted.append(speaks)
            if token == END:
                speaks = False
            elif got.tokens[max(0, i + 1 - len(opening)): i + 1] == opening:
                speaks = True
        for i, (flag, should) in enumerate(zip(got.loss_mask, wanted)):
            require(flag == should,
                    f"token {i}, {say(got.tokens[i: i + 1])}, must {'' if should else 'not '}be trained")
