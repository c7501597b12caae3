"""An adapter's own chat template, tokens and stop tokens: read once, believed in nothing."""

import json
import os

import msgspec
import pytest
from made_tokenizers import byte_level

from loraconsole.pipeline.messages import AdapterState, AdapterTable, AdapterView, SamplingParams
from loraconsole.pipeline.server.chat.adapter_chat import AdapterChats
from loraconsole.pipeline.text.chat_template import TextError
from loraconsole.pipeline.text.tokenizer import Tokenizer

BASE_TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    byte_level().save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": BASE_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(directory)


def view(directory, generation=1, state=AdapterState.HOST) -> AdapterView:
    return AdapterView(
        name="mine",
        path=str(directory),
        state=state,
        reason="",
        since=0.0,
        generation=generation,
        digest="",
        rank=8,
        target_modules=(),
        num_bytes=0,
        pages=0,
        running=0,
        waiting=0,
        requests=0,
        prompt_tokens=0,
        output_tokens=0,
    )


def table(*views) -> AdapterTable:
    row = views[0] if views else view("")
    return AdapterTable(at=0.0, base_model="base", adapters=views, base=row)


@pytest.fixture
def events():
    return []


@pytest.fixture
def chats(tokenizer, events):
    stops = (tokenizer.token_id("</s>"),)
    tell = lambda level, text: events.append((level, text))  # noqa: E731
    return AdapterChats(tokenizer, tokenizer.vocab_size, stops, (), tell)


def test_adapter_without_files_chats_as_its_model(chats, events, tmp_path):
    found = chats.of("mine", table(view(tmp_path)))
    assert (found.template, found.stop_token_ids, found.remark) == (None, (), "")
    assert events == []


def test_own_template_is_used_and_told(chats, events, tmp_path, tokenizer):
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    found = chats.of("mine", table(view(tmp_path)))
    text = tokenizer.render_chat(HELLO, chat_template=found.template)
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert found.stop_token_ids == (tokenizer.token_id("<|im_end|>"),)
    ((level, text_of_event),) = events
    assert level == "info"
    assert "its own chat template" in text_of_event and "'<|im_end|>'" in text_of_event


def test_template_in_tokenizer_config_counts_with_its_special_tokens(chats, tmp_path, tokenizer):
    config = {"chat_template": "{{ eos_token }}{{ bos_token }}", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = chats.of("mine", table(view(tmp_path)))
    assert tokenizer.render_chat(HELLO, chat_template=found.template) == "<|im_end|><s>"
    params = found.with_stop_tokens(SamplingParams(max_tokens=1))
    assert params.stop_token_ids == (tokenizer.token_id("<|im_end|>"),)
    blind = SamplingParams(max_tokens=1, ignore_eos=True)
    assert found.with_stop_tokens(blind) is blind


def test_the_models_own_template_beside_an_adapter_is_no_news(chats, events, tmp_path):
    (tmp_path / "chat_template.jinja").write_text(BASE_TEMPLATE)
    assert chats.of("mine", table(view(tmp_path))).template is None
    assert events == []


def test_tokens_that_the_model_lacks_are_named_and_not_used(chats, events, tmp_path):
    config = {"eos_token": "<|new|>", "chat_template": "{{ eos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"added_tokens": [{"id": 9999, "content": "<|tool\x1b|>", "special": True}]})
    )
    found = chats.of("mine", table(view(tmp_path)))
    assert found.template.render(HELLO) == "</s>"
    assert found.stop_token_ids == ()
    assert "lacks tokens that its tokenizer has: '<|new|>', '<|tool" in found.remark
    assert "\x1b" not in found.remark
    assert events[0][0] == "warning"


def test_reload_reads_again_and_what_is_gone_is_forgotten(chats, tmp_path):
    (tmp_path / "chat_template.jinja").write_text("one")
    first = chats.of("mine", table(view(tmp_path)))
    (tmp_path / "chat_template.jinja").write_text("two")
    assert chats.of("mine", table(view(tmp_path))) is first
    reloaded = table(view(tmp_path, generation=2))
    assert chats.has_news(reloaded)
    chats.read_new(reloaded)
    assert not chats.has_news(reloaded)
    assert chats.of("mine", reloaded).template.render(HELLO) == "two"
    chats.read_new(table())
    assert chats.of("mine", table()).template is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [("a\n{% if %}", "line 2"), ("x" * (9 << 20), "bytes"), (b"\xff\xfe", "UTF-8")],
)
def test_broken_template_costs_chats_with_that_adapter_alone(
    chats, events, tmp_path, tokenizer, source, reason
):
    content = source if isinstance(source, bytes) else source.encode()
    (tmp_path / "chat_template.jinja").write_bytes(content)
    found = chats.of("mine", table(view(tmp_path)))
    with pytest.raises(TextError, match=reason):
        tokenizer.render_chat(HELLO, chat_template=found.template)
    assert tokenizer.render_chat(HELLO)
    assert events[0][0] == "warning"
    (warning,) = chats.warnings(table(view(tmp_path)))
    assert (warning.name, warning.generation) == ("mine", 1) and reason in warning.text
    said = msgspec.structs.replace(view(tmp_path), warning=f"old; {warning.text}")
    assert list(chats.warnings(table(said))) == []


def test_template_that_is_no_file_or_lies_elsewhere_is_not_read(tokenizer, tmp_path):
    inside, outside = tmp_path / "root" / "mine", tmp_path / "elsewhere.jinja"
    inside.mkdir(parents=True)
    outside.write_text("secret")
    (inside / "chat_template.jinja").symlink_to(outside)
    chats = AdapterChats(tokenizer, 999, (), (str(tmp_path / "root"),), lambda *_: None)
    with pytest.raises(TextError, match="outside --adapter-root"):
        chats.of("mine", table(view(inside))).template.render(HELLO)
    (inside / "chat_template.jinja").unlink()
    os.mkfifo(inside / "chat_template.jinja")
    with pytest.raises(TextError, match="fifo"):
        chats.of("mine", table(view(inside, generation=2))).template.render(HELLO)


def test_stop_tokens_of_an_adapters_generation_config(chats, tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 5, -1, 99999, "x"]}')
    assert chats.of("mine", table(view(tmp_path))).stop_token_ids == (5, 7)


def test_adapter_that_is_not_there_yet_is_not_read(chats, tmp_path):
    (tmp_path / "chat_template.jinja").write_text("own")
    on_its_way = table(view(tmp_path, state=AdapterState.FETCHING))
    assert chats.of("mine", on_its_way).template is None
    assert not chats.has_news(on_its_way)
