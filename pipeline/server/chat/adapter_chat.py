"""`AdapterChats`: each adapter's chat template and stop tokens.

Trainers save a chat template and tokenizer files beside an adapter. They are read once for each
generation and not trusted: their size is bounded, they must be inside --adapter-root, and the
template runs in a sandbox. Knows no weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ...messages import AdapterState, AdapterTable, AdapterView, ChatWarning, SamplingParams
from ...runtime.guarded_file import AdapterError, brief, read_bounded
from ...runtime.text_output import visible
from ...text.chat_template import ChatTemplate
from ...text.chat_template_files import TemplateFileError, read_chat_template
from ...text.stop_tokens import TokenizerHead, ends_of_turn
from ...text.tokenizer import Tokenizer

MOST_BYTES = 8 << 20
"""Most bytes of a template or JSON file; tokenizer_config.json takes 300 kB with 1 000 added
tokens."""
MOST_TOKENIZER_BYTES = 64 << 20
"""Most bytes of a tokenizer.json; 262 000 tokens take 33 MB. Only its added tokens are kept."""
READ = (AdapterState.HOST, AdapterState.LOADING, AdapterState.GPU)


class AdapterChat(msgspec.Struct, frozen=True):
    """The chat settings in an adapter's directory. `template` None is the model's own;
    `stop_token_ids` are additional to the model's; `remark` is for an operator."""

    template: ChatTemplate | None = None
    stop_token_ids: tuple[int, ...] = ()
    remark: str = ""
    is_warning: bool = False
    """Whether the remark names something that is broken or not used."""

    def with_stop_tokens(self, params: SamplingParams) -> SamplingParams:
        """`params` with the tokens that end this adapter's answers."""
        if not self.stop_token_ids or params.ignore_eos:
            return params
        stops = (*params.stop_token_ids, *self.stop_token_ids)
        return msgspec.structs.replace(params, stop_token_ids=stops)


