"""The most text that a token can stand for, or None where there is no bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from loraconsole.pipeline.text.longest_token import longest_token
from loraconsole.pipeline.text.tokenizer import make_byte_tokenizer

BYTES = make_byte_tokenizer(300)


@given(text=st.text())
def test_no_text_has_fewer_tokens_than_its_bytes_allow(text: str) -> None:
    longest = longest_token(BYTES)
    assert longest is not None
    ids = BYTES.encode(text, add_special_tokens=False).ids
    assert len(text.encode()) <= longest * len(ids)


def byte_fallback() -> Tokenizer:
    words = ["▁", "▁the", "▁therefore", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    tokenizer.decoder = decoders.ByteFallback()
    replaced = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(replaced)
    return tokenizer


def test_pieces_with_byte_fallback_have_a_bound() -> None:
    assert longest_token(byte_fallback()) == len("▁therefore".encode())


def test_composing_letters_makes_the_bound_wider() -> None:
    tokenizer = make_byte_tokenizer(300)
    plain = longest_token(tokenizer)
    assert plain is not None
    tokenizer.normalizer = normalizers.NFC()
    assert longest_token(tokenizer) == 3 * plain


def test_a_tokenizer_that_drops_or_fuses_has_none() -> None:
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    assert longest_token(words) is None
    stripping = make_byte_tokenizer(300)
    stripping.normalizer = normalizers.Strip()
    assert longest_token(stripping) is None
    removing = make_byte_tokenizer(300)
    removing.pre_tokenizer = pre_tokenizers.Split("x", "removed")
    assert longest_token(removing) is None
    greedy = make_byte_tokenizer(300)
    greedy.add_special_tokens([AddedToken("<end>", rstrip=True)])
    assert longest_token(greedy) is None
