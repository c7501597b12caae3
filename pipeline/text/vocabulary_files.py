"""`vocabulary_of`: the tokenizer of a directory without tokenizer.json.

From vocab.json and merges.txt (GPT-2, Qwen), tokenizer.model (SentencePiece: Llama 2, Mistral) or
tekken.json (Mistral). Knows only the special tokens in these files.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from ..errors import OperatorError
from ..runtime.text_files import read_json
from .byte_alphabet import character_of_byte
from .sentencepiece_model import read_sentencepiece
from .tokenizer_class import BUILDERS, GENERIC

VOCABULARIES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"),
                ("tekken.json",))  # fmt: skip
"""Sets of files that make a tokenizer, in order of preference."""
NO_TOKENIZER = "no tokenizer.json, tokenizer.model, tekken.json, or vocab.json with merges.txt"
SAVE = "load it once with transformers' AutoTokenizer and save_pretrained"


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has the files of a tokenizer."""
    return any(all((directory / name).exists() for name in names) for names in VOCABULARIES)


def vocabulary_of(
    directory: Path, config: Mapping[str, Any], name: str
) -> tuple[tokenizers.Tokenizer, str]:
    """(the tokenizer, its class) of a directory without tokenizer.json.

    `name` is the class that the other files name. Raises `OperatorError` if the directory has none
    of these files, or one of an unsupported kind.
    """
    if (directory / "tokenizer.model").exists():
        return _sentencepiece(directory / "tokenizer.model", config, name)
    if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        return _vocab_and_merges(directory, config, name)
    if (directory / "tekken.json").exists():
        return _tekken(directory / "tekken.json"), GENERIC
    raise OperatorError(
        f"{directory} has no tokenizer.json",
        "a model directory needs it, or tokenizer.model, or vocab.json and merges.txt, or "
        "tekken.json",
    )


def _sentencepiece(
    path: Path, config: Mapping[str, Any], name: str
) -> tuple[tokenizers.Tokenizer, str]:
    tokenizer, normalizer, add_dummy_prefix, unknown = read_sentencepiece(path)
    name = name if name == "CodeLlamaTokenizer" else "LlamaTokenizer"
    prefix = config.get("add_prefix_space")
    prefix = add_dummy_prefix if prefix is None else prefix
    # A normalizer that strips moves the first word, so the prefix is put before every part of the
    # text. Without a normalizer, as in transformers.
    legacy = config.get("legacy", False) or normalizer is not None
    BUILDERS[name](tokenizer, {**config, "add_prefix_space": prefix, "legacy": legacy})
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if unknown is not None:
        tokenizer.model.unk_token = unknown
    return tokenizer, name


def _vocab_and_merges(
    directory: Path, config: Mapping[str, Any], name: str
) -> tuple[tokenizers.Tokenizer, str]:
    name = "GPT2Tokenizer" if name == GENERIC else name
    if name not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        raise OperatorError(
            f"{directory} has vocab.json and merges.txt, but its tokenizer_class {name} does not "
            "use them",
            SAVE,
        )
    try:
        model = models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    except Exception as error:  # the library raises nothing narrower for a bad file
        raise OperatorError(f"{directory}: vocab.json or merges.txt: {error}") from error
    tokenizer = tokenizers.Tokenizer(model)
    BUILDERS[name](tokenizer, config)
    return tokenizer, name


def _tekken(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of Mistral's tekken.json: byte-level BPE by ranks. Special tokens have the
    first ids; BOS is put before a text."""
    try:
        content = read_json(path)
        settings, specials = content["config"], content.get("special_tokens")
        if specials is None:
            raise OperatorError(f"{path} has no special_tokens: an old format", SAVE)
        texts = [entry["token_str"] for entry in sorted(specials, key=lambda e: int(e["rank"]))]
        count = settings.get("default_num_special_tokens") or len(texts)
        texts += [f"<SPECIAL_{index}>" for index in range(len(texts), count)]
        size = settings.get("default_vocab_size")
        entries = content["vocab"][: size - count if size else None]
        ranks = {base64.b64decode(e["token_bytes"]): rank for rank, e in enumerate(entries)}
        pattern = tokenizers.Regex(settings["pattern"])
    except OperatorError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise OperatorError(f"{path} is not a tekken vocabulary: {error}", SAVE) from error
    vocab = {text: token_id for token_id, text in enumerate(texts)}
    vocab |= {_letters(token): rank + count for token, rank in ranks.items()}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, _merges(ranks), ignore_merges=True))
    split = pre_tokenizers.Split(pattern, "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in texts])
    if "<s>" in texts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s>:0 $A:0",
            pair="<s>:0 $A:0 <s>:1 $B:1",
            special_tokens=[("<s>", vocab["<s>"])],
        )
    return tokenizer


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that forms a token, the lowest rank first."""
    found = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                found.append((rank, ranks[left], ranks[right], left, right))
    found.sort()
    return [(_letters(left), _letters(right)) for *_, left, right in found]


def _letters(token: bytes) -> str:
    """Bytes in the alphabet of byte-level BPE."""
    return "".join(character_of_byte()[byte] for byte in token)
