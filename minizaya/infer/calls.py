"""One tool call as the released model writes it (`zaya_xml`), read and written.

    <zyphra_tool_call>
    <function=add>
    <parameter=x>
    17
    </parameter>
    </function>
    </zyphra_tool_call>

    block = <zyphra_tool_call> (call | json) </zyphra_tool_call>      white space may stand between two parts
    call  = <function=NAME> { <parameter=NAME> VALUE </parameter> } </function>
    json  = {"name": "...", "arguments": {...}}                       these two keys
    NAME  : no white space, quote, equals sign or angle bracket; no parameter twice
    VALUE : text without a tag of this grammar; between two line breaks of one kind (LF or CRLF), which are not part of
            it, or with no line break at either end

The rule: what is not exactly in this grammar is no call. Nothing is repaired, since an agent executes what comes out.

Types follow the schema of the request's tools, as in vLLM's parser for these calls: a string is the text itself; an
integer, number, boolean, object or array is read as one where the text is one, and stays text where it is not; null is
null where the schema has it, and for every type but a string; an unknown type, parameter or function is a string. Of
several types the first that is not null counts. Where there is no request, and so no schema, a value that is JSON is
taken as JSON. Two differences to vLLM: its boolean "maybe" is false, and its object may be Python's own notation.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

CALL, UNCALL = "<zyphra_tool_call>", "</zyphra_tool_call>"
ORPHANS = (UNCALL, "</function>", "</parameter>")  # closing tags
TAGS = (CALL, *ORPHANS, "<function=", "<parameter=")
NEVER_BARE = (*TAGS, "<think>", "</think>")        # what no value holds as text when it is written

BLANK = " \t\r\n"
FUNCTION, PARAMETER = (re.compile(rf"""<{kind}=([^\s<>"'=]+)>""") for kind in ("function", "parameter"))
INTEGERS, OTHERS = ("int", "uint", "long", "short", "unsigned"), ("num", "float", "dict", "list")
INTEGER, NUMBER = re.compile(r"[+-]?[0-9]+"), re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class ToolCall:
    """One call: a function's name, and its arguments by name (JSON values)."""

    name: str
    arguments: dict


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_call(body: str, tools: Sequence[dict] | None = None) -> ToolCall | None:
    """What stands between the tags of a block, as a call; None if it is none. Never raises.

    tools: the request's, in OpenAI's form, checked; None: there is no request.
    """
    body = body.strip(BLANK)
    function = FUNCTION.match(body)
    if function is None:
        given = json_or_none(body)
        exact = isinstance(given, dict) and set(given) == {"name", "arguments"}
        if exact and isinstance(given["name"], str) and given["name"] and isinstance(given["arguments"], dict):
            return ToolCall(given["name"], given["arguments"])
        return None
    if not body.endswith("</function>"):
        return None
    place, end = skip_blank(body, function.end()), len(body) - len("</function>")
    properties, arguments = properties_of(function[1], tools), {}
    while place < end:
        parameter = PARAMETER.match(body, place)
        close = body.find("</parameter>", parameter.end(), end) if parameter else -1
        value = unframed(body[parameter.end(): close]) if close >= 0 else None
        if value is None or parameter[1] in arguments:
            return None
        arguments[parameter[1]] = value_of(value, parameter[1], properties)
        place = skip_blank(body, close + len("</parameter>"))
    return ToolCall(function[1], arguments)


def skip_blank(text: str, place: int) -> int:
    while text[place: place + 1] and text[place] in BLANK:
        place += 1
    return place


def unframed(written: str) -> str | None:
    """What stands between <parameter=...> and </parameter>, without its two line breaks; None if it is no value."""
    if any(tag in written for tag in TAGS):
        return None
    if written in ("\n", "\r\n"):
        return ""
    framed = re.fullmatch(r"(\r?\n)(.*)\1", written, flags=re.DOTALL)
    if framed:
        return None if framed[1] == "\n" and framed[2].endswith("\r") else framed[2]
    return None if written.endswith("\n") or written.startswith(("\n", "\r\n")) else written


def properties_of(function: str, tools: Sequence[dict] | None) -> dict | None:
    """{parameter: its schema} of a tool; {} if there is no such tool, None without a request."""
    if tools is None:
        return None
    for tool in tools:
        if tool["function"]["name"] == function:
            parameters = tool["function"].get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, dict) else None
            return properties if isinstance(properties, dict) else {}
    return {}


