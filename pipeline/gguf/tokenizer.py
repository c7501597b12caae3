"""The tokenizer of a GGUF, as tokenizer.json and tokenizer_config.json: tokens, how text is split,
the tokens that end an answer, chat templates.

Reads the keys as llama.cpp does. Where its regular expressions only approximate those of a model's
own tokenizer.json (letters by case, normal forms), the latter are used.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from .file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The values of `tokenizer.ggml.token_type`."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's character for a space."""
BAR = "\N{FULLWIDTH VERTICAL LINE}"
"""The bar in DeepSeek's special tokens."""
SENTENCE_PIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}
"""Default ids of roles that a SentencePiece vocabulary does not name."""

ENDS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>"),
        *("<|calls|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>"),
        *("[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "[e~["),
        f"<{BAR}end{SPACE}of{SPACE}sentence{BAR}>",
    }
)
"""Texts of tokens that end a text, a turn or a message, as in llama.cpp."""
END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
"""Roles whose tokens end an answer; fim_* only if the file names them (code models)."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = _QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+"
)
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASED % ("", "", r"\p{N}")
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = _CASED % (_CONTRACTED, _CONTRACTED, r"\p{N}{1,3}")
_HAN = r"[\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}]+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGIT = r"\p{N}"


class Cut(NamedTuple):
    """How text is split before byte-pair encoding: by each pattern in turn, into its matches and
    the text between them."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """A piece that is a token stays whole, regardless of merges."""
    adds_bos: bool = False
    """Texts begin with BOS unless the file says otherwise."""
    composes: bool = False
    """Text is normalised to NFC first."""


_DIGITS = Cut((_DIGIT, _GPT2))
_PLAIN = Cut((_GPT2,))
CUTS: dict[str, Cut] = {
    # llama.cpp's choice if the converter did not know the tokenizer.
    "default": Cut((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion"), _PLAIN),
    **dict.fromkeys(("a.x-4.0", "gigachat", "mellum", "granite-docling"), _PLAIN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _DIGITS),
    **dict.fromkeys(("exaone", "minerva-7b", "mellum2"), _DIGITS),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        Cut((_LLAMA3,), ignore_merges=True, adds_bos=True),
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), Cut((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), Cut((_QWEN2,), composes=True)),
    **dict.fromkeys(("stablelm2", "hunyuan", "solar-open", "grok-2"), Cut((_QWEN2,))),
    "qwen35": Cut((_QWEN35,), composes=True),
    "tekken": Cut((_TEKKEN,), ignore_merges=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), Cut((_GPT4O,))),
    "deepseek-coder": Cut((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, _DIGIT)),
    "deepseek-v3": Cut(
        (r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+", _DEEPSEEK3)
    ),
    "seed-coder": Cut((_QWEN2.replace(r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    "minicpm5": Cut((r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), ignore_merges=True),
}
"""How text is split, by `tokenizer.ggml.pre`."""


class GgufVocabulary:
    """The tokens of a file by id: their texts, types and roles."""

    def __init__(self, file: GgufFile) -> None:
        """Raises `OperatorError` naming a key that is missing or wrong."""
        self._file = file
        # A token with empty text gets a unique placeholder, as in llama.cpp.
        texts = enumerate(file.texts("tokenizer.ggml.tokens"))
        self.tokens = [token or f"[EMPTY_{index}]" for index, token in texts]
        if len(set(self.tokens)) != len(self.tokens):
            twice, _ = Counter(self.tokens).most_common(1)[0]
            raise file.refusal(
                f"tokenizer.ggml.tokens has {twice!r} twice", "convert the model again"
            )
        self.types = [NORMAL] * len(self.tokens)
        if "tokenizer.ggml.token_type" in file.metadata:
            self.types = self.numbers("token_type")

    def numbers(self, name: str) -> list[Any]:
        """The number that `tokenizer.ggml.NAME` gives each token."""
        values = self._file.numbers(f"tokenizer.ggml.{name}")
        if len(values) < len(self.tokens):
            raise self._file.refusal(
                f"tokenizer.ggml.{name} has {len(values)} values for {len(self.tokens)} tokens",
                "convert the model again",
            )
        return values[: len(self.tokens)]

    def role_id(self, role: str) -> int | None:
        """The id of the token with a role; None if there is none or the id is beyond the
        vocabulary, as in llama.cpp."""
        metadata = self._file.metadata
        usual = SENTENCE_PIECE_IDS if metadata.get("tokenizer.ggml.model") == "llama" else {}
        found = metadata.get(f"tokenizer.ggml.{role}_token_id", usual.get(role))
        return found if isinstance(found, int) and 0 <= found < len(self.tokens) else None

    def token(self, role: str) -> str | None:
        """The text of the token with a role, if there is one."""
        index = self.role_id(role)
        return None if index is None else self.tokens[index]

    def ends(self) -> list[int]:
        """Ids of the tokens that end an answer: those named by the file, then those with a text in
        `ENDS`. A token of ordinary type counts only if its text begins with `<|`, as no word does:
        `</s>` may be a piece of HTML."""
        named = [self.role_id(role) for role in END_ROLES]
        if "tokenizer.ggml.eos_token_ids" in self._file.metadata:
            named += self._file.numbers("tokenizer.ggml.eos_token_ids")
        by_text = [
            index
            for index, (token, role) in enumerate(zip(self.tokens, self.types, strict=True))
            if token in ENDS and (role in (CONTROL, USER_DEFINED) or token.startswith("<|"))
        ]
        found = dict.fromkeys([*named, *by_text])
        return [i for i in found if isinstance(i, int) and 0 <= i < len(self.tokens)]


def make_tokenizer_config(file: GgufFile) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by name, and the chat template or named templates."""
    vocabulary = GgufVocabulary(file)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": vocabulary.token("bos"),
        "eos_token": vocabulary.token("eos"),
        "unk_token": vocabulary.token("unknown"),
        "pad_token": vocabulary.token("padding"),
        "chat_template": _chat_template(file),
    }
    return {name: value for name, value in config.items() if value is not None}


