"""`stop_token_ids`: the tokens that end an answer.

The union of four sources:

1. `eos_token_id` of generation_config.json, one id or a list;
2. `eos_token_id` of config.json. If generation_config.json has its own, ordinary tokens here are
   left out: some files have an old default (2) for vocabularies in which that id is a letter. If
   neither file has one, the default of the family's class, if that is a special token;
3. the tokenizer's `eos_token` (an instruct fine-tune often names its end of turn only there);
4. control tokens that by their text end a turn (<|im_end|>, <|eot_id|>, <end_of_turn>, …), if the
   chat template writes them right after the assistant's text, both between turns and at the end,
   and nowhere inside an assistant's turn (between reasoning and answer, or before a tool call).

null, an empty list and ids outside the vocabulary add nothing: such a token is never chosen.
Knows the files of a model directory and no tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import OperatorError
from ..runtime.text_files import read_json, read_text

if TYPE_CHECKING:
    from .chat_template import ChatTemplate

ENDS_A_TURN = re.compile(r"end|eo[tsdm]|</s>|stop|return|turn", re.IGNORECASE)
"""Pattern in the text of tokens that may end a turn; the template shows whether they do."""
CLASS_DEFAULTS = {"llama": 2, "mistral": 2}
"""The default `eos_token_id` of the family's class in transformers."""
MARKS = {"user": "U\u0392U", "answer": "A\u0393A", "reasoning": "R\u0394R"}
"""Texts of the turns of a trial conversation, which no template contains."""
TOOL = "T\u0395T"


class AddedToken(msgspec.Struct, frozen=True):
    """An entry of tokenizer.json's added_tokens."""

    id: int
    content: str
    special: bool = False


class ModelEntry(msgspec.Struct, frozen=True):
    vocab: msgspec.Raw = msgspec.Raw(b"{}")


class TokenizerHead(msgspec.Struct, frozen=True):
    """The fields of a tokenizer.json for stop tokens. Megabytes of vocabulary and merges are
    skipped."""

    added_tokens: list[AddedToken] = []
    model: ModelEntry = ModelEntry()


