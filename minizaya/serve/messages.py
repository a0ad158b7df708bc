"""The messages and tools of a request, checked, and ready for any template.

A checked message is {"role", "content"}, content always text. An assistant's may also hold "reasoning_content" and
"tool_calls", each {"id", "type": "function", "function": {"name", "arguments"}} with the arguments as a dict, which
OpenAI sends as JSON text; a tool's answer may hold "tool_call_id". Everything else in a message is ignored.
"""

from ..infer.parse import ToolCall, json_or_none
from .checks import Wrong, brief, typed

ROLES = ("system", "developer", "user", "assistant", "tool")


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
    found = {"role": role, "content": checked_content(name, said.get("content", "" if role == "assistant" else None))}
    if "function_call" in said:
        raise Wrong(f"{name}: function_call is not supported; tool_calls is its new form", "messages")
    if role == "assistant" and said.get("reasoning_content"):
        found["reasoning_content"] = checked_content(f"{name}.reasoning_content", said["reasoning_content"])
    if role == "assistant" and said.get("tool_calls"):
        calls = typed(said, "tool_calls", list, [])
        found["tool_calls"] = [checked_call(f"{name}.tool_calls[{j}]", call) for j, call in enumerate(calls)]
    if role == "tool" and "tool_call_id" in said:
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
        content = "".join(texts)
    if not isinstance(content, str):
        raise Wrong(f"{name}: content must be text, got {type(content).__name__}", "messages")
    return content


def checked_call(name: str, call: object) -> dict:
    """One call of an assistant's earlier message, its arguments as a dict."""
    function = call.get("function") if isinstance(call, dict) else None
    named = isinstance(function, dict) and isinstance(function.get("name"), str)
    if not named or not isinstance(call.get("id", ""), str):
        raise Wrong(f"{name} must be an object with id, type and function; the function must have a name", "messages")
    arguments = function.get("arguments") or {}
    arguments = json_or_none(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise Wrong(f"{name}: arguments must be a JSON object, as text, got {brief(function['arguments'])}", "messages")
    return {"id": call.get("id", ""), "type": "function",
            "function": {"name": function["name"], "arguments": arguments}}


def calls_of(message: dict) -> list[ToolCall]:
    """The calls of a checked message."""
    return [ToolCall(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]


def read_tools(given: dict) -> list[dict]:
    """The tools that the model is told of. Raises `Wrong`.

    tool_choice "none" leaves them out. "required", or a function's name, would have to be enforced while the model
    writes; the engine cannot, so they are refused, and so is parallel_tool_calls = false.
    """
    tools = typed(given, "tools", list, [])
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            wanted = '{"type": "function", "function": {"name": ...}}'
            raise Wrong(f"tools[{i}] must be {wanted}, got {brief(tool)}", "tools")
        for key, kind in (("description", str), ("parameters", dict)):
            if function.get(key) is not None and not isinstance(function[key], kind):
                raise Wrong(f"tools[{i}].function.{key} must be a {kind.__name__}, got {brief(function[key])}", "tools")
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise Wrong(f'tool_choice may be "auto" or "none"; a call cannot be enforced here, got {brief(choice)}',
                    "tool_choice")
    if tools and given.get("parallel_tool_calls") is False:
        raise Wrong("parallel_tool_calls: the number of calls cannot be enforced here", "parallel_tool_calls")
    return tools if choice == "auto" else []
