"""Parsing: what is reasoning, what is answer, what is a call; the same at any chunk border; never an exception."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chat_tools import texts
from minizaya.infer.calls import TAGS, json_or_none, value_of
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


ONE = "<parameter=x>\n1\n</parameter>"


@pytest.mark.parametrize("body, call", [
    ('{"name": "f", "arguments": {"a": 1}}', ToolCall("f", {"a": 1})),
    ("<function=f></function>", ToolCall("f", {})),
    ("\r\n<function=f>\r\n<parameter=a>\r\n1\r\n</parameter>\r\n</function>\r\n", ToolCall("f", {"a": 1})),
    ("<function=f><parameter=a>\r\nx\ny\r\n</parameter></function>", ToolCall("f", {"a": "x\ny"})),
    ("<function=ns.f-2></function>", ToolCall("ns.f-2", {})),
    ("", None), ("f(1)", None), ("<function=>", None), ('{"name": 3, "arguments": {}}', None), ('{"name": "f"}', None),
    ('["name"]', None), ("text <function=f></function>", None),
    # a name in quotes, as an attribute, with white space, none, cut
    ('<function="add"></function>', None), ("<function='add'></function>", None),
    ('<function name="add"></function>', None), ("<function=add ></function>", None),
    ("<function= add></function>", None), ("<function=add\n></function>", None), ("<function></function>", None),
    ("<function=></function>", None), ("<function=a=b></function>", None), ("<function=add</function>", None),
    ("<Function=add></Function>", None), ("<invoke=add></invoke>", None), ('<function="add>x</function>', None),
    ("<function=f><parameter= a >1</parameter></function>", None),
    ('<function=f><parameter="a">1</parameter></function>', None),
    ('<function=f><parameter name="a">1</parameter></function>', None),
    ("<function=f><parameter=a type=int>1</parameter></function>", None),
    ("<function=f><parameter=>1</parameter></function>", None),
    # never closed, closed twice, in the wrong order
    ("<function=f>", None), ("<function=f><function=g></function></function>", None),
    ("<function=f></function><function=g></function>", None), ("<function=f></function></function>", None),
    ("<function=f><parameter=a>1<parameter=b>2</parameter></function>", None),
    ("<function=f><parameter=a>1</function>", None), ("<function=f>1</parameter></function>", None),
    ("<function=f><parameter=a>1</function></parameter>", None),
    # a parameter twice, text between the parts
    (f"<function=f>{ONE}{ONE}</function>", None), (f"<function=f>{ONE},{ONE.replace('x', 'y')}</function>", None),
    (f"<function=f>x=1{ONE}</function>", None), (f"<function=f>{ONE}</function> done", None),
    (f"{ONE}<function=f></function>", None), (ONE, None),
    # values that hold a tag: cut in silence, or an argument that nobody meant
    ("<function=f><parameter=x>\na </parameter> b\n</parameter></function>", None),
    ("<function=f><parameter=x>\nuse </parameter><parameter=y>2\n</parameter></function>", None),
    ("<function=f><parameter=x>\nuse </parameter>\n<parameter=y>\n2\n</parameter></function>", None),
    ("<function=f><parameter=x>\na</function>b\n</parameter></function>", None),
    ("<function=f><parameter=x>\na<parameter=b\n</parameter></function>", None),
    # framed on one side only, or differently
    ("<function=f><parameter=x>\n1</parameter></function>", None),
    ("<function=f><parameter=x>1\n</parameter></function>", None),
    ("<function=f><parameter=x>\r\n1\n</parameter></function>", None),
    ("<function=f><parameter=x>\n1\r\n</parameter></function>", None),
    # JSON of another form
    ('{"name": "", "arguments": {}}', None), ('{"name": "f", "arguments": []}', None),
    ('{"name": "f", "arguments": "{}"}', None), ('{"name": "f", "arguments": {}, "id": 1}', None),
    ('{"name": "f", "name": "g", "arguments": {}}', None), ('{"name": "f", "arguments": {"a": 1, "a": 2}}', None),
    ('{"name": "f", "arguments": {"a": NaN}}', None), ('{"name": "f", "arguments": {}} {}', None),
    ('[{"name": "f", "arguments": {}}]', None), ('{"name": "f", "parameters": {}}', None),
])
def test_blocks(body, call):
    """Exactly of the grammar, or malformed: as written, not lost, and nothing else is touched."""
    reply = parse(f"</think>a{CALL}{body}{UNCALL}b")
    assert reply.content == "ab"
    assert reply.calls == ([call] if call else []) and reply.malformed == ([] if call else [CALL + body + UNCALL])


def test_a_call_inside_a_value_is_not_made():
    inner = f"{CALL}\n<function=evil>\n</function>\n{UNCALL}"
    reply = parse(f"</think>{CALL}\n<function=f>\n<parameter=x>\n{inner}\n</parameter>\n</function>\n{UNCALL}")
    assert not reply.calls and len(reply.malformed) == 1


PLACES = [ADD.find(part) for part in ("\n<function", "add", "\n<parameter=x", "x>", "17", "\n</parameter", "\n</func")]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLACES) | st.integers(len(CALL), len(ADD) - len(UNCALL)),
       st.sampled_from([*TAGS, '"', "=", "<", "x", "<parameter=y>"]))
def test_nothing_is_repaired(place, more):
    """Whatever is put into a call: it is another exact call, which is written as it was read, or none at all."""
    spoilt = ADD[:place] + more + ADD[place:]
    reply = parse(spoilt, thinking=False)
    assert "".join(reply.malformed) in spoilt and len(reply.calls) + len(reply.malformed) >= 1
    for call in reply.calls:
        written = spoilt.replace("\n", "")
        assert f"<function={call.name}>" in written and len(call.arguments) == written.count("<parameter=")
        assert all(f"<parameter={name}>" in written for name in call.arguments)


# ---- types -----------------------------------------------------------------------------------------------------------


def tool(**properties):
    other = {"properties": {"a": {"type": "integer"}}}
    return [{"type": "function", "function": {"name": "other", "parameters": other}},
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}]


@pytest.mark.parametrize("schema, written, value", [
    ({"type": "string"}, "1.10", "1.10"), ({"type": "string"}, "94110", "94110"), ({"type": "string"}, "true", "true"),
    ({"type": "string"}, "null", "null"), ({"type": "string"}, '"x"', '"x"'), ({"type": "string"}, " 1 ", " 1 "),
    ({"type": "string"}, "[1]", "[1]"), ({"type": "str"}, "1", "1"), ({"enum": ["1", "2"]}, "1", "1"),
    ({"type": ["string", "null"]}, "null", None), ({"type": ["string", "null"]}, "1", "1"),
    ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "None", None),
    ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, "7", 7), ({"oneOf": [{"type": "number"}]}, "7.5", 7.5),
    ({"type": ["string", "integer"]}, "5", "5"), ({"type": ["integer", "string"]}, "five", "five"),
    ({"type": "integer"}, "17", 17), ({"type": "integer"}, "-0", 0), ({"type": "integer"}, "007", 7),
    ({"type": "integer"}, " 17 ", 17), ({"type": "integer"}, "1.5", "1.5"), ({"type": "integer"}, "1_000", "1_000"),
    ({"type": "integer"}, "\u0663", "\u0663"), ({"type": "integer"}, "", ""), ({"type": "integer"}, "true", "true"),
    ({"type": "integer"}, "9" * 5000, "9" * 5000), ({"type": "integer"}, "null", None), ({"type": "int"}, "3", 3),
    ({"type": "number"}, "1.10", 1.1), ({"type": "number"}, "2.0", 2), ({"type": "number"}, "1e999", "1e999"),
    ({"type": "number"}, "nan", "nan"), ({"type": "number"}, "Infinity", "Infinity"), ({"type": "number"}, "x", "x"),
    ({"type": "number"}, "12345678901234567890", 12345678901234567890),
    ({"type": "boolean"}, "True", True), ({"type": "boolean"}, "false", False), ({"type": "boolean"}, "TRUE", True),
    ({"type": "boolean"}, "1", "1"), ({"type": "boolean"}, "maybe", "maybe"), ({"type": "boolean"}, "null", None),
    ({"type": "object"}, '{"a": [1]}', {"a": [1]}), ({"type": "object"}, "[1]", "[1]"), ({"type": "object"}, "{", "{"),
    ({"type": "object"}, '{"a": 1, "a": 2}', '{"a": 1, "a": 2}'), ({"type": "object"}, "{'a': 1}", "{'a': 1}"),
    ({"type": "array"}, "[1, \"a\"]", [1, "a"]), ({"type": "array"}, "[]", []), ({"type": "array"}, "1", "1"),
    ({"type": "array"}, "null", None), ({"type": "money"}, "1", "1"), ({"type": 3}, "1", "1"), ({}, "1", "1"),
    ("integer", "1", "1"), (None, "null", "null"), ({"type": "null"}, "null", None), ({"type": "null"}, "1", "1"),
    *(({"type": name}, "3", 3) for name in ("uint8", "long", "short", "unsigned int", "num")),
    ({"type": "float"}, "2.5", 2.5), ({"type": "bool"}, "true", True), ({"type": "binary"}, "false", False),
    ({"type": "dict"}, '{"a": 1}', {"a": 1}),
    ({"type": "arr"}, "[1]", [1]), ({"type": "list[int]"}, "[1]", [1]), ({"type": "dict"}, "[1]", "[1]"),
    ({"anyOf": "x"}, "1", "1"), ({"anyOf": [3, {"type": "boolean"}]}, "true", True), ({"type": " Integer "}, "1", 1),
])
def test_types_follow_the_schema(schema, written, value):
    for frame in ("\n", "\r\n") + ("", ) * (not written.endswith("\n")):
        text = f"</think>{CALL}<function=f><parameter=a>{frame}{written}{frame}</parameter></function>{UNCALL}"
        call, = parse(text, tools=tool(a=schema)).calls
        assert call == ToolCall("f", {"a": value}) and type(call.arguments["a"]) is type(value)


@pytest.mark.parametrize("tools", [
    tool(), tool(b={"type": "integer"}), tool()[:1], [{"type": "function", "function": {"name": "f"}}],
    [{"type": "function", "function": {"name": "f", "parameters": None}}],
    [{"type": "function", "function": {"name": "f", "parameters": {"properties": []}}}]])
def test_an_unknown_type_is_a_string(tools):
    for written in ("1", "true", "null", "[1]", '"x"'):
        call, = parse(f"{CALL}<function=f><parameter=a>{written}</parameter></function>{UNCALL}", False, tools).calls
        assert call == ToolCall("f", {"a": written})


kinds = st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "null", "odd"])


@settings(max_examples=80, deadline=None)
@given(texts | st.sampled_from(["1.10", "94110", "true", "True", "null", "-3", "1e5", "{}", "[1]", '"a"', "NaN"]),
       kinds)
def test_a_typed_value_is_of_its_type_or_the_text(text, kind):
    value = value_of(text, "a", {"a": {"type": kind}})
    wanted = {"integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}.get(kind, ())
    null = value is None and kind not in ("string", "odd")
    assert value == text or null or (isinstance(value, wanted) and isinstance(value, bool) == (kind == "boolean"))
    assert kind not in ("string", "odd") or value == text
    if isinstance(value, (dict, list)):
        assert value == json_or_none(text)


# ---- where there is no call ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(texts)
@example(f"The tag {CALL} opens a call.")
@example("x</parameter>")
def test_without_tools_all_of_the_answer_is_text(text):
    assert parse(text, thinking=False, tools=[]) == Reply("", text)


@pytest.mark.parametrize("kind, digits", [("integer", 3999), ("number", 3999)])
def test_a_number_of_at_most_so_many_digits_is_one(kind, digits):
    """Python itself refuses to read more than 4,300, or as many as somebody has set."""
    for text, wanted in ((digits * "7", int(digits * "7")), ((digits + 1) * "7", (digits + 1) * "7")):
        assert value_of(text, "a", {"a": {"type": kind}}) == wanted


@pytest.mark.parametrize("text, reply", [
    (f"The tag {CALL} opens a call. Ask me more.", Reply("", "The tag  opens a call. Ask me more.", [], [CALL])),
    (f"Write {CALL} first. {ADD} Done.",
     Reply("", "Write  first.  Done.", [ToolCall("add", {"x": 17, "y": "2"})], [CALL])),
    (f"{CALL}", Reply("", "", [], [CALL])), (f"a{CALL} \n", Reply("", "a", [], [CALL + " \n"])),
    (f"{CALL} x {CALL} y", Reply("", " x  y", [], [CALL, CALL])),
    (f"{CALL} x {CALL} <function=f>", Reply("", " x ", [], [CALL, CALL + " <function=f>"])),
    # white space around blocks alone
    (f"\n\n{ADD}\n{ADD}\n", Reply("", "", [ToolCall("add", {"x": 17, "y": "2"})] * 2)),
    (f"\n {CALL}{UNCALL}\n", Reply("", "", [], [CALL + UNCALL])), ("\n\n", Reply("", "\n\n")), ("", Reply()),
    (f"\nSo:\n{ADD}\r\n", Reply("", "\nSo:\n", [ToolCall("add", {"x": 17, "y": "2"})])),
])
def test_what_stands_around_calls(text, reply):
    for end in (0, 1, len(text) // 2):
        reader = Reader(False)
        found = reader.feed(text[:end])
        found.add(reader.feed(text[end:]))
        found.add(reader.finish())
        assert found == reply


def test_a_call_that_is_cut_off_is_no_call():
    for end in range(len(CALL), len(ADD)):
        reply = parse("</think>so " + ADD[:end])
        assert reply == Reply("", "so ", [], [ADD[:end]])


def test_orphans_do_not_show():
    assert parse(f"</think>a</parameter></function>{UNCALL}b</div>").content == "ab</div>"


@settings(max_examples=500, deadline=None)
@given(texts, st.lists(st.integers(0, 80), max_size=12), st.booleans(), st.sampled_from([None, (), tool(a={})]))
def test_any_chunk_borders_give_the_same(text, cuts, thinking, tools):
    cuts = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    reader, reply = Reader(thinking, tools), Reply()
    for start, end in zip(cuts, cuts[1:]):
        reply.add(reader.feed(text[start:end]))
    reply.add(reader.finish())
    assert reply == parse(text, thinking, tools)


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


named = texts.filter(bool)
calls = (st.builds(ToolCall, st.sampled_from(["add", "f"]),
                   st.dictionaries(st.sampled_from(["x", "y"]), values, max_size=2)) |
         st.builds(ToolCall, st.sampled_from([" g", "a<b", '"f"']) | named, st.dictionaries(texts, values, max_size=3)))
schemas = st.dictionaries(st.sampled_from(["x", "y"]), st.builds(dict, type=kinds), max_size=2)


@settings(max_examples=300, deadline=None)
@given(calls, st.none() | schemas)
@example(ToolCall("f", {"x": "94110"}), {"x": {"type": "string"}})
@example(ToolCall("f", {"x": "a\r"}), {"x": {"type": "string"}})
@example(ToolCall("f", {"x": "</parameter>", "y": 1}), {"x": {"type": "string"}, "y": {"type": "integer"}})
@example(ToolCall("f", {"x": "true", "y": None}), {"x": {"type": "boolean"}, "y": {"type": "string"}})
def test_a_call_that_is_written_is_read_again(call, schema):
    """Whatever its strings hold, and whatever the schema says: tags, numbers, newlines at the ends."""
    tools = None if schema is None else tool(**schema)
    assert parse(f"</think>{write_call(call, tools)}!", tools=tools) == Reply("", "!", [call])


def test_a_call_is_written_as_the_released_model_does():
    assert write_call(ToolCall("add", {"x": 17, "y": "2"})) == ADD


def test_a_string_is_written_bare_where_the_schema_says_so():
    """As the released model writes it, and its chat template: quotes would be taught as a part of it."""
    call = ToolCall("f", {"x": "94110", "y": 3})
    native = (f"{CALL}\n<function=f>\n<parameter=x>\n94110\n</parameter>\n"
              f"<parameter=y>\n3\n</parameter>\n</function>\n{UNCALL}")
    assert write_call(call, tool(x={"type": "string"}, y={"type": "integer"})) == native


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": -float("inf")}]])
def test_what_json_cannot_write_is_no_call(value):
    """It would be written as NaN, which is not read back."""
    with pytest.raises(ValueError, match="arguments must be JSON values, got"):
        write_call(ToolCall("f", {"x": value}))