def value_of(text: str, parameter: str = "", properties: dict | None = None) -> object:
    """An argument's value. properties: see `properties_of`."""
    bare = text.strip(BLANK)
    if properties is None:
        given = json_or_none(text)
        return text if given is None and bare != "null" else given
    kinds = kinds_of(properties.get(parameter))
    kind = next((kind for kind in kinds if kind != "null"), "string")
    if bare.lower() in ("null", "none") and (known(kind) or "null" in kinds):
        return None
    if kind.startswith(INTEGERS):
        return int(bare) if INTEGER.fullmatch(bare) and len(bare) < 4000 else text
    if kind.startswith(("num", "float")):
        if INTEGER.fullmatch(bare) and len(bare) < 4000:
            return int(bare)
        number = float(bare) if NUMBER.fullmatch(bare) else math.inf
        if not math.isfinite(number):
            return text
        return int(number) if number.is_integer() else number
    if kind in ("boolean", "bool", "binary"):
        return {"true": True, "false": False}.get(bare.lower(), text)
    wanted = dict if kind == "object" or kind.startswith("dict") else list
    given = json_or_none(text) if known(kind) else None
    return given if isinstance(given, wanted) else text


def kinds_of(schema: object) -> list[str]:
    """The types that a schema names, in its order; also those of its `anyOf` or `oneOf`."""
    if not isinstance(schema, dict):
        return []
    options = [schema] if "type" in schema else schema.get("anyOf", schema.get("oneOf"))
    options = options if isinstance(options, list) else []
    named = [option.get("type") for option in options if isinstance(option, dict)]
    kinds = [kind for kinds in named for kind in (kinds if isinstance(kinds, list) else [kinds])]
    return [kind.strip().lower() for kind in kinds if isinstance(kind, str)]


def known(kind: str) -> bool:
    """Is it a type that is not read as a string?"""
    return kind in ("boolean", "bool", "binary", "object", "array", "arr") or kind.startswith((*INTEGERS, *OTHERS))


def json_or_none(text: str) -> object:
    """The JSON value in `text`; None if it is not JSON, or names a key twice.

    """
    try:
        return strict_json(text)
    except (ValueError, RecursionError):
        return None


def strict_json(text: str | bytes) -> object:
    """The JSON value in `text`. Raises ValueError for what is no JSON, and for a key that stands twice.

    trap: Python's json reads NaN, Infinity and 1e999, and JSON lacks the first two and cannot write the third again.
    """
    return json.loads(text, parse_constant=finite, parse_float=finite, object_pairs_hook=once)


def finite(written: str) -> float:
    """A parse_float. Raises ValueError for what is none, or too large for one."""
    if not math.isfinite(float(written)):
        raise ValueError(f"{written} is no finite number")
    return float(written)


def once(pairs: list[tuple[str, object]]) -> dict:
    """An object_pairs_hook. Raises ValueError for a key that stands twice: one of its values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} stands twice in an object")
    return found


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_call(call: ToolCall, tools: Sequence[dict] | None = None) -> str:
    """A call as the model writes it: `read_call`, with the same tools, gives it back.

    A string is written as it is, unless it would be read as something else or holds a tag; then as JSON. Where that
    does not do either, or a name would break the form, the whole block is JSON. Raises ValueError for a number that
    JSON cannot write, NaN or infinity.
    """
    properties, written = properties_of(call.name, tools), f"{CALL}\n<function={call.name}>\n"
    for name, value in call.arguments.items():
        forms = [value] * isinstance(value, str) + [without_tags(value)]
        form = next((form for form in forms if reads_as(form, value, name, properties)), None)
        if form is None or not PARAMETER.fullmatch(f"<parameter={name}>"):
            break
        written += f"<parameter={name}>\n{form}\n</parameter>\n"
    else:
        if FUNCTION.fullmatch(f"<function={call.name}>"):
            return f"{written}</function>\n{UNCALL}"
    return f"{CALL}\n{without_tags({'name': call.name, 'arguments': call.arguments})}\n{UNCALL}"


def reads_as(form: str, value: object, name: str, properties: dict | None) -> bool:
    inner = None if any(tag in form for tag in NEVER_BARE) else unframed(f"\n{form}\n")
    return inner is not None and value_of(inner, name, properties) == value


def without_tags(value: object) -> str:
    """JSON in which no tag can stand: "<" is written by its number. Raises ValueError for NaN and infinity."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    except ValueError as error:
        raise ValueError(f"arguments must be JSON values, got {value!r:.200} ({error})") from None
