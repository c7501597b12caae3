"""Prompt ids and texts are transformers' own, whatever files and keys a tokenizer is made of."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from made_tokenizers import MADE, byte_level, newest_reference, sentencepiece_model, write
from transformers import AutoTokenizer

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.text.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("offline")

FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def token(text: str, **flags: bool) -> dict:
    """An added token as tokenizer_config.json writes it."""
    return {"__type": "AddedToken", "content": text, **FLAGS, "special": True, **flags}


def decoder(*entries: tuple[int, dict]) -> dict:
    fields = [(i, {k: v for k, v in entry.items() if k != "__type"}) for i, entry in entries]
    return {"added_tokens_decoder": {str(i): entry for i, entry in fields}}


TEXTS = [
    "",
    "hello world",
    " hello  world ",
    "<s>hi</s> there<|im_start|>user\nhi<|im_end|>\n",
    "1234 56",
    "it's don't , you ?",
    "é你好 हि\t\x00 😀",
    "<tool> a<tool>b </tool>",
    "<custom>x <custom>",
    "a\n\n  b",
]
ORDINARY = [(1, token("<s>")), (2, token("</s>"))]
TURNS = [(4, token("<|im_start|>")), (5, token("<|im_end|>")), (3, token("<|endoftext|>"))]
CASES = {
    "nothing": ({}, {}),
    "names": ({"bos_token": "<s>", "eos_token": "</s>"}, {}),
    "names as objects": (
        {"bos_token": token("<bos>"), "eos_token": token("</s>", lstrip=True)},
        {},
    ),
    "added_tokens_decoder": (
        decoder(
            *ORDINARY,
            *TURNS,
            (500, token("<tool>")),
            (501, token("</tool>", special=False)),
            (502, token("<custom>", lstrip=True, rstrip=True)),
        ),
        {},
    ),
    "other flags of known tokens": (
        decoder((1, token("<s>", rstrip=True)), (2, token("</s>", normalized=True)), *TURNS),
        {},
    ),
    "special_tokens_map": (
        {},
        {
            "special_tokens_map": {
                "bos_token": "<bos>",
                "eos_token": {"content": "<custom>", **FLAGS, "lstrip": True},
                "additional_special_tokens": ["<tool>"],
            }
        },
    ),
    "special_tokens_map's extra tokens": (
        {"extra_special_tokens": ["<a>"]},
        {
            "special_tokens_map": {
                "extra_special_tokens": ["<tool>", {"content": "<custom>", **FLAGS}]
            }
        },
    ),
    "special_tokens_map beside added_tokens_decoder": (
        decoder(*ORDINARY, *TURNS, (500, token("<tool>"))),
        {"special_tokens_map": {"bos_token": "<custom>"}},
    ),
    "added_tokens.json": (
        {"eos_token": "<custom>"},
        {"added_tokens": {"<custom>": 900, "<tool>": 901}},
    ),
    "additional_special_tokens": ({"additional_special_tokens": ["<tool>", "<custom>"]}, {}),
    "extra tokens by name": (
        {"extra_special_tokens": {"image_token": "<custom>", "tool_token": "<tool>"}},
        {},
    ),
    "a name of its own": ({"image_token": "<custom>"}, {}),
    "add_bos_token": (
        {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
        {},
    ),
    "add_prefix_space": ({"add_prefix_space": True}, {}),
    "no prefix space": ({"add_prefix_space": False}, {}),
    "legacy": ({"legacy": True}, {}),
    "clean_up_tokenization_spaces": ({"clean_up_tokenization_spaces": True}, {}),
    "clean up byte pairs": (
        {
            "clean_up_tokenization_spaces": True,
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
        },
        {},
    ),
    "split_special_tokens": ({"split_special_tokens": True, "bos_token": "<s>"}, {}),
    "keys that change no id": (
        {
            "model_max_length": 4,
            "truncation_side": "left",
            "padding_side": "left",
            "spaces_between_special_tokens": True,
            "unk_token": None,
            "pad_token": "<s>",
        },
        {},
    ),
}
BYTE_LEVEL = [
    ("PreTrainedTokenizerFast", "llama"),
    ("PreTrainedTokenizerFast", "qwen2"),
    ("LlamaTokenizerFast", "llama"),
    ("LlamaTokenizerFast", "mistral"),
    ("Qwen2TokenizerFast", "qwen2"),
    ("Qwen2Tokenizer", "qwen3"),
    ("GPT2Tokenizer", "llama"),
    (None, "llama"),
    (None, "qwen3"),
]
SENTENCE_PIECES = [
    ("LlamaTokenizerFast", "llama"),
    ("LlamaTokenizer", "mistral"),
    ("CodeLlamaTokenizer", "llama"),
    ("PreTrainedTokenizerFast", "llama"),
    (None, "mistral"),
]
OTHERS = [("PreTrainedTokenizerFast", "llama"), (None, "mistral")]
KINDS = {
    "byte-level": BYTE_LEVEL,
    "sentencepiece, legacy": SENTENCE_PIECES,
    "sentencepiece, no BOS": SENTENCE_PIECES,
    "sentencepiece, metaspace": SENTENCE_PIECES,
    "unigram": OTHERS,
    "word pieces": OTHERS,
    "words": OTHERS,
}


@pytest.fixture(scope="session")
def made() -> dict[str, str]:
    return {name: make().to_str() for name, make in MADE.items()}


def said(tokenizer: Tokenizer, ids: list[int], skip: bool) -> str:
    stream = tokenizer.stream(skip)
    return "".join(stream.push(token_id) for token_id in ids) + stream.flush()


def compare(directory: Path, texts: list[str]) -> Tokenizer:
    ours, reference = Tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    for text in texts:
        ids = reference(text).input_ids
        assert ours.encode(text) == ids, text
        for skip in (True, False):
            expected = reference.decode(ids, skip_special_tokens=skip)
            assert ours.decode(ids, skip) == expected
            assert said(ours, ids, skip) == expected
    assert ours.special_tokens == reference.special_tokens_map
    assert ours.vocab_size == len(reference)
    return ours


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
@newest_reference
def test_ids_and_texts_are_those_of_transformers(made, tmp_path, kind, case):
    config, files = CASES[case]
    for class_name, model_type in KINDS[kind]:
        directory = tmp_path / f"{class_name}-{model_type}"
        directory.mkdir()
        (directory / "tokenizer.json").write_text(made[kind])
        named = {"tokenizer_class": class_name} if class_name else {}
        write(directory, model_type, json.loads(json.dumps({**config, **named})), **files)
        compare(directory, TEXTS)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": ["a"]}, "added_tokens_decoder"),
        ({"fast_tokenizer_files": ["tokenizer.9.json"]}, "fast_tokenizer_files"),
    ],
)
def test_key_that_cannot_be_honoured_is_refused_by_name(made, tmp_path, config, key):
    (tmp_path / "tokenizer.json").write_text(made["byte-level"])
    write(tmp_path, "llama", config)
    with pytest.raises(OperatorError, match=key):
        Tokenizer(tmp_path)


def test_unknown_keys_are_named(made, tmp_path):
    (tmp_path / "tokenizer.json").write_text(made["byte-level"])
    write(tmp_path, "llama", {"do_lower_case": True, "model_max_length": 7})
    (warning,) = Tokenizer(tmp_path).warnings
    assert "do_lower_case" in warning
    assert "model_max_length" not in warning


def test_cut_that_transformers_class_would_drop_is_kept_and_told(made, tmp_path):
    """transformers 5's GPT2Tokenizer joins digits that the vocabulary was trained without."""
    (tmp_path / "tokenizer.json").write_text(made["byte-level, digits by three"])
    write(tmp_path, "llama", {"tokenizer_class": "GPT2Tokenizer"})
    ours = Tokenizer(tmp_path)
    trained = byte_level(split=r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]+")
    assert ours.encode("12345 it's") == trained.encode("12345 it's").ids
    assert "GPT2Tokenizer would split text by other rules" in ours.warnings[0]