def stop_token_ids(directory: Path, raw_config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that end an answer, in ascending order.

    `raw_config` is config.json. Raises `OperatorError` naming file and field if an `eos_token_id`
    is not an id.
    """
    generation = _read(directory / "generation_config.json")
    generated = _ids(generation.get("eos_token_id"), directory / "generation_config.json")
    configured = _ids(raw_config.get("eos_token_id"), directory / "config.json")
    tokens = _Tokens(directory)
    if "eos_token_id" not in raw_config and not generated:
        default = CLASS_DEFAULTS.get(str(raw_config.get("model_type")))
        configured = {default} & tokens.special_ids if default is not None else set()
    if generated:
        configured = {i for i in configured if i in generated or i in tokens.special_ids}
    found = generated | configured | set(tokens.of_names(tokens.eos_texts()))
    candidates = tokens.candidates(_template_texts(directory, tokens.config))
    if set(candidates.values()) - found:
        ends = _template_ends(directory, tokens.variables(), set(candidates))
        found |= {candidates[text] for text in ends}
    size = raw_config.get("vocab_size")
    return tuple(sorted(i for i in found if i >= 0 and (not isinstance(size, int) or i < size)))


def _ids(value: Any, path: Path) -> set[int]:
    """The ids of an `eos_token_id`: an id, a list of ids, or null."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    for token_id in found:
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise OperatorError(
                f"{path}: eos_token_id {json.dumps(value)[:80]} is neither a token id nor a list "
                "of ids",
                "give the token's id; its text belongs in tokenizer_config.json's eos_token",
            )
    return set(found)


class _Tokens:
    """The special and added tokens of a directory. Its vocabulary is read only if needed."""

    def __init__(self, directory: Path) -> None:
        self.config = _read(directory / "tokenizer_config.json")
        self.map = _read(directory / "special_tokens_map.json")
        self._directory = directory
        self._head = _head(directory / "tokenizer.json")
        self._added = {token.content: token.id for token in self._head.added_tokens}
        self.special_ids = {token.id for token in self._head.added_tokens if token.special}
        decoder = self.config.get("added_tokens_decoder")
        for token_id, token in decoder.items() if isinstance(decoder, dict) else ():
            if isinstance(token, dict) and str(token_id).isdecimal():
                self._added.setdefault(str(token.get("content")), int(token_id))
                if token.get("special"):
                    self.special_ids.add(int(token_id))
        for text, token_id in _read(directory / "added_tokens.json").items():
            if isinstance(token_id, int):
                self._added.setdefault(text, token_id)

    def variables(self) -> dict[str, str]:
        """The special tokens by name, as text. special_tokens_map.json is used if
        tokenizer_config.json has no added_tokens_decoder, as in transformers."""
        fields = dict(self.config)
        if "added_tokens_decoder" not in self.config:
            fields |= self.map
        texts = {
            key: value.get("content") if isinstance(value, dict) else value
            for key, value in fields.items()
            if key.endswith("_token")
        }
        return {key: text for key, text in texts.items() if isinstance(text, str)}

    def eos_texts(self) -> list[str]:
        """The tokenizer's `eos_token`, if it has one."""
        return [text for key, text in self.variables().items() if key == "eos_token"]

    def of_names(self, texts: Iterable[str]) -> list[int]:
        """The ids of tokens by their text; unknown texts are left out."""
        found, rest = [], []
        for text in texts:
            if text in self._added:
                found.append(self._added[text])
            else:
                rest.append(text)
        vocab = self._vocab() if rest else {}
        return found + [vocab[text] for text in rest if text in vocab]

    def candidates(self, template: str) -> dict[str, int]:
        """Added tokens whose text matches `ENDS_A_TURN` and is in the template."""
        return {
            text: token_id
            for text, token_id in self._added.items()
            if ENDS_A_TURN.search(text) and text in template
        }

    def _vocab(self) -> dict[str, int]:
        if not (self._directory / "tokenizer.json").exists():
            from .tokenizer_files import read_tokenizer  # makes one: seconds

            try:
                return read_tokenizer(self._directory).tokenizer.get_vocab()
            except OperatorError:  # reported by the tokenizer
                return {}
        try:
            return msgspec.json.decode(self._head.model.vocab, type=dict[str, int])
        except msgspec.MsgspecError:  # a list (Unigram); its special tokens are added tokens
            return {}


def _head(path: Path) -> TokenizerHead:
    try:
        return msgspec.json.decode(read_text(path), type=TokenizerHead)
    except (
        OSError,
        ValueError,
        RecursionError,
    ):  # reported by the tokenizer
        return TokenizerHead()


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty if there is none. Raises `OperatorError`."""
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} is not readable: {error}", "fix or remove the file") from error
    return found if isinstance(found, dict) else {}


# --- the template's ends of turns ---------------------------------------------------------------


def _template_texts(directory: Path, config: Mapping[str, Any]) -> str:
    """The sources of all chat templates, joined, to search for tokens."""
    files = [directory / "chat_template.jinja", directory / "chat_template.json"]
    files += sorted((directory / "additional_chat_templates").glob("*.jinja"))
    texts = [path.read_text("utf-8", "replace") for path in files if path.is_file()]
    found = config.get("chat_template")
    texts.append(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))
    return "\n".join(texts)


def _template_ends(directory: Path, variables: Mapping[str, str], candidates: set[str]) -> set[str]:
    """The `candidates` that the chat template writes right after the assistant's text."""
    # Jinja costs a process 0.1 s, and most models name all their stop tokens in a file.
    from .chat_template_files import TemplateFileError, read_model_template

    try:
        template = read_model_template(
            directory, _read(directory / "tokenizer_config.json"), variables
        )
    except TemplateFileError:  # reported by the tokenizer
        return set()
    return set() if template is None else ends_of_turn(template, candidates)


def ends_of_turn(template: ChatTemplate, candidates: Iterable[str]) -> set[str]:
    """The `candidates` that match `ENDS_A_TURN` and that the template writes right after the
    assistant's text, at each end of a turn and nowhere inside one."""
    from .chat_template import TextError

    candidates = {text for text in candidates if ENDS_A_TURN.search(text)}
    ask = {"role": "user", "content": MARKS["user"]}
    answer = {"role": "assistant", "content": MARKS["answer"]}
    try:
        last = template.render([ask, answer], add_generation_prompt=False)
        between = template.render([ask, answer, ask], add_generation_prompt=False)
    except TextError:
        return set()
    ends = _first_behind(last, candidates) & _first_behind(between, candidates)
    call = {"type": "function", "function": {"name": TOOL, "arguments": {}}}
    for fields, start, stop in (
        ({"reasoning_content": MARKS["reasoning"]}, MARKS["reasoning"], MARKS["answer"]),
        ({"tool_calls": [call]}, MARKS["answer"], TOOL),
    ):
        try:
            text = template.render([ask, {**answer, **fields}], add_generation_prompt=False)
        except TextError:  # it does not support such a message
            continue
        if start in text and stop in text:
            inside = text[text.rfind(start) : text.rfind(stop)]
            ends = {token for token in ends if token not in inside}
    return ends


def _first_behind(text: str, candidates: set[str]) -> set[str]:
    """The candidate that follows the assistant's text, ignoring white space."""
    at = text.rfind(MARKS["answer"])
    if at < 0:
        return set()
    rest = text[at + len(MARKS["answer"]) :].lstrip()
    found = [token for token in candidates if rest.startswith(token)]
    return {max(found, key=len)} if found else set()
