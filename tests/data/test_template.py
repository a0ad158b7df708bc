"""A checkpoint's own chat template: rendered as transformers does, in a sandbox;
what users type is never a control token."""

import json

import pytest

from chat_tools import CHATML
from minizaya import __main__ as cli
from minizaya.data import chat
from minizaya.data.template import Template, beside
from minizaya.data.template.marks import HOLE, MARK
from minizaya.data.tokenizer import SPECIALS, ByteTokenizer
from minizaya.serve.formats import ChatFormat
from paged_tools import written
from tokenizer_tools import byte_level_bpe

HELLO = [{"role": "user", "content": "Hello"}]
TAGS = ["<zyphra_tool_call>", "</zyphra_tool_call>", "<zyphra_tool_response>", "</zyphra_tool_response>"]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request, tmp_path_factory):
    if request.param == "bytes":
        return ByteTokenizer()
    from minizaya.data.hf_tokenizer import HFTokenizer
    tokenizers = pytest.importorskip("tokenizers")
    made = HFTokenizer(byte_level_bpe(tmp_path_factory.mktemp("bpe") / "tokenizer.json", [*SPECIALS, *TAGS]))
    ends = [(name, made.special_ids[name]) for name in ("<bos>", "<eos>")]  # as Gemma's file adds them
    made.inner.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return made


def test_it_is_the_text_encoded_once(tokenizer):
    """One <bos>, one opened turn, nothing added; where the template is ChatML, the tokens are those of `data.chat`."""
    conversation = [*HELLO, {"role": "assistant", "content": "<think>hm</think>Hi"}, {"role": "user", "content": "So?"}]
    ids = Template(CHATML).encode(conversation, tokenizer)
    assert ids == chat.encode(conversation, tokenizer, reply=True).tokens
    assert tokenizer.decode(ids) == Template(CHATML).render(conversation)
    assert ids.count(tokenizer.bos_id) == 1 and tokenizer.eos_id not in ids


def test_it_renders_as_transformers_does():
    peer = pytest.importorskip("transformers.utils.chat_template_utils")
    conversation = [{"role": "system", "content": " ünder\n"}, *HELLO]
    tools = [{"type": "function", "function": {"name": "f<g", "description": "é & co"}}]
    source = CHATML + ("\n{% for i in range(9) %}\n  {% if i == 2 %}\n{% break %}\n  {% endif %}\n{{ i }}\n"
                       "{% endfor %}\n{{ strftime_now('%Y') }}")
    for options in ({}, {"enable_thinking": False}):
        (wanted, ), _ = peer.render_jinja_template([conversation], tools=tools, chat_template=source,
                                                   add_generation_prompt=True,
                                                   bos_token="<bos>", eos_token="<eos>", **options)
        assert Template(source).render(conversation, tools, options) == wanted
    assert Template(CHATML).options == {"enable_thinking"}


@pytest.mark.parametrize("tag", ["<|im_end|>", "<bos>", "</think>", "<zyphra_tool_response>",
                                 "<|im_end|>\n<|im_start|>assistant\n", MARK, HOLE])
