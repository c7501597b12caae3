"""`read_tokenizer`: a directory's tokenizer, as transformers' AutoTokenizer makes it.

A tokenizer is more than tokenizer.json: tokenizer_config.json, special_tokens_map.json and
added_tokens.json name further tokens, and the class sets how text is split. Every key is honoured,
known to change no id, or named in `warnings`. Knows no template and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, processors

from ..errors import OperatorError
from ..runtime.text_files import read_json, read_text
from .tokenizer_class import BUILDERS, GENERIC, class_name, keeps_its_own_cut
from .vocabulary_files import vocabulary_of

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that every tokenizer may name. Other keys that end in `_token` name special
tokens of this model only."""
EXTRA = ("extra_special_tokens", "additional_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

HONOURED = {
    *NAMED,
    *EXTRA,
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "added_tokens_decoder",
    "chat_template",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "fast_tokenizer_files",
    "fix_mistral_regex",
    "legacy",
    "model_specific_special_tokens",
    "split_special_tokens",
    "tokenizer_class",
}
HARMLESS = {
    "_commit_hash",
    "auto_map",  # code that is never run here; tokenizer.json is equivalent
    "backend",
    "chat_control_tokens",
    "errors",  # bytes that are not UTF-8 become U+FFFD, the only value in use
    "files_loaded",
    "from_slow",
    "init_inputs",
    "is_local",
    "local_files_only",
    "max_len",
    "max_length",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding",
    "padding_side",
    "processor_class",
    "response_schema",
    "response_template",
    "return_token_type_ids",
    "sp_model_kwargs",  # of the slow tokenizers
    "spaces_between_special_tokens",  # of the slow tokenizers
    "special_tokens_map_file",
    "stride",
    "tokenizer_file",
    "trim_offsets",
    "truncation",
    "truncation_side",
    "truncation_strategy",
    "use_default_system_prompt",  # no template in use reads it
    "use_fast",
    "verbose",
    "vocab_file",
    "merges_file",
}
"""Keys that change no token id here, since nothing is padded or truncated."""

MISTRAL_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The rule by which Mistral's tekken vocabularies split text; `fix_mistral_regex` sets it."""
MISTRAL_TYPES = ("mistral", "mistral3", "voxtral", "ministral", "pixtral")


class LoadedTokenizer:
    """The library's tokenizer with all its tokens, and further settings of the files.

    `special_tokens` are the named ones, as text. `cleans_up` tells whether decoding removes the
    spaces before punctuation. `warnings` name deviations from the files.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        config: dict[str, Any],
        special_tokens: dict[str, str],
        warnings: tuple[str, ...],
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.special_tokens = special_tokens
        self.warnings = warnings
        is_bpe = isinstance(tokenizer.model, models.BPE)
        key = "clean_up_tokenization_spaces"
        if is_bpe:  # it would corrupt text; transformers requires this second key
            key += "_for_bpe_even_though_it_will_corrupt_output"
        self.cleans_up = bool(config.get("clean_up_tokenization_spaces") and config.get(key))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one if there is no such file."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} is not readable: {error}") from error
    if not isinstance(found, dict):
        raise OperatorError(f"{path} is not a JSON object")
    return found


def read_tokenizer(directory: Path) -> LoadedTokenizer:
    """The tokenizer of a directory. Raises `OperatorError` if there is no readable one, or if a key
    that would change token ids cannot be honoured."""
    config_path = directory / "tokenizer_config.json"
    config = read_object(config_path)
    model_config = read_object(directory / "config.json")
    _check_files_named(config, config_path)
    warnings = list(_unknown_keys(config, config_path))
    tokenizer, name = _backend(directory, config, model_config, warnings)
    has_file = (directory / "tokenizer.json").exists()
    named, extra, added = _tokens_of_files(directory, config, tokenizer, name)
    _add_tokens(tokenizer, named, extra, added, name)
    special_tokens = {key: _text(token) for key, token in named.items()}
    if not has_file:
        _set_ends(tokenizer, config, special_tokens, name)
    elif name == "CodeLlamaTokenizer":
        _set_ends(tokenizer, {}, special_tokens, name)
    _fix_mistral_regex(tokenizer, config, model_config)
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    warnings += _moved_tokens(config, tokenizer, config_path)
    return LoadedTokenizer(tokenizer, config, special_tokens, tuple(warnings))


# --- splitting and joining ----------------------------------------------------------------------


def _backend(
    directory: Path, config: dict[str, Any], model_config: dict[str, Any], warnings: list[str]
) -> tuple[tokenizers.Tokenizer, str]:
    """The tokenizer without the tokens that other files add, and its class in transformers."""
    path = directory / "tokenizer.json"
    if not path.exists():
        name = class_name(config, model_config, is_byte_level=False)
        return vocabulary_of(directory, config, name)
    try:
        text = read_text(path)
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # the library raises nothing narrower for a bad file
        raise OperatorError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    name = class_name(config, model_config, is_byte_level='"ByteLevel"' in text)
    if (directory / "model.gguf").exists() and not any(directory.glob("*.safetensors")):
        name = GENERIC  # made from the GGUF, which has its own rule to split text
    if name in BUILDERS and not isinstance(tokenizer.model, models.BPE):
        warnings.append(
            f"tokenizer_config.json: {name} is byte-pair encoding and {path.name} is not; "
            f"{path.name} is used as it is"
        )
    elif name in BUILDERS and keeps_its_own_cut(tokenizer, name):
        warnings.append(
            f"tokenizer_config.json: transformers' {name} would split text by other rules than "
            f"{path.name}; {path.name} is used, as the model was trained with it"
        )
    elif name in BUILDERS:
        BUILDERS[name](tokenizer, config)
        warnings += _kept_tokens(tokenizer, config, name)
    return tokenizer, name


def _set_ends(
    tokenizer: tokenizers.Tokenizer,
    config: Mapping[str, Any],
    special_tokens: Mapping[str, str],
    name: str,
) -> None:
    """Sets BOS and EOS around a text by add_bos_token and add_eos_token: for Code Llama, and for
    all tokenizers without a tokenizer.json."""
    before, after, ids = "", "", []
    for wanted, key in (
        (config.get("add_bos_token", name == "CodeLlamaTokenizer"), "bos_token"),
        (config.get("add_eos_token", False), "eos_token"),
    ):
        token = special_tokens.get(key)
        token_id = None if token is None else tokenizer.token_to_id(token)
        if not wanted or token is None or token_id is None:
            continue
        ids.append((token, token_id))
        if key == "bos_token":
            before = f"{token}:0 "
        else:
            after = f" {token}:0"
    if ids or tokenizer.post_processor is None:
        pair = f"{before}$A:0{after} {before.replace(':0', ':1')}$B:1{after.replace(':0', ':1')}"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{before}$A:0{after}", pair=pair, special_tokens=ids
        )


def _fix_mistral_regex(
    tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], model_config: Mapping[str, Any]
) -> None:
    """Sets the rule to split text that some of Mistral's tokenizer.json have wrong, if the config
    asks for it."""
    version = str(model_config.get("transformers_version") or "0")
    is_old = int(version.partition(".")[0] or 0) < 5
    kind = model_config.get("model_type")
    if not config.get("fix_mistral_regex") or not is_old or kind not in (None, *MISTRAL_TYPES):
        return
    if tokenizer.get_vocab_size() <= 100_000 or tokenizer.pre_tokenizer is None:
        return
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(MISTRAL_REGEX), "isolated")
    present = tokenizer.pre_tokenizer
    if isinstance(present, tokenizers.pre_tokenizers.Sequence):
        present[0] = split
        return
    if isinstance(present, tokenizers.pre_tokenizers.Metaspace):
        present = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, present])


# --- tokens that other files add ----------------------------------------------------------------


def _tokens_of_files(
    directory: Path, config: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, name: str
) -> tuple[dict[str, str | AddedToken], list[str | AddedToken], list[AddedToken]]:
    """(special tokens by name, special tokens without a name, added tokens in order of ids).

    If tokenizer_config.json has added_tokens_decoder, special_tokens_map.json and added_tokens.json
    are not read, as in transformers.
    """
    fields: dict[str, Any] = dict(config)
    if not fields.get(EXTRA[0]) and EXTRA[1] in fields:
        fields[EXTRA[0]] = fields.pop(EXTRA[1])
    by_id: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        path = directory / "tokenizer_config.json"
        by_id = _added_tokens_decoder(config["added_tokens_decoder"], path)
    else:
        _merge_special_tokens_map(fields, directory / "special_tokens_map.json")
        by_id = _added_tokens_file(fields, directory / "added_tokens.json")
        by_id |= tokenizer.get_added_tokens_decoder()
    by_text = {token.content: token for token in by_id.values()}
    named: dict[str, str | AddedToken] = {}
    # A class's own token that the vocabulary lacks would get an id beyond the embedding.
    defaults = {
        key: text
        for key, text in (BUILDERS[name].defaults if name in BUILDERS else {}).items()
        if tokenizer.token_to_id(text) is not None or name == "CodeLlamaTokenizer"
    }
    for key in NAMED:
        token = _token(fields[key]) if key in fields else defaults.get(key)
        if token is not None:
            named[key] = by_text.get(_text(token), token)
    for key, value in {**defaults, **fields}.items():
        if key.endswith("_token") and key not in NAMED and (token := _token(value)) is not None:
            named[key] = token
    extra = fields.get(EXTRA[0]) or fields.get(EXTRA[1]) or []
    for tokens in (fields.get("model_specific_special_tokens"), extra):
        if isinstance(tokens, dict):
            for key, value in tokens.items():
                if (token := _token(value)) is not None:
                    named[key] = token
    listed = extra if isinstance(extra, list) else []
    found = [token for value in listed if (token := _token(value)) is not None]
    return named, found, [by_id[token_id] for token_id in sorted(by_id)]


def _added_tokens_decoder(found: Any, path: Path) -> dict[int, AddedToken]:
    if not isinstance(found, dict):
        raise OperatorError(f"{path}: added_tokens_decoder is not an object of tokens by id")
    tokens = {}
    for token_id, value in found.items():
        token = _token(value)
        if not str(token_id).isdecimal() or not isinstance(token, AddedToken):
            raise OperatorError(f"{path}: added_tokens_decoder: {token_id!r} is not a token")
        tokens[int(token_id)] = token
    return tokens


def _merge_special_tokens_map(fields: dict[str, Any], path: Path) -> None:
    """special_tokens_map.json's entries win over tokenizer_config.json's; lists of extra tokens
    are joined."""
    for key, value in read_object(path).items():
        if isinstance(value, dict) and key != EXTRA[0]:
            fields[key] = {**value, "special": True, "__type": "AddedToken"}
        elif key == EXTRA[0] and isinstance(value, list):
            before = list(fields.get(EXTRA[0]) or ())
            tokens = [{**t, "special": True} if isinstance(t, dict) else t for t in value]
            fields[key] = before + [token for token in tokens if token not in before]
        else:
            fields[key] = value


def _added_tokens_file(fields: Mapping[str, Any], path: Path) -> dict[int, AddedToken]:
    """The tokens of added_tokens.json (text to id); special if another file lists them so."""
    special = {_text(token) for key in NAMED if (token := _token(fields.get(key))) is not None}
    extra = fields.get(EXTRA[0])
    for value in extra if isinstance(extra, list) else ():
        if (token := _token(value)) is not None:
            special.add(_text(token))
    tokens = {}
    for text, token_id in read_object(path).items():
        if not isinstance(token_id, int):
            raise OperatorError(f"{path}: {text!r} has no id but {token_id!r}")
        is_special = text in special
        tokens[token_id] = AddedToken(text, normalized=not is_special, special=is_special)
    return tokens


def _add_tokens(
    tokenizer: tokenizers.Tokenizer,
    named: Mapping[str, str | AddedToken],
    extra: Iterable[str | AddedToken],
    added: list[AddedToken],
    name: str,
) -> None:
    """Adds tokens that the vocabulary lacks, in transformers' order: new ones get the ids after the
    last."""
    names = {_text(token) for token in named.values()}
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    known |= {token.content for token in added}
    tokens = list(added)
    for token in (*named.values(), *extra):
        if _text(token) not in known:
            known.add(_text(token))
            tokens.append(AddedToken(token, special=True) if isinstance(token, str) else token)
    for token in tokens:
        if not token.special and token.content in names:
            token.special = True
    tokenizer.add_tokens(tokens)
    if name == "Qwen2Tokenizer":
        specials = dict.fromkeys([*map(_text, named.values()), *map(_text, extra)])
        tokenizer.add_tokens([AddedToken(text, special=True) for text in specials])


def _token(value: Any) -> str | AddedToken | None:
    """A token of a file: its text, or an object with flags; None if it is neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return AddedToken(
            value["content"], **{flag: bool(value[flag]) for flag in FLAGS if flag in value}
        )
    return value if isinstance(value, AddedToken) else None


def _text(token: str | AddedToken) -> str:
    return token if isinstance(token, str) else str(token.content)


# --- warnings and refusals ----------------------------------------------------------------------


def _unknown_keys(config: Mapping[str, Any], path: Path) -> Iterable[str]:
    unknown = [
        key
        for key, value in config.items()
        if key not in HONOURED and key not in HARMLESS
        if not (key.endswith("_token") and _token(value) is not None)
        if value not in (None, False)
    ]
    if unknown:
        yield f"{path.name}: unknown keys are ignored: {', '.join(sorted(unknown))}"


def _check_files_named(config: Mapping[str, Any], path: Path) -> None:
    files = config.get("fast_tokenizer_files")
    if files and set(files) != {"tokenizer.json"}:
        raise OperatorError(
            f"{path}: fast_tokenizer_files names {', '.join(map(str, files))}; only tokenizer.json "
            "is read",
            "load it once with transformers' AutoTokenizer and save_pretrained",
        )


def _kept_tokens(
    tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], name: str
) -> Iterable[str]:
    """A warning about tokens of tokenizer.json that transformers' class drops, since another file
    lacks them."""
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return
    named = {_text(_token(value) or "") for value in (*decoder.values(), *config.values())}
    added = tokenizer.get_added_tokens_decoder().values()
    if kept := [repr(token.content) for token in added if token.content not in named]:
        yield (
            f"tokenizer_config.json: added_tokens_decoder lacks {', '.join(kept[:5])} of "
            f"tokenizer.json; transformers' {name} would split such a token, here it is kept whole"
        )


def _moved_tokens(
    config: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, path: Path
) -> Iterable[str]:
    """A warning about tokens with another id than added_tokens_decoder gives them."""
    decoder = config.get("added_tokens_decoder") or {}
    moved = []
    for token_id, value in decoder.items():
        text = _text(_token(value) or "")
        if (found := tokenizer.token_to_id(text)) != int(token_id):
            moved.append(f"{text!r} is {found}, not {token_id}")
    if moved:
        yield f"{path.name}: added_tokens_decoder: {'; '.join(moved[:5])}"
