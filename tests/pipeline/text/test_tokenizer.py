"""Text to ids as transformers has it, chats as the template has them, ids to text as they come."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.fetch.fetch import resolve
from loraconsole.pipeline.text.byte_alphabet import byte_of_character
from loraconsole.pipeline.text.tokenizer import (
    TextError,
    TextStream,
    Tokenizer,
    make_byte_tokenizer,
)

TEXTS = [
    "",
    "What is the capital of Spain?",
    " a leading space, and two  spaces, and a trailing one ",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\tif True:\r\n\t\tpass",
    "Naïve café, Ångström, Größe; Ελλάδα, Россия, العربية, हिन्दी, ไทย",
    "你好世界。 日本語のテキスト 한국어",
    "😀👍🏽🏳️‍🌈 and ❤️",
    "1 22 333 4444 3.14159 1,000,000 v1.2.3 2024-02-29 12:30",
    "it's, we've, I'll, they'd, CAN'T, DON'T",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><file_sep>",
    "e\N{COMBINING ACUTE ACCENT} \N{NO-BREAK SPACE} \N{ZERO WIDTH JOINER} \x00 \x7f",
    '{"a": [1, 2], "b": null}; SELECT * FROM t WHERE x >= 10;',
]
SPACES_BEFORE_DIGITS = ["    4 + 5", "i = 10\n    j = 20\n  3", "\n\n 12", "x  1", "½ ①②³"]

CHATS = [
    [{"role": "user", "content": "Tell me about the sea."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi \n"}],
    [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "<b>sure</b> & 'quoted'?"},
    ],
]


@pytest.fixture(scope="module")
def directory():
    return resolve(Config())


@pytest.fixture(scope="module")
def tokenizer(directory):
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def reference(directory):
    return AutoTokenizer.from_pretrained(directory, gguf_file="model.gguf")


@pytest.fixture(scope="module")
def exact_reference(reference):
    """transformers' reading of the GGUF, with the digit isolation that `smollm` stands for and
    which it leaves out (the model's own tokenizer.json and llama.cpp have it)."""
    exact = tokenizers.Tokenizer.from_str(reference.backend_tokenizer.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    exact.pre_tokenizer = pre_tokenizers.Sequence([digits, exact.pre_tokenizer])
    return exact


# --- text to ids


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_default_model_encodes_as_transformers_does(tokenizer, reference, text):
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids) == text


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS + SPACES_BEFORE_DIGITS)
def test_default_model_isolates_digits_first(tokenizer, exact_reference, text):
    assert tokenizer.encode(text) == exact_reference.encode(text).ids


@given(st.text())
def test_any_text_encodes_as_the_reference(tokenizer, exact_reference, text):
    assert tokenizer.encode(text) == exact_reference.encode(text).ids


def test_vocabulary_has_the_size_the_model_says(tokenizer, directory):
    config = json.loads((directory / "config.json").read_text())
    assert tokenizer.vocab_size == config["vocab_size"] == 49152


def test_lone_surrogate_is_the_senders_mistake(tokenizer):
    with pytest.raises(TextError, match="not valid Unicode"):
        tokenizer.encode("half \ud83d")


def test_tokens_have_texts_even_half_characters(tokenizer):
    word, *_ = tokenizer.encode(" capital")
    assert tokenizer.token_text(word) == " capital"
    assert tokenizer.token_text(1) == "<|im_start|>"
    smile = tokenizer.encode("\N{WATER BUFFALO}")
    assert "\ufffd" in {tokenizer.token_text(token_id) for token_id in smile}
    assert tokenizer.token_text(10**6) == ""


# --- chats


