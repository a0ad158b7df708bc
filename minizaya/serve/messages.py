"""The messages and tools of a request, checked, and ready for any template.

A checked message is {"role", "content"}, content always text. An assistant's may also hold "reasoning_content" and
"tool_calls", each {"id", "type": "function", "function": {"name", "arguments"}} with the arguments as a dict, which
OpenAI sends as JSON text; a tool's answer may hold "tool_call_id"; any may hold "name".

The rule: each key of a message, a call, a text part or a tool is used, refused, or named in `WITHOUT_EFFECT`. One that
is null counts as absent. A template sees what a checked message holds; our ChatML has no place for a name, an id, or
the reasoning of earlier turns.
"""

from ..infer.calls import ToolCall, json_or_none
from .checks import Wrong, brief, typed

ROLES = ("system", "developer", "user", "assistant", "tool")
USED = {"assistant": {"reasoning_content", "reasoning", "tool_calls", "function_call"}, "tool": {"tool_call_id"}}
WITHOUT_EFFECT = {"message": {"annotations", "malformed_tool_calls"},  # what servers say beside an answer; ours, too
                  "call": {"index"}, "part": {"cache_control"}, "tool": {"cache_control"}}


def read_messages(given: dict) -> list[dict]:
    """All messages of a request. Raises `Wrong`."""
    messages: list[dict] = []
    for i, message in enumerate(typed(given, "messages", list, [])):
        messages.append(checked_message(f"messages[{i}]", message, messages))
    if not messages:
        raise Wrong("messages must hold at least one message", "messages")
    return messages


def checked_message(name: str, message: object, before: list[dict]) -> dict:
    """One message; before: the checked ones that it follows, where a tool's answer finds its call."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise Wrong(f"{name} must be an object with a role of system, user, assistant or tool", "messages")
    role = "system" if message["role"] == "developer" else message["role"]
    said = {key: value for key, value in message.items() if value is not None}
    only(name, said, {"role", "content", "name"} | USED.get(role, set()), "message")
    found = {"role": role, "content": checked_content(name, said.get("content", "" if role == "assistant" else None))}
    if "name" in said:
        if not isinstance(said["name"], str):
            raise Wrong(f"{name}.name must be text, got {type(said['name']).__name__}", "messages")
        found["name"] = said["name"]
    if "function_call" in said:
        raise Wrong(f"{name}: function_call is not supported; tool_calls is its new form", "messages")
    thought = {checked_content(f"{name}.{key}", said[key]) for key in ("reasoning_content", "reasoning") if key in said}
    if len(thought) > 1:
        raise Wrong(f"{name}: reasoning_content and reasoning are two names of one thing, and differ", "messages")
    if any(thought):
        found["reasoning_content"] = thought.pop()
    if "tool_calls" in said:
        calls = typed(said, "tool_calls", list, [])
        checked = [checked_call(f"{name}.tool_calls[{j}]", call) for j, call in enumerate(calls)]
        ids = [call["id"] for call in checked if call["id"]]
        if len(set(ids)) < len(ids):       # whose answer would come back?
            raise Wrong(f"{name}.tool_calls: each call needs an id of its own, got {brief(ids)}", "messages")
        found |= {"tool_calls": checked} if checked else {}
    if "tool_call_id" in said:
        known = [call["id"] for earlier in before for call in earlier.get("tool_calls", ())]
        if said["tool_call_id"] not in known:
            got = brief(said["tool_call_id"])
            raise Wrong(f"{name}: tool_call_id must be the id of an earlier call, got {got}", "messages")
        found["tool_call_id"] = said["tool_call_id"]
    return found


def checked_content(name: str, content: object) -> str:
    """A message's text. Clients also send it as a list of text parts."""
    if isinstance(content, list):
        texts = [part["text"] for part in content
                 if isinstance(part, dict) and part.get("type") == "text" and "text" in part]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise Wrong(f"{name}: content may only hold text parts", "messages")
        for part in content:
            only(f"{name}.content", part, {"type", "text"}, "part")
        content = "".join(texts)
    if not isinstance(content, str):
        raise Wrong(f"{name}: content must be text, got {type(content).__name__}", "messages")
    return content


def checked_call(name: str, call: object) -> dict:
    """One call of an assistant's earlier message, its arguments as a dict."""
    function = call.get("function") if isinstance(call, dict) else None
    named = isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]
    if not named or not isinstance(call.get("id") or "", str) or call.get("type", "function") != "function":
        raise Wrong(f"{name} must be an object with id, type and function; the function must have a name", "messages")
    only(name, call, {"id", "type", "function"}, "call")
    only(f"{name}.function", function, {"name", "arguments"}, "call")
    arguments = {} if function.get("arguments") in (None, "") else function["arguments"]
    arguments = json_or_none(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise Wrong(f"{name}: arguments must be a JSON object, as text, got {brief(function['arguments'])}", "messages")
    return {"id": call.get("id") or "", "type": "function",
            "function": {"name": function["name"], "arguments": arguments}}


def only(name: str, given: dict, used: set[str], kind: str, param: str = "messages") -> None:
    """Refuses what is neither used nor without effect: it would be lost, and nobody would know."""
    for key, value in given.items():
        if key not in used | WITHOUT_EFFECT[kind] and value is not None:
            raise Wrong(f"{name}: {brief(key)} is not supported, got {brief(value)}", param)


def calls_of(message: dict) -> list[ToolCall]:
    """The calls of a checked message."""
    return [ToolCall(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]


def read_tools(given: dict) -> list[dict]:
    """The tools that the model is told of. Raises `Wrong`.

    tool_choice "none" leaves them out. "required", or a function's name, would have to be enforced while the model
    writes; the engine cannot, so they are refused, and so are parallel_tool_calls = false and strict = true. The model
    is told of all that a tool says, so nothing of it is lost.
    """
    tools = typed(given, "tools", list, [])
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            wanted = '{"type": "function", "function": {"name": ...}}'
            raise Wrong(f"tools[{i}] must be {wanted}, got {brief(tool)}", "tools")
        only(f"tools[{i}]", tool, {"type", "function"}, "tool", "tools")
        if function.get("strict"):
            raise Wrong(f"tools[{i}].function.strict: arguments cannot be held to a schema here", "tools")
        for key, kind in (("description", str), ("parameters", dict)):
            if function.get(key) is not None and not isinstance(function[key], kind):
                raise Wrong(f"tools[{i}].function.{key} must be a {kind.__name__}, got {brief(function[key])}", "tools")
        properties = (function.get("parameters") or {}).get("properties")
        if properties is not None and not (isinstance(properties, dict) and all(
                isinstance(schema, (dict, bool)) for schema in properties.values())):    # types are read from it
            raise Wrong(f"tools[{i}].function.parameters.properties must be an object of schemas, "
                        f"got {brief(properties)}", "tools")
        if any(function["name"] == other["function"]["name"] for other in tools[:i]):  # which schema would count?
            raise Wrong(f"tools[{i}]: there is a function {brief(function['name'])} already", "tools")
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise Wrong(f'tool_choice may be "auto" or "none"; a call cannot be enforced here, got {brief(choice)}',
                    "tool_choice")
    if not typed(given, "parallel_tool_calls", bool, True) and tools:
        raise Wrong("parallel_tool_calls: the number of calls cannot be enforced here", "parallel_tool_calls")
    return tools if choice == "auto" else []
