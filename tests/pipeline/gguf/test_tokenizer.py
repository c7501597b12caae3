"""The tokenizer of a GGUF: how text is cut, the tokens that end an answer, templates."""

import json
from pathlib import Path

import pytest
from tiny_gguf import EOS, IM_END, TOKENS, serve, write_gguf
from tokenizers import Tokenizer as RawTokenizer

from loraconsole.pipeline.gguf.tokenizer import CUTS
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.text.tokenizer import Tokenizer, byte_of_character


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


TEXT = "It's 1234 DON'T\r\n\n  x=y+1, aBCd (é汉1.5)//\n 🙂"
PIECES = {
    ("default",): "It|'|s| |123|4| DON|'|T|\r\n\n | x|=|y|+|1|,| aBCd| |(|é汉|1|.|5|)//|\n| 🙂",
    (
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "jais",
        "exaone4",
        "trillion",
        "a.x-4.0",
        "gigachat",
        "mellum",
        "granite-docling",
    ): "It|'s| 1234| DON|'|T|\r\n\n | x|=|y|+|1|,| aBCd| (|é汉|1|.|5|)//|\n| 🙂",
    (
        "smollm",
        "starcoder",
        "refact",
        "command-r",
        "codeshell",
        "exaone",
        "minerva-7b",
        "mellum2",
    ): "It|'s| |1|2|3|4| DON|'|T|\r\n\n | x|=|y|+|1|,| aBCd| (|é汉|1|.|5|)//|\n| 🙂",
    (
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
    ): "It|'s| |123|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//\n| 🙂",
    (
        "smaug-bpe",
        "dbrx",
        "glm4",
        "chatglm-bpe",
    ): "It|'s| |123|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//\n| 🙂",
    (
        "qwen2",
        "deepseek-r1-qwen",
        "megrez",
    ): "It|'s| |1|2|3|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//\n| 🙂",
    (
        "stablelm2",
        "hunyuan",
        "solar-open",
        "grok-2",
    ): "It|'s| |1|2|3|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//\n| 🙂",
    ("qwen35",): "It|'s| |1|2|3|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//\n| 🙂",
    ("tekken",): "It|'s| |1|2|3|4| DON|'T|\r\n\n| | x|=y|+|1|,| a|BCd| (|é汉|1|.|5|)//\n| 🙂",
    (
        "gpt-4o",
        "llama4",
        "kanana2",
    ): "It's| |123|4| DON'T|\r\n\n| | x|=y|+|1|,| a|BCd| (|é汉|1|.|5|)//\n| 🙂",
    (
        "deepseek-coder",
    ): "It|'|s| |1|2|3|4| DON|'|T|\r|\n|\n| | x|=|y|+|1|,| aBCd| (|é|汉|1|.|5|)//|\n| 🙂",
    ("deepseek-v3",): "It|'s| |123|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é|汉|1|.|5|)//\n| 🙂",
    ("seed-coder",): "It|'s| |1|2|3|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//|\n| 🙂",
    ("minicpm5",): "It|'s| |123|4| DON|'T|\r\n\n| | x|=y|+|1|,| aBCd| (|é汉|1|.|5|)//\n| 🙂",
}
"""As llama.cpp cuts it: with a vocabulary whose merges cross every border, its tokens are ours."""


@pytest.mark.parametrize("names", PIECES)
def test_text_is_cut_as_llama_cpp_does(tmp_path, names):
    path = tmp_path / "m.gguf"
    write_gguf(path, keys={"tokenizer.ggml.pre": names[0]})
    tokenizer = RawTokenizer.from_file(str(serve(path) / "tokenizer.json"))
    found = tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)
    table = byte_of_character()
    pieces = [bytes(table[letter] for letter in piece).decode() for piece, _ in found]
    assert "|".join(pieces) == PIECES[names]
    assert {CUTS[name] for name in names} == {CUTS[names[0]]}
    assert {name for group in PIECES for name in group} == set(CUTS)


def test_a_file_that_names_no_cut_has_the_default_one(tmp_path):
    tokenizers = []
    for pre in ("default", "", None):
        path = tmp_path / f"{pre}.gguf"
        write_gguf(path, keys={"tokenizer.ggml.pre": pre})
        tokenizers.append((serve(path) / "tokenizer.json").read_text())
    assert tokenizers[0] == tokenizers[1] == tokenizers[2]


def stops(path: Path) -> set[str]:
    return {TOKENS[index] for index in read_model_config(serve(path)).eos_token_ids}


def test_a_token_that_ends_a_turn_by_its_text_ends_an_answer(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path)
    assert stops(path) == {"</s>", "<|im_end|>"}
    write_gguf(path, keys={"tokenizer.ggml.token_type": [1] * len(TOKENS)})
    assert stops(path) == {"</s>", "<|im_end|>"}, "eos by name; no word is written as the other"
    tokenizer = Tokenizer(serve(path))
    assert tokenizer.encode("a<|im_end|>", False)[-1] == IM_END
    assert tokenizer.is_special(IM_END)
    keys = {"tokenizer.ggml.eos_token_id": IM_END, "tokenizer.ggml.token_type": [1] * len(TOKENS)}
    write_gguf(path, keys=keys)
    assert stops(path) == {"<|im_end|>"}, "an ordinary </s> may be HTML"


@pytest.mark.parametrize("role", ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
def test_a_token_that_ends_an_answer_by_its_role_does(tmp_path, role):
    path = tmp_path / "m.gguf"
    write_gguf(path, keys={f"tokenizer.ggml.{role}_token_id": TOKENS.index("A")})
    assert stops(path) == {"A", "</s>", "<|im_end|>"}
    write_gguf(path, keys={"tokenizer.ggml.eos_token_ids": [TOKENS.index("B"), EOS]})
    assert stops(path) == {"B", "</s>", "<|im_end|>"}


def test_eos_is_added_where_the_file_says_so(tmp_path):
    path = tmp_path / "m.gguf"
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    write_gguf(path, keys=both)
    tokens = [TOKENS[index] for index in Tokenizer(serve(path)).encode("and")]
    assert tokens == ["<s>", "and", "</s>"]


def test_chat_templates_by_name_are_kept(tmp_path):
    path = tmp_path / "m.gguf"
    keys = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    write_gguf(path, keys=keys | {"tokenizer.chat_templates": ["default", "tool_use"]})
    config = json.loads((serve(path) / "tokenizer_config.json").read_text())
    assert config["chat_template"] == [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools"},
    ]
    assert Tokenizer(serve(path)).render_chat([{"role": "user", "content": "x"}]) == "plain"