class AdapterChats:
    """`AdapterChat` by name and generation; each is read when first needed, or by `read_new`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        model_stops: Sequence[int],
        roots: Sequence[str],
        tell: Callable[[str, str], None],
    ) -> None:
        """`tell(level, text)` publishes an event."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._model_stops = frozenset(model_stops)
        self._roots = roots
        self._tell = tell
        self._chats: dict[tuple[str, int], AdapterChat] = {}

    def of(self, name: str | None, table: AdapterTable | None) -> AdapterChat:
        """The chat settings of the adapter of this name in the table; the model's own for any
        other name."""
        for view in table.adapters if table and name else ():
            if view.name == name and view.state in READ:
                return self.read(view)
        return AdapterChat()

    def read(self, view: AdapterView) -> AdapterChat:
        """The chat settings of one generation. Its files are read the first time, and an event
        reports the remark."""
        key = view.name, view.generation
        found = self._chats.get(key)
        if found is None:
            found = self.read_directory(view.name, view.directory or view.path)
            self._chats[key] = found
            if found.remark:
                level = "warning" if found.is_warning else "info"
                self._tell(level, f"adapter {view.name}: {found.remark}")
        return found

    def warnings(self, table: AdapterTable) -> Iterator[ChatWarning]:
        """Broken chat files of the table's adapters that their `warning` does not have yet. A
        restarted router thus gets all of them again."""
        for view in table.adapters:
            found = self._chats.get((view.name, view.generation))
            if found and found.is_warning and found.remark not in view.warning:
                yield ChatWarning(view.name, view.generation, found.remark)

    def has_news(self, table: AdapterTable) -> bool:
        """Whether `read_new` has work to do."""
        return self._keys(table) != self._chats.keys()

    def read_new(self, table: AdapterTable) -> None:
        """Reads new adapters' files, and drops those of unloaded adapters."""
        for view in table.adapters:
            if view.state in READ:
                self.read(view)
        for key in set(self._chats) - self._keys(table):
            del self._chats[key]

    def _keys(self, table: AdapterTable) -> set[tuple[str, int]]:
        return {(view.name, view.generation) for view in table.adapters if view.state in READ}

    # -- reading one

    def read_directory(self, name: str, directory: str) -> AdapterChat:
        """The chat settings in an adapter's files; nothing is stored."""
        files = _Files(directory, self._roots)
        origin = f"adapter {name}"
        remarks = []
        config = files.json("tokenizer_config.json")
        variables, unknown = self._variables(config)
        unknown |= {text for text in files.added_tokens(config) if not self._knows(text)}
        template = self._template(files, config, variables, origin)
        if template is not None:
            remarks.append("chats use its own chat template")
            if template.fault:
                remarks[-1] = "chats with it are refused: its chat template does not compile: "
                remarks[-1] += template.fault.rstrip(".")
        stops = self._stops(files, variables, template)
        if unknown:
            names = ", ".join(sorted(map(repr, unknown))[:8])
            more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
            remarks.append(f"the model lacks tokens that its tokenizer has: {names}{more}")
        if files.faults:
            remarks.append("; ".join(files.faults))
        if stops:
            ends = ", ".join(repr(self._tokenizer.token_text(token_id)) for token_id in stops)
            remarks.append(f"its answers end at {ends} too")
        is_broken = template is not None and bool(template.fault)
        return AdapterChat(
            template,
            stops,
            brief(visible("; ".join(remarks))),
            is_warning=is_broken or bool(unknown or files.faults),
        )

    def _knows(self, text: str) -> bool:
        token_id = self._tokenizer.token_id(text)
        return token_id is not None and token_id < self._vocab_size

    def _variables(self, config: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
        """(special tokens for its template, which are its own if the model has them; those that the
        model lacks)."""
        variables, unknown = dict(self._tokenizer.special_tokens), set()
        for key, value in config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                if self._knows(text):
                    variables[key] = text
                else:
                    unknown.add(text)
        return variables, unknown

    def _template(
        self, files: _Files, config: Mapping[str, Any], variables: Mapping[str, str], origin: str
    ) -> ChatTemplate | None:
        """The adapter's own chat template; None if it has none, or the same as the model."""
        try:
            found = read_chat_template(files.text, config, variables, origin)
        except (AdapterError, TemplateFileError) as error:
            return ChatTemplate.broken(origin, str(error))
        own = self._tokenizer.chat_template
        if found is None or own is None:
            return found
        is_same = found.sources == own.sources and found.variables == own.variables
        return None if is_same else found

    def _stops(
        self, files: _Files, variables: Mapping[str, str], template: ChatTemplate | None
    ) -> tuple[int, ...]:
        """The tokens that end its answers but not the model's, by the rules of `stop_tokens`."""
        found = files.json("generation_config.json").get("eos_token_id")
        ids = {i for i in (found if isinstance(found, list) else [found]) if type(i) is int}
        texts = {variables["eos_token"]} if "eos_token" in variables else set()
        if template is not None and not template.fault:
            texts |= ends_of_turn(template, self._tokenizer.added_tokens())
        ids |= {i for text in texts if (i := self._tokenizer.token_id(text)) is not None}
        return tuple(sorted(i for i in ids - self._model_stops if 0 <= i < self._vocab_size))


class _Files:
    """The files of one directory. Files that are not JSON are named in `faults` and left out."""

    def __init__(self, directory: str, roots: Sequence[str]) -> None:
        self.directory = directory
        self.faults: list[str] = []
        self._roots = roots

    def text(self, name: str) -> str | None:
        """The text of a file; None if it does not exist. Raises `AdapterError`."""
        content = read_bounded(self.directory, name, MOST_BYTES, self._roots)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as error:
            raise AdapterError(f"{self.directory}/{name} is not UTF-8: {error.reason}") from error

    def json(self, name: str) -> dict[str, Any]:
        try:
            text = self.text(name)
            found = {} if text is None else json.loads(text)
        except (AdapterError, ValueError, RecursionError) as error:
            self.faults.append(f"{name} is ignored: {error}")
            return {}
        return found if isinstance(found, dict) else {}

    def added_tokens(self, config: Mapping[str, Any]) -> set[str]:
        """The texts of the added tokens in all tokenizer files."""
        found = {text for text in self.json("added_tokens.json") if isinstance(text, str)}
        decoder = config.get("added_tokens_decoder")
        for token in decoder.values() if isinstance(decoder, dict) else ():
            if isinstance(token, dict) and isinstance(token.get("content"), str):
                found.add(token["content"])
        name = "tokenizer.json"
        try:
            content = read_bounded(self.directory, name, MOST_TOKENIZER_BYTES, self._roots)
            if content is not None:
                head = msgspec.json.decode(content, type=TokenizerHead)
                found |= {token.content for token in head.added_tokens}
        except (AdapterError, ValueError, RecursionError) as error:
            self.faults.append(f"{name} is ignored: {error}")
        return found
