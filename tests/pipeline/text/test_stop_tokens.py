"""Which tokens end an answer: those that any file names, and those that the template ends with."""

import json

import pytest
from made_tokenizers import byte_level, sentencepiece_model

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.text.stop_tokens import stop_token_ids

SPECIAL = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>"]
UNK, BOS, EOS, TEXT_END, TURN, TURN_END, END = range(7)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}{% if m.reasoning_content %}think {{ m.reasoning_content }}<|end|>"
    "{% endif %}{{ m.content }}<|end|>{% endfor %}"
)
SEPARATOR = (
    "{% for m in messages %}{{ m.content }}{% if not loop.last %}<|end|>{% endif %}{% endfor %}"
)


@pytest.fixture
def directory(tmp_path):
    byte_level(SPECIAL).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def stops(directory, config=None, generation=None, tokenizer=None, **files) -> tuple[int, ...]:
    files = {"tokenizer_config": tokenizer or {}, **files}
    if generation is not None:
        files["generation_config"] = {"eos_token_id": generation}
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return stop_token_ids(directory, {"vocab_size": 420, **(config or {})})


def test_files_are_joined(directory):
    found = stops(directory, {"eos_token_id": EOS}, [TURN_END, TEXT_END], {"eos_token": "<|end|>"})
    assert found == (EOS, TEXT_END, TURN_END, END)


def test_one_id_or_none_at_all(directory):
    assert stops(directory) == ()
    assert stops(directory, {"eos_token_id": None}, generation=[]) == ()
    assert stops(directory, {"eos_token_id": EOS}) == (EOS,)
    assert stops(directory, generation=EOS) == (EOS,)


def test_absent_ids_are_the_default_of_the_class_where_that_is_a_special_token(directory):
    assert stops(directory, {"model_type": "llama"}) == (EOS,)
    assert stops(directory, {"model_type": "qwen2"}) == ()
    assert stops(directory, {"model_type": "llama", "eos_token_id": None}) == ()
    assert stops(directory, {"model_type": "mistral"}, generation=TURN_END) == (TURN_END,)
    byte_level([]).save(str(directory / "tokenizer.json"))
    (directory / "generation_config.json").unlink()
    assert stops(directory, {"model_type": "llama"}) == ()


def test_old_default_that_is_an_ordinary_token_does_not_stop_where_another_file_knows(directory):
    assert stops(directory, {"eos_token_id": 40}, generation=TURN_END) == (TURN_END,)
    assert stops(directory, {"eos_token_id": 40}, generation=None) == (TURN_END,)
    (directory / "generation_config.json").unlink()
    assert stops(directory, {"eos_token_id": 40}) == (40,)


def test_ids_outside_the_vocabulary_name_nothing(directory):
    assert stops(directory, {"eos_token_id": [-1, EOS, 420, 99999]}) == (EOS,)


@pytest.mark.parametrize("value", ["</s>", [EOS, "2"], True, 2.0, {"id": 2}])
def test_what_is_no_id_is_refused_with_its_file(directory, value):
    with pytest.raises(OperatorError, match=r"generation_config\.json: eos_token_id"):
        stops(directory, generation=value)
    (directory / "generation_config.json").unlink()
    with pytest.raises(OperatorError, match=r"/config\.json: eos_token_id"):
        stops(directory, {"eos_token_id": value})


@pytest.mark.parametrize("eos", ["<|im_end|>", {"content": "<|im_end|>", "special": True}])
def test_tokenizers_own_eos_counts(directory, eos):
    assert stops(directory, {"eos_token_id": EOS}, tokenizer={"eos_token": eos}) == (EOS, TURN_END)


def test_special_tokens_map_counts_as_in_transformers(directory):
    named = {"eos_token": "<|im_end|>"}
    assert stops(directory, special_tokens_map=named) == (TURN_END,)
    decoder = {"added_tokens_decoder": {}}
    assert stops(directory, tokenizer=decoder, special_tokens_map=named) == ()


def test_token_of_the_vocabulary_alone_is_found(tmp_path):
    byte_level([]).save(str(tmp_path / "tokenizer.json"))
    (found,) = stops(tmp_path, tokenizer={"eos_token": "h"})
    assert found == byte_level([]).token_to_id("h")
    assert stops(tmp_path, tokenizer={"eos_token": "nowhere"}) == ()


def test_token_of_a_sentencepiece_model_is_found(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    assert stops(tmp_path, tokenizer={"eos_token": "</s>"}) == (EOS,)


def test_token_that_the_template_ends_turns_with_counts(directory):
    template = {"chat_template": CHATML, "eos_token": "</s>"}
    assert stops(directory, tokenizer=template) == (EOS, TURN_END)
    (directory / "chat_template.jinja").write_text(CHATML)
    assert stops(directory) == (TURN_END,)


def test_token_inside_a_turn_or_between_turns_alone_does_not(directory):
    assert stops(directory, tokenizer={"chat_template": CHANNELS}) == ()
    assert stops(directory, tokenizer={"chat_template": SEPARATOR}) == ()


def test_token_before_a_tool_call_does_not(directory):
    template = (
        "{% for m in messages %}{{ m.content }}<|end|>"
        "{% for call in m.tool_calls %}{{ call.function.name }}<|im_end|>{% endfor %}{% endfor %}"
    )
    assert stops(directory, tokenizer={"chat_template": template}) == ()


@pytest.mark.parametrize("template", ["<|im_end|>{% if %}", "{{ raise_exception('<|im_end|>') }}"])
def test_template_that_fails_names_nothing(directory, template):
    assert stops(directory, tokenizer={"chat_template": template}) == ()