def test_tokenizer_made_from_a_gguf_is_taken_as_it_is(made, tmp_path):
    """Its metadata say how text is cut; transformers would take Qwen's cut for every qwen2."""
    (tmp_path / "tokenizer.json").write_text(made["byte-level"])
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    write(tmp_path, "qwen2", {"tokenizer_class": "PreTrainedTokenizerFast"})
    expected = byte_level().encode("12 e\N{COMBINING ACUTE ACCENT}").ids
    assert Tokenizer(tmp_path).encode("12 e\N{COMBINING ACUTE ACCENT}") == expected


def test_token_of_a_class_that_the_vocabulary_lacks_is_not_made(tmp_path):
    tokenizer = byte_level(["<unk>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "qwen2", {})
    assert Tokenizer(tmp_path).vocab_size == tokenizer.get_vocab_size()


# --- without a tokenizer.json

LETTERS = "abcdefhilo .,'\n\t12é你😀ﬁ①  "
RANDOM = random.Random(7)
LINES = ["".join(RANDOM.choices(LETTERS, k=RANDOM.randint(1, 40))) for _ in range(150)]


@pytest.mark.parametrize(
    "config",
    [
        {"add_bos_token": True},
        {"add_bos_token": True, "add_eos_token": True},
        {"legacy": True},
        {"add_prefix_space": False},
        {},
    ],
)
@newest_reference
def test_sentencepiece_model_alone_is_read_as_transformers_reads_it(tmp_path, config):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    write(tmp_path, "llama", {"tokenizer_class": "LlamaTokenizer", **config})
    compare(tmp_path, ["hello world", "<s>hi</s> there", *LINES])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
        {"add_dummy_prefix": False},
        {"byte_fallback": False, "character_coverage": 1.0, "vocab_size": 380},
        {"user_defined_symbols": ["<tool>"]},
    ],
)
def test_sentencepiece_model_makes_the_ids_that_sentencepiece_makes(tmp_path, options):
    model = sentencepiece_model(**options)
    (tmp_path / "tokenizer.model").write_bytes(model)
    write(tmp_path, "llama", {})
    ours, reference = Tokenizer(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=model)
    for line in ["hello world", *LINES]:
        if not line.startswith(" "):  # transformers takes a text's first space for the prefix
            assert ours.encode(line) == reference.encode(line), line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (sentencepiece_model(model_type="unigram", hard_vocab_limit=False), "Unigram"),
        (b"aGk= 0\nYQ== 1\n", "not a SentencePiece"),
        (b"", "not a SentencePiece"),
        (sentencepiece_model()[:-7], "not a SentencePiece"),
    ],
)
def test_other_tokenizer_model_is_refused_by_its_kind(tmp_path, content, reason):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(OperatorError, match=reason):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("class_name", "model_type"),
    [
        ("Qwen2Tokenizer", "qwen2"),
        ("Qwen2Tokenizer", "qwen3"),
        ("GPT2Tokenizer", "llama"),
        (None, "qwen2"),
    ],
)
@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, {}),
        (decoder((420, token("<|turn|>"))), {}),
        (
            {"add_bos_token": True, "bos_token": "<s>"},
            {"added_tokens": {"<tool>": 420}, "special_tokens_map": {"eos_token": "<tool>"}},
        ),
    ],
)
def test_vocab_and_merges_alone_are_read(tmp_path, class_name, model_type, config, files):
    byte_level().model.save(str(tmp_path))
    named = {"tokenizer_class": class_name} if class_name else {}
    write(tmp_path, model_type, {**config, **named}, **files)
    compare(tmp_path, [*TEXTS, "<tool>a<|turn|>b<|endoftext|>", *LINES[:20]])