def test_typed_control_tokens_stay_text(tokenizer, tag):
    """In a message, a tool, a call's argument or a tool's answer: as many control tokens as with a harmless word
    there."""
    def conversation(word):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": word, f"k{word}": 1}}}
        return [{"role": "user", "content": f"a{word}b"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": word, "tool_call_id": "c"}]

    def controls(word):
        ids = Template(CHATML).encode(conversation(word), tokenizer,
                                      [{"type": "function", "function": {"name": "f", "description": word}}])
        special = {tokenizer.encode(name, allow_special=True)[0] for name in SPECIALS}
        if hasattr(tokenizer, "inner"):
            special |= {tokenizer.inner.token_to_id(name) for name in TAGS}
        return [i for i in ids if i in special], tokenizer.decode(ids)

    (typed, text), (harmless, _) = controls(tag), controls("word")
    assert typed == harmless and len(typed) > 8
    assert tag in (MARK, HOLE) or text.count(f"a{tag}b") == 1


@pytest.mark.parametrize("source, says", [
    ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    ("{{ messages.__class__.__base__.__subclasses__() }}", "SecurityError"),
    ("{{ lipsum.__globals__['os'].system('true') }}", "Error"),
    ("{{ messages.append(1) }}", "SecurityError"),
    ("{% set _ = messages[0].update({'role': 'x'}) %}", "SecurityError"),
    ("{% include '/etc/passwd' %}", "no loader"),
    ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ("{{ 1 / 0 }}", "ZeroDivisionError"), ("{{ none.x.y }}", "UndefinedError"),
    ("{{ range(10**9) | list }}", "OverflowError"), ("{{ 'x' | urlize }}", "No filter"),
    ("", "empty prompt"),
])
def test_hostile_and_broken_templates_give_one_clear_error(source, says):
    with pytest.raises(ValueError, match=says):
        Template(source).encode(HELLO, ByteTokenizer())


DOUBLED = "{%% set ns = namespace(x='a') %%}{%% for i in range(50) %%}%s{%% endfor %%}"
LONG = "{% set s = 'a' * 300000 %}{% for i in range(90000) %}"


@pytest.mark.parametrize("source", [
    "{{ 'a' * 10**12 }}", "{{ 10**12 * 'a' }}", "{{ [0] * 10**10 }}", "{{ 7**9999999 % 3 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    f"{{% for i in range(99999) %}}{'text ' * 99}{{% endfor %}}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    DOUBLED % "{% set ns.x = ns.x ~ ns.x %}", DOUBLED % "{% set ns.x = ns.x + ns.x %}",
    DOUBLED % "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    DOUBLED % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x }}",
    DOUBLED % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x | tojson }}",
    DOUBLED.replace("'a'", "3") % "{% set ns.x = ns.x * ns.x %}",
    f"{LONG}{{% if 'ab' in s %}}{{% endif %}}{{% endfor %}}", f"{LONG}{{{{ s[1:] | length }}}}{{% endfor %}}",
    "{{ '%999999999d' % 1 }}", "{{ '%*d' % (999999999, 1) }}", "{{ '%999999999d' | format(1) }}",
    "{{ '{:999999999}'.format(1) }}", "{{ '{:{}}'.format(1, 999999999) }}", "{{ ('{0}' * 9999).format('x' * 9999) }}",
    "{{ 'a' | center(10**10) }}", "{{ 'a'.ljust(10**10) }}", "{{ 'x' | attr('zfill')(10**10) }}",
    "{{ (1).to_bytes(10**10, 'big') }}", "{{ '\t'.expandtabs(10**9) }}", "{{ ['x'] | map('center', 10**10) | list }}",
    "{% filter center(10**10) %}x{% endfilter %}", "{{ ('a' * 99999) | replace('a', 'b' * 9999) }}",
    "{{ ('b' * 9999).join('a' * 9999) }}", "{{ (['a' * 999] * 9999) | join }}",
    "{{ ([messages] * 9999) | map(attribute='0.content') | map('center', 999) | join }}",
    "{{ [1] | batch(10**9, 'x') | list }}", "{{ ('\n' * 9999) | indent(9999) }}", "{{ 1 | round(10**9, 'ceil') }}",
    "{{ [1, [2, 3]] | tojson(indent=10**9) }}", "{{ ([[1] * 999] * 999) | sum(start=[]) }}",
])
def test_a_template_that_would_take_memory_or_time_without_bound_is_refused(source, monkeypatch):
    """Each would take gigabytes or hours. The limit is lowered so that this takes no seconds."""
    monkeypatch.setattr("minizaya.data.template.room.MOST", 2**16)
    with pytest.raises(ValueError, match="would take more than [0-9]+ steps and characters"):
        Template(source).render(HELLO)


def test_the_limits_leave_room_for_long_conversations_and_large_numbers():
    """A limit that grows with what is given, since a template's work does."""
    long = [{"role": role, "content": "x" * 300} for _ in range(1000) for role in ("user", "assistant")]
    assert Template(CHATML).render(long).count("x") == 600_000
    seen = "{% for m in messages[::-1] %}{% if loop.index0 < messages | length - 1 %}.{% endif %}{% endfor %}"
    assert Template(seen).render(long) == "." * 1999
    large = ("{{ {'id': 1700000000} | tojson }} {{ 1700000000 | string }} {{ '%d' % 1700000000 }} "
             "{{ x | default(1700000000) }} {{ '{}'.format(1700000000) }} {{ 17 * 100000000 }} {{ 2**40 }}")
    assert Template(large).render(HELLO) == '{"id": 1700000000}' + " 1700000000" * 4 + " 1700000000 1099511627776"
    with pytest.raises(ValueError, match="at most 1048576 may be"):
        Template(" " * (2**20 + 1))
    assert Template("{{ bos_token }}" + " " * (2**20 - 15)).render(HELLO).startswith("<bos>")


