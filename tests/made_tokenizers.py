"""Small tokenizers of every kind, trained on the spot, as model directories would hold them."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

newest_reference = pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
    reason="transformers before 5.23 reads some files in another way",
)
"""For tests that compare with what transformers makes of a model's files."""

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's a dog's life, they'd say; don't!",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\tif True:\r\n\t\tpass",
    "1 22 333 4444 3.14159 2024-02-29 12:30 <b>user</b> assistant system",
    "Naïve café, Größe; Ελλάδα, Россия 你好世界 हिन्दी",
    "hello hello world world, how are you? I am fine, thank you very much.",
] * 8
SPACE = "\u2581"
SPECIAL = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(specials=SPECIAL, split=None) -> tokenizers.Tokenizer:
    """Byte-level BPE; `split` is a regular expression that cuts words, GPT-2's where it is None."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is not None:
        cut = pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
        words = pre_tokenizers.Sequence([cut, words])
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=alphabet,
        special_tokens=list(specials),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece_model(**options) -> bytes:
    """A tokenizer.model as Llama 2's is: byte-pair encoding, bytes as the last resort."""
    model = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "minloglevel": 2,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, **settings
    )
    return model.getvalue()


def sentencepiece_json(bos: bool = True, legacy: bool = True) -> tokenizers.Tokenizer:
    """The same vocabulary as a tokenizer.json: `legacy` as transformers 4 wrote it."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    merges = sorted(
        (vocab[word], word[:cut], word[cut:])
        for word in vocab
        for cut in range(1, len(word))
        if word[:cut] in vocab and word[cut:] in vocab
    )
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            [(left, right) for _, left, right in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    if bos:
        tokenizer.post_processor = bos_processor("<s>", 1)
    return tokenizer


def unigram() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always")
    tokenizer.decoder = decoders.Metaspace(SPACE, "always")
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_pieces() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def words() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bos_processor(token: str, token_id: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{token}:0 $A:0",
        pair=f"{token}:0 $A:0 {token}:1 $B:1",
        special_tokens=[(token, token_id)],
    )


MADE = {
    "byte-level": byte_level,
    "byte-level, digits by three": lambda: byte_level(split=r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]+"),
    "sentencepiece, legacy": sentencepiece_json,
    "sentencepiece, no BOS": lambda: sentencepiece_json(bos=False),
    "sentencepiece, metaspace": lambda: sentencepiece_json(legacy=False),
    "unigram": unigram,
    "word pieces": word_pieces,
    "words": words,
}


def write(directory: Path, model_type: str, config: dict, **files: dict) -> None:
    """tokenizer_config.json, a config.json of `model_type`, and further JSON files by name."""
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