def test_vocab_and_merges_of_another_class_are_refused(tmp_path):
    byte_level().model.save(str(tmp_path))
    write(tmp_path, "llama", {"tokenizer_class": "CodeGenTokenizer"})
    with pytest.raises(OperatorError, match="CodeGenTokenizer"):
        Tokenizer(tmp_path)


def tekken() -> dict:
    """A tekken.json of all bytes and a few words."""
    import base64

    words = [bytes([i]) for i in range(256)] + [b"he", b"ll", b"hell", b"hello", b" w", b"or"]
    vocab = [{"rank": i, "token_bytes": base64.b64encode(w).decode()} for i, w in enumerate(words)]
    specials = ["<unk>", "<s>", "</s>", "[INST]"]
    return {
        "config": {
            "pattern": r" ?\p{L}+|\p{N}|[^\p{L}\p{N}]+",
            "default_vocab_size": len(words) + 8,
            "default_num_special_tokens": 8,
        },
        "vocab": vocab,
        "special_tokens": [{"rank": i, "token_str": t} for i, t in enumerate(specials)],
    }


@newest_reference
def test_tekken_alone_is_read_with_its_bos(tmp_path):
    (tmp_path / "tekken.json").write_text(json.dumps(tekken()))
    write(tmp_path, "mistral", {"bos_token": "<s>"})
    ours, reference = Tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text, False) == reference(text, add_special_tokens=False).input_ids
        assert ours.encode(text) == [1, *ours.encode(text, False)]
        ids = ours.encode(text)
        assert ours.decode(ids, False) == reference.decode(ids)
    assert ours.vocab_size == len(reference)


def test_directory_without_a_tokenizer_says_what_makes_one(tmp_path):
    with pytest.raises(OperatorError, match=r"has no tokenizer\.json") as refusal:
        Tokenizer(tmp_path)
    assert "tokenizer.model" in refusal.value.hint


# --- bytes of tokens


@pytest.mark.parametrize("kind", MADE)
def test_bytes_of_tokens_are_those_of_the_text(made, tmp_path, kind):
    (tmp_path / "tokenizer.json").write_text(made[kind])
    write(tmp_path, "llama", {})
    tokenizer = Tokenizer(tmp_path)
    for text in ("hello world, how are you", "é你好 हि😀"):
        ids = tokenizer.encode("hello " + text)
        ordinary = [i for i in ids if not tokenizer.is_special(i)]
        joined = b"".join(map(tokenizer.token_bytes, ordinary))
        assert joined.strip() == tokenizer.decode(ids).encode().strip()
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
    assert tokenizer.token_bytes(-1) == b""
    assert tokenizer.token_bytes(tokenizer.token_id("</s>")) == b"</s>"


def test_bytes_of_half_a_character(made, tmp_path):
    (tmp_path / "tokenizer.json").write_text(made["sentencepiece, legacy"])
    write(tmp_path, "llama", {})
    tokenizer = Tokenizer(tmp_path)
    parts = [tokenizer.token_bytes(i) for i in tokenizer.encode("😀")][-4:]
    assert parts == [bytes([byte]) for byte in "😀".encode()]
