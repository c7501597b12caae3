"""Chats as text: what transformers renders, for every dialect of template that it knows."""

import pytest
from made_tokenizers import byte_level, newest_reference, write
from transformers import AutoTokenizer

from loraconsole.pipeline.text import chat_template
from loraconsole.pipeline.text.chat_template import ChatTemplate, TextError
from loraconsole.pipeline.text.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("offline")

CHAT = [
    {"role": "system", "content": "Be <brief> & é."},
    {"role": "user", "content": "What's the weather?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "A tool knows.",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
        ],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": '{"sky": "blue"}'},
    {"role": "assistant", "content": None, "reasoning": "old name"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
DOCUMENTS = [{"title": "t", "text": "x"}]
TEMPLATES = {
    "plain": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "generation": (
        "{% for m in messages %}\n  {% if m.role == 'assistant' %}\n"
        "    {%- generation -%}\n{% set x = 1 %}{{ m.content }}{{ eos_token }}\n"
        "    {%- endgeneration %}\n  {% else %}{{ m.content }}{% endif %}{% endfor %}{{ x }}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
        "{% if loop.index == 4 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    ),
    "tojson": (
        "{{ messages[0] | tojson }}{{ tools | tojson(indent=2) }}"
        "{{ documents | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}"
        "{{ messages[2].tool_calls[0].function.arguments | tojson }}"
    ),
    "undefined": (
        "[{{ nothing }}][{{ messages[1].nothing }}]{% if nothing is not defined %}u{% endif %}"
    ),
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ pad_token }}",
    "variables": "{{ enable_thinking }}{{ documents is none }}{{ tools is none }}{{ dict(a=1) }}",
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}{{ strftime_now('%Y') }}"
    ),
    "reasoning": (
        "{% for m in messages %}[{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.content }}]"
        "{% endfor %}"
    ),
    "macro": (
        "{% macro say(m) %}{{ m.role | upper }}{{ m['content'] | trim }}{% endmacro %}"
        "{% for m in messages %}{{ say(m) }}{% endfor %}"
    ),
    "string methods": "{{ messages[0].content.split(' ') | join('_') }}{{ messages | length }}",
}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def directory(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "image_token": "<img>"}
    write(tmp_path, "llama", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    return tmp_path


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("given", [{}, {"tools": TOOLS, "documents": DOCUMENTS}])
@newest_reference
def test_text_and_ids_are_those_of_transformers(directory, name, given):
    (directory / "chat_template.jinja").write_text(TEMPLATES[name])
    ours, reference = Tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    for prompt in (True, False):
        expected = reference.apply_chat_template(
            CHAT,
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=False,
            **given,
        )
        kwargs = {"template_kwargs": {"enable_thinking": False}, **given}
        assert ours.render_chat(CHAT, prompt, **kwargs) == expected
        ids = reference(expected, add_special_tokens=False).input_ids
        assert ours.encode_chat(CHAT, prompt, **kwargs) == ids


def test_final_message_is_continued_as_in_transformers(directory):
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    )
    (directory / "chat_template.jinja").write_text(template)
    ours, reference = Tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    chat = [*HELLO, {"role": "assistant", "content": "I am"}]
    expected = reference.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    assert ours.render_chat(chat, False, continue_final_message=True) == expected
    with pytest.raises(TextError, match="no final message"):
        ours.render_chat([], False, continue_final_message=True)
    silent = ChatTemplate({"default": "nothing"}, {}, "here")
    with pytest.raises(TextError, match="leaves out the final message"):
        silent.render(chat, False, continue_final_message=True)


# --- where templates come from


def named(directory, **files: str) -> Tokenizer:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".jinja").write_text(text)
    return Tokenizer(directory)


def test_template_of_tools_and_of_documents_is_chosen(directory):
    tokenizer = named(
        directory,
        chat_template="plain",
        additional_chat_templates__tool_use="tools",
        additional_chat_templates__rag="documents",
    )
    assert tokenizer.render_chat(HELLO) == "plain"
    assert tokenizer.render_chat(HELLO, tools=TOOLS, documents=DOCUMENTS) == "tools"
    assert tokenizer.render_chat(HELLO, documents=DOCUMENTS) == "documents"
    reference = AutoTokenizer.from_pretrained(directory)
    assert reference.apply_chat_template(HELLO, tools=TOOLS, tokenize=False) == "tools"


