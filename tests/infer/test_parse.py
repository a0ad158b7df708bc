"""Parsing: what is reasoning, what is answer, what is a call; the same at any chunk border; never an exception."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_tools import texts
from minizaya.infer.parse import CALL, UNCALL, Reader, Reply, ToolCall, parse, write_call

ADD = (f"{CALL}\n<function=add>\n<parameter=x>\n17\n</parameter>\n"
       f"<parameter=y>\n\"2\"\n</parameter>\n</function>\n{UNCALL}")


@pytest.mark.parametrize("text, reasoning, content", [
    ("<think>a</think>b", "a", "b"),
    ("a</think>b", "a", "b"),                        # the opening tag was in the prompt
    ("\n <think>\na\n</think>\n\nb", "\na\n", "\n\nb"),
    ("<think>a", "a", ""),                           # cut off
    ("a", "a", ""),
    ("", "", ""),
    ("  a", "  a", ""),                              # leading space goes only with the tag
    ("<thin", "<thin", ""),
    ("<think>a</thin", "a</thin", ""),
    ("a</think>b</think>c", "a", "b</think>c"),
    ("<think>a<think>b</think>c", "a<think>b", "c"),
    ("</think>b", "", "b"),
])
def test_reasoning_and_answer(text, reasoning, content):
    assert parse(text) == Reply(reasoning, content)


def test_without_thinking_everything_is_answer():
    assert parse("a<think>b", thinking=False) == Reply("", "a<think>b")
    assert parse(f"hm {ADD}", thinking=False).calls == [ToolCall("add", {"x": 17, "y": "2"})]


def test_calls():
    reply = parse(f"<think>I must add. {CALL} is the tag.</think>First\n{ADD}\nthen {ADD}.")
    assert reply.calls == [ToolCall("add", {"x": 17, "y": "2"})] * 2 and not reply.malformed
    assert reply.content == "First\n\nthen ." and CALL in reply.reasoning


@pytest.mark.parametrize("written, value", [
    ("\n3\n", 3), ("3", 3), ('\n"x"\n', "x"), ("\nx\n", "x"), ("\n\nx\n\n", "\nx\n"),
    ("\n[1, {\"a\": null}]\n", [1, {"a": None}]),
    ("null", None), ("true", True), ("NaN", "NaN"), ("1e999", "1e999"), ("-Infinity", "-Infinity"), ("", ""),
    ("\n\n", ""), ("{bad", "{bad"),
    ("9" * 5000, "9" * 5000), ("[" * 100_000, "[" * 100_000), ("__import__('os')", "__import__('os')"),
    ("a < b", "a < b"),
])
def test_values(written, value):
    call, = parse(f"</think>{CALL}<function=f><parameter=a>{written}</parameter></function>{UNCALL}").calls
    assert call == ToolCall("f", {"a": value}) and type(call.arguments["a"]) is type(value)


@pytest.mark.parametrize("body, call", [
    ('{"name": "f", "arguments": {"a": 1}}', ToolCall("f", {"a": 1})),
    ("<function=f></function>", ToolCall("f", {})),
    ("<function=f>", ToolCall("f", {})),
    # never closed
    ("<function=f><parameter=a>1<parameter=b>2</parameter></function>", ToolCall("f", {"a": 1, "b": 2})),
    ("<function= f ><parameter= a >1</parameter></function>", ToolCall("f", {"a": 1})),
    ("", None), ("f(1)", None), ("<function=>", None), ('{"name": 3, "arguments": {}}', None), ('{"name": "f"}', None),
    ('["name"]', None), ("text <function=f></function>", None),
])
def test_blocks(body, call):
    reply = parse(f"</think>a{CALL}{body}{UNCALL}b")
    assert reply.content == "ab"
    assert reply.calls == ([call] if call else []) and reply.malformed == ([] if call else [CALL + body + UNCALL])


def test_a_call_that_is_cut_off_is_no_call():
    for end in range(len(CALL), len(ADD)):
        reply = parse("</think>so " + ADD[:end])
        assert reply == Reply("", "so ", [], [ADD[:end]])


def test_orphans_do_not_show():
    assert parse(f"</think>a</parameter></function>{UNCALL}b</div>").content == "ab</div>"


@settings(max_examples=500, deadline=None)
@given(texts, st.lists(st.integers(0, 80), max_size=12), st.booleans())
def test_any_chunk_borders_give_the_same(text, cuts, thinking):
    cuts = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader, reply = Reader(thinking), Reply()
    for start, end in zip(cuts, cuts[1:]):
        reply.add(reader.feed(text[start:end]))
    reply.add(reader.finish())
    assert reply == parse(text, thinking)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_nothing_leaks_and_nothing_is_made_up(text):
    reply = parse(text)
    assert CALL not in reply.content and UNCALL not in reply.content and "</parameter>" not in reply.content
    one_by_one = Reader()
    so_far = Reply()
    for character in text:  # what was said is never taken back
        new = one_by_one.feed(character)
        so_far.add(new)
        assert reply.reasoning.startswith(so_far.reasoning) and reply.content.startswith(so_far.content)
    assert len(reply.reasoning) + len(reply.content) <= len(text)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_characters="<"), max_size=20),
       st.text(st.characters(exclude_characters="<"), max_size=20))
def test_plain_text_is_kept_to_the_letter(thought, answer):
    assert parse(f"<think>{thought}</think>{answer}") == Reply(thought, answer)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(st.none() | st.booleans() | numbers | texts,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
                      max_leaves=6)


calls = (st.builds(ToolCall, st.sampled_from(["add", "f"]),
                   st.dictionaries(st.sampled_from(["x", "y"]), values, max_size=2)) |
         st.builds(ToolCall, st.sampled_from([" g", "a<b"]) | texts, st.dictionaries(texts, values, max_size=3)))


@settings(max_examples=400, deadline=None)
@given(calls)
def test_a_call_that_is_written_is_read_again(call):
    """Whatever its strings hold: tags, numbers, newlines at the ends."""
    assert parse(f"</think>{write_call(call)}!") == Reply("", "!", [call])


def test_a_call_is_written_as_the_released_model_does():
    assert write_call(ToolCall("add", {"x": 17, "y": "2"})) == ADD
