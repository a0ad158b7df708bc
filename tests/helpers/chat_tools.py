"""What the tests of replies and servers share: texts full of tags, a template, requests and streams."""

import http.client
import json

from hypothesis import strategies as st

from minizaya.infer.parse import CALL, UNCALL

CHATML = """{{- bos_token }}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'king' %}{{ raise_exception('no kings') }}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'tool' %}
        {{- '<zyphra_tool_response>' + message.content + '</zyphra_tool_response>' }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<zyphra_tool_call>' + call.function.name }}
        {%- for name, value in call.function.arguments | items %}{{ name ~ '=' ~ value }}{% endfor %}
        {{- '</zyphra_tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n</think>\\n' }}{% endif %}
{%- endif %}"""


PIECES = ["<think>", "</think>", CALL, UNCALL, "<function=f>", "</function>", "<parameter=a>", "</parameter>", "\n",
          " ", "<", ">", "</", "<th", "ink>", "17", "text", "{", "}", '{"name": "g", "arguments": {}}', "\u00e9",
          "<zyphra_", "null", "[1"]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=14).map("".join)


def post(server, body, path="/v1/chat/completions", headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("POST", path, body, dict(headers))
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document


def events(server, body) -> list:
    """The documents of a stream, "[DONE]" the last where all went well."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body)
    lines = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert lines.pop() == "" and all(line.startswith("data: ") for line in lines), lines
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]