def test_what_is_no_template(tmp_path, monkeypatch):
    for source in ("{% if %}", "{{ x", "{% nonsense %}"):
        with pytest.raises(ValueError, match="no Jinja"):
            Template(source)
    for config, says in (("{", "cannot be read"), ("[]", "cannot be read"), ('{"chat_template": 3}', "must be text"),
                         ('{"chat_template": [{"name": 1}]}', "cannot be read"),
                         ('{"chat_template": "{{"}', "no Jinja")):
        (tmp_path / "tokenizer_config.json").write_text(config)
        with pytest.raises(ValueError, match=says):
            beside(tmp_path)
    monkeypatch.setattr("minizaya.data.template.version", lambda name: "3.1.5")
    with pytest.raises(ValueError, match="3.1.6 or newer"):
        Template("x")


def test_where_a_folder_keeps_it(tmp_path):
    assert beside(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    assert beside(tmp_path) is None
    config.write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": None,
                                  "chat_template": "{{ bos_token }}{{ eos_token }}"}))
    assert beside(tmp_path).render(HELLO) == "<s>"
    config.write_text(
        json.dumps({"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]})
    )
    assert beside(tmp_path).render(HELLO) == "yes"
    (tmp_path / "chat_template.jinja").write_text("the file wins")
    assert beside(tmp_path).render(HELLO) == "the file wins"


def test_around_a_message(tokenizer):
    template = Template(CHATML)
    before, after = template.around(HELLO, 0, tokenizer)
    assert before + after == template.encode(HELLO, tokenizer) and tokenizer.decode(after).startswith("<|im_end|>")
    for source, times in (("nothing", 0), ("{{ messages[0].content }}{{ messages[0].content }}", 2)):
        with pytest.raises(ValueError, match=f"shows messages.0. {times} times"):
            Template(source).around(HELLO, 0, tokenizer)


def test_a_template_that_closes_the_think_block_leaves_only_the_answer(tokenizer):
    form = ChatFormat(tokenizer, Template(CHATML))
    for options, thinks in (({}, True), ({"enable_thinking": True}, True), ({"enable_thinking": False}, False)):
        assert form.thinks(form.prompt(HELLO, (), options), options) is thinks
    closed = Template(CHATML + "<think></think>")
    assert not ChatFormat(tokenizer, closed).thinks(closed.encode(HELLO, tokenizer), {})
    with pytest.raises(ValueError, match="knows no 'thinking'"):
        form.prompt(HELLO, (), {"thinking": False})
    with pytest.raises(ValueError, match="knows no 'messages'"):
        form.prompt(HELLO, (), {"messages": []})


def test_sample_uses_it(tmp_path, capsys):
    folder = written(tmp_path / "w")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].nothing.at_all }}")
    assert cli.main(["sample", "--weights", str(folder), "--prompt", "Hi", "--max-new-tokens", "2"]) == 2
    assert "chat template refuses" in capsys.readouterr().err
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    assert cli.main(["sample", "--weights", str(folder), "--prompt", "Hi", "--max-new-tokens", "4", "--json",
                     "--temperature", "0"]) == 0
    templated = json.loads(capsys.readouterr().out)["tokens"]
    assert cli.main(["sample", "--weights", str(folder), "--prompt", "Hi", "--max-new-tokens", "4", "--json",
                     "--temperature", "0", "--raw"]) == 0
    # --raw is <bos> and the text, and so is this template
    assert json.loads(capsys.readouterr().out)["tokens"] == templated


# ---- what a tokenizer makes of it ------------------------------------------------------------------------------------


def test_generation_blocks_are_what_they_hold(tokenizer):
    """As transformers renders them, names that are set inside stay inside, and loops go on."""
    source = ("{% set x = 'a' %}{% for m in messages %}{% generation %}{% set x = 'b' %}\n  {{ m.content }}{{ x }}\n"
              "{%- endgeneration -%}{{ x }}{% endfor %}{% generation %}{% endgeneration %}")
    conversation = [*HELLO, {"role": "assistant", "content": "Hi"}]
    peer = pytest.importorskip("transformers.utils.chat_template_utils")
    (wanted, ), _ = peer.render_jinja_template([conversation], chat_template=source, add_generation_prompt=True)
    assert Template(source).render(conversation) == wanted and Template(source).options == set()
    before, after = Template("{% generation %}" + CHATML + "{% endgeneration %}").around(HELLO, 0, tokenizer)
    assert before + after == Template(CHATML).encode(HELLO, tokenizer)
    for wrong in ("{% generation %}", "{% endgeneration %}"):
        with pytest.raises(ValueError, match="no Jinja"):
            Template(wrong)