def test_templates_of_tokenizer_config_are_several_by_name(directory):
    entries = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    for several in (entries, {entry["name"]: entry["template"] for entry in entries}):
        write(directory, "llama", {"chat_template": several})
        tokenizer = Tokenizer(directory)
        assert tokenizer.render_chat(HELLO) == "plain"
        assert tokenizer.render_chat(HELLO, tools=TOOLS) == "tools"


def test_templates_without_a_default_name_those_that_are_there(directory):
    write(directory, "llama", {"chat_template": [{"name": "rag", "template": "x"}]})
    tokenizer = Tokenizer(directory)
    assert tokenizer.render_chat(HELLO, documents=DOCUMENTS) == "x"
    with pytest.raises(TextError, match="rag, and none named default"):
        tokenizer.render_chat(HELLO)


def test_chat_template_json_is_the_last_resort(directory):
    (directory / "chat_template.json").write_text('{"chat_template": "legacy"}')
    assert Tokenizer(directory).render_chat(HELLO) == "legacy"
    write(directory, "llama", {"chat_template": "config"})
    assert Tokenizer(directory).render_chat(HELLO) == "config"
    assert named(directory, chat_template="file").render_chat(HELLO) == "file"


@pytest.mark.parametrize("template", [7, [{"name": "default"}], ["x"], {"default": 3}])
def test_template_of_an_odd_kind_costs_chats_alone(directory, template):
    write(directory, "llama", {"chat_template": template})
    tokenizer = Tokenizer(directory)
    assert tokenizer.encode("hello")
    assert "chat_template is neither" in tokenizer.warnings[0]
    with pytest.raises(TextError, match="no chat template"):
        tokenizer.render_chat(HELLO)


def test_template_that_fails_is_told_at_the_start(directory):
    tokenizer = named(directory, chat_template="one\n{{ messages[0].role.fly() }}")
    (warning,) = tokenizer.warnings
    assert "in line 2" in warning
    with pytest.raises(TextError, match="in line 2"):
        tokenizer.encode_chat(HELLO)


# --- content in parts

PARTS = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("one", "two")]}]
WALKING = [
    "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}",
    "{% for m in messages %}{% for p in m['content'] | list %}<{{ p.text }}>{% endfor %}"
    "{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{% if c is string %}{{ c }}{% else %}"
    "{% for p in c %}<{{ p['text'] }}>{% endfor %}{% endif %}{% endfor %}",
    "{% macro say(content) %}{% for p in content %}<{{ p.text }}>{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ say(m.content) }}{% endfor %}",
]


@pytest.mark.parametrize("source", WALKING)
def test_template_that_walks_through_parts_gets_them(source):
    assert ChatTemplate({"default": source}, {}, "here").render(PARTS) == "<one><two>"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% set c = m.content if m.content is string else '' %}{{ c }}"
        "{% endfor %}",
    ],
)
def test_template_that_wants_a_text_gets_parts_joined(source):
    assert ChatTemplate({"default": source}, {}, "here").render(PARTS) == "one\ntwo"


# --- what a template may not do

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (ENDLESS, "its loops took"),
        ("{{ 'a' * 9999999999 }}", "repeated too often"),
        ("{{ [1] * 9999999999 }}", "repeated too often"),
        ("{{ 9 ** 9999999 }}", "exponent"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined|access"),
        ("{{ 1 / 0 }}", "division"),
        ("{% include 'x' %}", "loader"),
    ],
)
def test_template_is_bounded_and_stays_in_its_sandbox(source, reason, monkeypatch):
    monkeypatch.setattr(chat_template, "MOST_LOOP_STEPS", 1000)
    template = ChatTemplate({"default": source}, {}, "here")
    with pytest.raises(TextError, match=reason):
        text = template.render(HELLO)
        raise TextError(f"it is unsafe: {text}" if text == "" else text)


def test_text_that_is_too_long_is_refused():
    template = ChatTemplate({"default": "{% for i in range(99) %}abc{% endfor %}"}, {}, "here")
    with pytest.raises(TextError, match="more than the 100 characters"):
        template.render([], most_characters=100)
    assert len(template.render([], most_characters=99 * 3)) == 99 * 3


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "chat_template"])
def test_variables_that_are_arguments_are_refused_by_name(name):
    template = ChatTemplate({"default": "{{ x }}"}, {"bos_token": "<s>"}, "here")
    assert template.render(HELLO, template_kwargs={"x": 1}) == "1"
    with pytest.raises(TextError, match=name):
        template.render(HELLO, template_kwargs={name: 1})