@pytest.mark.slow
@pytest.mark.parametrize("messages", CHATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_chat_is_encoded_as_transformers_does(tokenizer, directory, messages, prompt):
    reference = AutoTokenizer.from_pretrained(directory)
    expected = reference.apply_chat_template(
        messages, add_generation_prompt=prompt, return_dict=False
    )
    assert tokenizer.encode_chat(messages, add_generation_prompt=prompt) == expected


def test_text_parts_are_joined(tokenizer):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert tokenizer.encode_chat([{"role": "user", "content": parts}]) == tokenizer.encode_chat(
        [{"role": "user", "content": "one\ntwo"}]
    )


@pytest.mark.parametrize(
    "content", [[{"type": "image_url", "image_url": {}}], [{"type": "text"}], ["text"], 7, {}]
)
def test_content_that_is_not_text_is_refused(tokenizer, content):
    with pytest.raises(TextError, match="content"):
        tokenizer.encode_chat([{"role": "user", "content": content}])


def test_message_without_a_role_is_refused(tokenizer):
    with pytest.raises(TextError, match="template"):
        tokenizer.encode_chat([{"content": "hi"}])


def with_template(directory: Path, target: Path, template: object, **config: object) -> Tokenizer:
    """The default's tokenizer under another chat template."""
    shutil.copy(directory / "tokenizer.json", target)
    config = {"chat_template": template, **config}
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(target)


def test_template_may_use_what_transformers_offers(directory, tmp_path):
    template = (
        "{{ bos_token }}\n"
        "    {% for m in messages %}\n{% if not loop.first %}{% break %}{% endif %}"
        "{{ m.content | tojson }}{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    tokenizer = with_template(directory, tmp_path, template, bos_token={"content": "<s>"})
    text = tokenizer.render_chat([{"role": "user", "content": "<é>"}] * 2)
    assert text == '<s>\n"<é>"4'


def test_template_that_raises_says_why(directory, tmp_path):
    template = "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
    tokenizer = with_template(directory, tmp_path, template)
    with pytest.raises(TextError, match="one at a time"):
        tokenizer.encode_chat([{"role": "user", "content": "a"}] * 2)


def test_template_cannot_leave_its_sandbox(directory, tmp_path):
    escape = "{{ messages.__class__.__base__.__subclasses__() }}{{ messages.append(1) }}"
    tokenizer = with_template(directory, tmp_path, escape)
    with pytest.raises(TextError, match="unsafe"):
        tokenizer.encode_chat([])


def test_template_in_its_own_file_wins_and_a_list_has_a_default(directory, tmp_path):
    named = [{"name": "tool_use", "template": "tool"}, {"name": "default", "template": "plain"}]
    assert with_template(directory, tmp_path, named).render_chat([]) == "plain"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer(tmp_path).render_chat([]) == "file"


def test_model_without_a_template_refuses_chats_alone(directory, tmp_path):
    tokenizer = with_template(directory, tmp_path, None)
    assert tokenizer.encode("hello")
    with pytest.raises(TextError, match="no chat template"):
        tokenizer.encode_chat([{"role": "user", "content": "hello"}])


def test_template_that_does_not_compile_costs_chats_alone(directory, tmp_path):
    tokenizer = with_template(directory, tmp_path, "line one\n{% for %}")
    assert tokenizer.encode("hello")
    with pytest.raises(TextError, match=r"cannot be used: line 2"):
        tokenizer.encode_chat([{"role": "user", "content": "hello"}])


def test_broken_directory_is_the_operators_to_mend(directory, tmp_path):
    with pytest.raises(OperatorError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OperatorError, match="not a tokenizer"):
        Tokenizer(tmp_path)
    shutil.copy(directory / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(OperatorError, match="tokenizer_config"):
        Tokenizer(tmp_path)


# --- ids to text as they come


def said(stream: TextStream, ids: list[int]) -> str:
    return "".join(stream.push(token_id) for token_id in ids) + stream.flush()


@given(st.lists(st.integers(0, 49151), max_size=60), st.booleans())
@settings(max_examples=300)
def test_stream_of_any_ids_says_what_decode_says(tokenizer, ids, skip):
    assert said(tokenizer.stream(skip), ids) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(st.lists(st.sampled_from([*range(200, 456), 0, 1, 2]), max_size=60))
@settings(max_examples=300)
def test_stream_of_single_bytes_says_what_decode_says(tokenizer, ids):
    assert said(TextStream(tokenizer), ids) == tokenizer.decode(ids)


@given(st.text())
def test_stream_of_any_text_says_what_decode_says(tokenizer, text):
    ids = tokenizer.encode(text)  # a few control characters have no token in this vocabulary
    assert said(tokenizer.stream(False), ids) == tokenizer.decode(ids, skip_special_tokens=False)


@given(st.text(alphabet="a é你😀\N{COMBINING ACUTE ACCENT}\n"))
def test_stream_never_says_half_a_character(tokenizer, text):
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert stream.flush() == ""


def test_special_tokens_are_silent_unless_asked_for(tokenizer):
    ids = tokenizer.encode("a<|im_end|>b")
    assert said(tokenizer.stream(), ids) == "ab"
    assert said(tokenizer.stream(skip_special_tokens=False), ids) == "a<|im_end|>b"


def test_flush_says_what_was_held_back(tokenizer):
    ids = tokenizer.encode("\N{WATER BUFFALO}")
    stream = TextStream(tokenizer)
    assert [stream.push(token_id) for token_id in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.flush() == "\ufffd"
    assert said(TextStream(tokenizer), ids) == "\N{WATER BUFFALO}"


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory):
    """A vocabulary in SentencePiece's manner: spaces are marks, and bytes are the last resort."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *"abcdefghij.", "\u2581a", "ab", "cd", "\u2581ab"]
    merges = [("\u2581", "a"), ("a", "b"), ("c", "d"), ("\u2581a", "b")]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    raw = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    directory = tmp_path_factory.mktemp("sentence-piece")
    raw.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


@given(st.text(alphabet="abcd. \N{WATER BUFFALO}é你\n"))
def test_stream_of_sentence_pieces_says_what_decode_says(sentence_piece, text):
    stream = TextStream(sentence_piece)
    pieces = [stream.push(token_id) for token_id in sentence_piece.encode(text)]
    assert "".join(pieces) == text
    assert stream.flush() == ""
    assert not sentence_piece.is_byte_level


def test_sentence_pieces_show_their_space(sentence_piece):
    (token_id,) = sentence_piece.encode("ab")
    assert sentence_piece.token_text(token_id) == " ab"


# --- a tokenizer for models that have none


@pytest.mark.parametrize("size", [1, 100, 256, 257, 49152])
def test_byte_tokenizer_has_a_text_for_every_id(size):
    tokenizer = make_byte_tokenizer(size)
    assert tokenizer.get_vocab_size() == size
    assert all(tokenizer.id_to_token(token_id) for token_id in range(size))


@given(st.text())
def test_byte_tokenizer_writes_any_text(text):
    tokenizer = make_byte_tokenizer(300)
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_byte_alphabet_is_the_one_the_library_uses():
    assert set(byte_of_character()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_of_character().values()) == list(range(256))