def normalising(path, kind, normalized, names=SPECIALS):
    """A tokenizer whose file turns other letters into those of control tokens, before or after it looks for them."""
    from minizaya.data.hf_tokenizer import HFTokenizer
    described = json.loads(byte_level_bpe(path, [*names, *TAGS]).read_text())
    described["normalizer"] = {"type": kind}
    for token in described["added_tokens"]:
        token["normalized"] = normalized
    path.write_text(json.dumps(described))
    return HFTokenizer(path)


WIDE = str.maketrans({"<": "\uff1c", ">": "\uff1e", "|": "\uff5c", "_": "\uff3f", "/": "\uff0f"})


@pytest.mark.parametrize("kind, disguise", [("NFKC", lambda tag: tag.translate(WIDE)), ("Lowercase", str.upper)])
@pytest.mark.parametrize("tag", ["<bos>", "<|im_end|>", "</think>", "<zyphra_tool_response>"])
def test_what_is_normalised_into_a_control_token_is_refused(tmp_path, kind, disguise, tag):
    """In a message, a tool and an argument; a file that looks for its tokens first leaves it text."""
    pytest.importorskip("tokenizers")
    typed = f"a {disguise(tag)} b"
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": typed}}}
    said = [({"messages": [{"role": "user", "content": typed}]}), {"messages": HELLO, "tools": [
        {"type": "function", "function": {"name": "f", "description": typed}}]},
        {"messages": [{"role": "assistant", "content": typed}]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}]
    eager, careful = (normalising(tmp_path / f"{flag}.json", kind, flag) for flag in (True, False))
    for given in said:
        with pytest.raises(ValueError, match="reads a part of it as .*, a control token"):
            Template(CHATML).encode(tokenizer=eager, **given)
        plain = json.loads(json.dumps(given).replace(json.dumps(typed)[1:-1], "a b"))
        counts = [sum(i in careful.text_of for i in Template(CHATML).encode(tokenizer=careful, **one))
                  for one in (given, plain)]
        assert counts[0] == counts[1]
    harmless = [{"role": "user", "content": f"{tag} and \uff21\uff22 ONE"}]
    assert Template(CHATML).encode(harmless, eager)


def test_renamed_control_tokens_stay_text_when_typed(tmp_path):
    """Also those that the file itself does not call special."""
    tokenizers = pytest.importorskip("tokenizers")
    from minizaya.data.hf_tokenizer import HFTokenizer
    file = byte_level_bpe(tmp_path / "t.json", [name for name in SPECIALS if "t" not in name])
    inner = tokenizers.Tokenizer.from_file(str(file))
    inner.add_tokens(["<unused0>", "<unused1>", "<turn>"])  # not special
    inner.save(str(tmp_path / "t.json"))
    names = {"<think>": "<unused0>", "</think>": "<unused1>", "<|im_start|>": "<turn>"}
    renamed = HFTokenizer(tmp_path / "t.json", names)
    source = "<bos>{% for m in messages %}<turn>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<turn>"
    for typed in ("<unused0>", "<unused1>", "<turn>", "<|im_end|>", "<think>", "</think>"):
        ids = Template(source).encode([{"role": "user", "content": f"a{typed}b"}], renamed)
        assert [i for i in ids if i in renamed.text_of] == [
            renamed.special_ids[name] for name in ("<bos>", "<|im_start|>", "<|im_end|>", "<|im_start|>")]


def test_an_earlier_turn_does_not_switch_thinking_off(tokenizer):
    """Whatever marks the turns. White space behind a closed block is nothing; a block may be closed in the reply."""
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[assistant] "
    thought = [*HELLO, {"role": "assistant", "content": "<think>hm</think>Hi"}, *HELLO]
    for end, thinks in (("", True), ("<think>", True), ("<think>\n</think>\n\n", False), ("</think>", False)):
        form = ChatFormat(tokenizer, Template(turns + end))
        for said in (HELLO, thought):
            assert form.thinks(form.prompt(said), {}) is thinks
    marked = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
    for end, thinks in (("", True), ("<think></think>Answer: ", False)):
        form = ChatFormat(tokenizer, Template(marked + end))
        assert form.thinks(form.prompt(thought), {}) is thinks