def make_tokenizer(file: GgufFile) -> Tokenizer:
    """The tokenizer described by the metadata. Raises `OperatorError` naming a key that is missing
    or not supported."""
    kind = file.require("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise file.refusal(f"tokenizer {kind!r} is not supported", "supported are gpt2 and llama")
    vocabulary = GgufVocabulary(file)
    make = _byte_level if kind == "gpt2" else _sentence_piece
    tokenizer, ends = make(file, vocabulary), set(vocabulary.ends())
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=role != USER_DEFINED or index in ends)
            for index, (token, role) in enumerate(
                zip(vocabulary.tokens, vocabulary.types, strict=True)
            )
            if role in (CONTROL, UNKNOWN, USER_DEFINED) or index in ends
        ]
    )
    _add_around(file, vocabulary, tokenizer)
    return tokenizer


def _chat_template(file: GgufFile) -> str | list[dict[str, str]] | None:
    """The template if it is the only one, else a list of all by name, as Hugging Face writes it."""
    plain, prefix = file.metadata.get("tokenizer.chat_template"), "tokenizer.chat_template."
    named = {
        key.removeprefix(prefix): value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    if plain is not None:
        named = {"default": plain} | named
    for name, template in named.items():
        if not isinstance(template, str):
            raise file.refusal(f"its chat template {name!r} is not a text")
    if len(named) == 1 and plain is not None:
        return str(plain)
    return [{"name": name, "template": text} for name, text in named.items()] or None


def _add_around(file: GgufFile, vocabulary: GgufVocabulary, tokenizer: Tokenizer) -> None:
    """Puts BOS before and EOS after texts, by the file's keys or llama.cpp's defaults."""
    cut = CUTS.get(str(file.metadata.get("tokenizer.ggml.pre", "")))
    usual = file.metadata.get("tokenizer.ggml.model") == "llama" or bool(cut and cut.adds_bos)
    around: dict[str, tuple[str, int]] = {}
    for role, adds in (("bos", usual), ("eos", False)):
        says = file.metadata.get(f"tokenizer.ggml.add_{role}_token")
        index, token = vocabulary.role_id(role), vocabulary.token(role)
        if index is not None and token is not None and (adds if says is None else says):
            around[role] = token, index
        elif says and index is None:
            raise file.refusal(
                f"tokenizer.ggml.add_{role}_token is true, but there is no {role}_token_id"
            )
    if not around:
        return

    def template(name: str) -> list[str]:
        before = [around["bos"][0]] if "bos" in around else []
        return [*before, f"${name}", *([around["eos"][0]] if "eos" in around else [])]

    tokenizer.post_processor = processors.TemplateProcessing(
        single=template("A"),
        pair=[*template("A"), *template("B")],
        special_tokens=list(dict.fromkeys(around.values())),
    )


def _byte_level(file: GgufFile, vocabulary: GgufVocabulary) -> Tokenizer:
    """Byte-level BPE, with the pre-tokenizer that `tokenizer.ggml.pre` names.

    SmolLM's isolates every digit first, as in the model's own tokenizer.json and in llama.cpp
    (transformers omits this step for a GGUF: two spaces before a digit then differ).
    """
    name = str(file.metadata.get("tokenizer.ggml.pre") or "default")
    if name not in CUTS:
        raise file.refusal(
            f"pre-tokenizer {name!r} is not supported", f"supported are {', '.join(CUTS)}"
        )
    cut = CUTS[name]
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    merges = [_pair(file, merge) for merge in file.texts("tokenizer.ggml.merges")]
    for left, right in merges:
        if not (left in vocab and right in vocab and left + right in vocab):
            raise file.refusal(
                f"tokenizer.ggml.merges joins {left!r} and {right!r} to {left + right!r}; not all "
                "of these are tokens",
                "convert the model again",
            )
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=cut.ignore_merges))
    *before, last = cut.patterns
    steps: list[Any] = [_split(pattern) for pattern in before]
    if last != _GPT2:  # ByteLevel has this pattern built in
        steps.append(_split(last))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=last == _GPT2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if cut.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split(pattern: str) -> Any:
    if pattern == _DIGIT:
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _pair(file: GgufFile, merge: str) -> tuple[str, str]:
    """The two parts of a merge; the first may begin with a space."""
    left, space, right = merge[1:].partition(" ")
    if not space:
        raise file.refusal(f"tokenizer.ggml.merges has {merge!r}, which is not a pair")
    return merge[:1] + left, right


def _sentence_piece(file: GgufFile, vocabulary: GgufVocabulary) -> Tokenizer:
    """SentencePiece's BPE: the pair that forms the best-scored token is merged first, and text
    outside the vocabulary falls back to bytes."""
    tokens, scores = vocabulary.tokens, vocabulary.numbers("scores")
    words = {
        token: score
        for token, score, kind in zip(tokens, scores, vocabulary.types, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    merges = [
        (score, token[:cut], token[cut:])
        for token, score in words.items()
        for cut in range(1, len(token))
        if token[:cut] in words and token[cut:] in words
    ]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1])))
    tokenizer = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            [(left, right) for _, left, right in merges],
            unk_token=vocabulary.token("unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), *spaces] if prefix else spaces
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer
