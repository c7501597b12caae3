"""The reference computed by transformers and peft, in float32 on the CPU.

Lines of JSON: reads a `ReferenceQuestion` and writes `Prepared`; reads `Answers` and writes
`Findings`.

Only those libraries read the model's and the adapters' files: with our own readers, an error in
them would affect both sides and stay hidden. Prompts are tokenized before the weights are loaded,
so that missing or too large models are reported early.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import OperatorError
from ..model.page_pool import free_bytes
from ..run_directory import is_hub_id
from .difference import judge_answer
from .line_server import LineServer
from .prompts import fixed_prompts, long_length, long_prompt
from .reference import (
    AnswerDifference,
    Answers,
    Findings,
    Prepared,
    Prompt,
    PromptAnswer,
    ReferenceQuestion,
)

MOST_FLOP = 4e12
"""Most floating-point operations of the long prompt: about half a minute on two cores."""
LEAST_LONG = 128
"""Fewest tokens of the long prompt, even if they take more operations."""
MOST_CANDIDATES = 100
"""Most probable tokens among which a piece of text is searched."""
LOAD_FACTOR = 1.2
"""Memory for loading, as a multiple of the weights in float32."""
IGNORED_GGUF = (
    "rope.scaling.",
    "rope_freqs.weight",
    "attention.sliding_window",
    "rope.scale_linear",
)
"""Key and tensor names of a GGUF about attention that transformers does not read."""


class TransformersReference:
    """One model, computed by transformers."""

    def __init__(self, question: ReferenceQuestion) -> None:
        """Reads config and tokenizer. Raises `OperatorError`."""
        self._question = question
        transformers = _import("transformers", "'transformers>=5'")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.by = f"transformers {transformers.__version__}"
        if question.adapters:
            peft = _import("peft", "'peft>=0.18'")
            self.by += f", peft {peft.__version__}"
        self._transformers = transformers
        self._where, self._options, self.notes = _locate(question.model, Path(question.scratch))
        with self._reading("config"):
            self._config = transformers.AutoConfig.from_pretrained(self._where, **self._options)
        with self._reading("tokenizer"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                self._where, **self._options
            )
        self._num_parameters = self._check_memory()
        self.prompts = tuple(self._choose_prompts())
        self._base: Any = None

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # libraries raise what they like, ImportError among them
            word = f"{type(error).__name__}: {_first_line(error)}"
            raise OperatorError(
                f"transformers cannot read the {what} of {self._question.model}: {word}",
                "without it there is no reference to compare with",
            ) from error

    def _check_memory(self) -> int:
        """The number of parameters. Raises `OperatorError` if they do not fit in float32."""
        with self._reading("shapes"), torch.device("meta"):
            model = self._transformers.AutoModelForCausalLM.from_config(self._config)
        count: int = sum(parameter.numel() for parameter in model.parameters())
        needed, free = int(4 * count * LOAD_FACTOR), free_bytes(torch.device("cpu"))
        if needed > free:
            raise OperatorError(
                f"{self._question.model} takes {needed / 2**30:.1f} GiB in float32, but "
                f"{free / 2**30:.1f} GiB are free",
                "compare on a machine with more memory, or a smaller model of the family",
            )
        return count

    # -- prompts

    def _choose_prompts(self) -> list[Prompt]:
        """The prompts that fit in the model's context."""
        text = self._config.get_text_config()
        limit = int(text.max_position_embeddings)
        scaling = _rope(text)
        reach = int(limit * float(scaling.get("factor", 1.0)))
        if scaling.get("rope_type") == "dynamic":
            limit = reach
        found = [*fixed_prompts(self._special_tokens(text.vocab_size))]
        found = [p for p in found if self._length(p) + self._question.tokens <= limit]
        affordable = max(LEAST_LONG, int(MOST_FLOP / (2 * self._num_parameters)))
        most = min(limit - self._question.tokens, affordable)
        length, word = long_length([*self._positions(text, scaling)], most)
        if word:
            self.notes.append(word)
        found.append(long_prompt(length, lambda piece: len(self._tokenizer(piece).input_ids)))
        return found

    def _special_tokens(self, vocab_size: int) -> list[str]:
        """Tokens added to the vocabulary that have an embedding, ordered by id."""
        added = sorted(self._tokenizer.get_added_vocab().items(), key=lambda pair: pair[1])
        return [token for token, token_id in added if token_id < vocab_size]

    def _length(self, prompt: Prompt) -> int:
        try:
            return len(self._encode(prompt, None))
        except _Unreadable:
            return 0  # keep the prompt: both sides should refuse it

    @staticmethod
    def _positions(config: Any, scaling: dict[str, Any]) -> Iterator[int]:
        """Positions at which the computation of attention or rope changes."""
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
        if window and "sliding_attention" in kinds:
            yield int(window)
        if original := scaling.get("original_max_position_embeddings"):
            yield int(original)
        elif scaling.get("rope_type") == "dynamic":
            yield int(config.max_position_embeddings)

    def _encode(self, prompt: Prompt, adapter: str | None) -> list[int]:
        """Token ids. Raises `_Unreadable` if template or tokenizer refuse the prompt."""
        try:
            if not prompt.turns:
                ids: list[int] = self._tokenizer(prompt.text).input_ids
                return ids
            turns = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
            tokenizer, options = self._of_chats(adapter)
            chat: list[int] = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False, **options
            )
            return chat
        except Exception as error:  # jinja's and the tokenizers' errors have no common base
            raise _Unreadable(_first_line(error)) from error

    def _of_chats(self, adapter: str | None) -> tuple[Any, dict[str, str]]:
        """The tokenizer for an adapter's chats and, in the options, a template saved without one:
        those saved with the adapter, else the model's."""
        directory = dict(self._question.adapters).get(adapter or "")
        if directory is None:
            return self._tokenizer, {}
        root = Path(directory)
        template = root / "chat_template.jinja"
        if (root / "tokenizer_config.json").exists() and (root / "tokenizer.json").exists():
            found = self._transformers.AutoTokenizer.from_pretrained(directory)
            return (found, {}) if found.chat_template else (self._tokenizer, {})
        if template.exists():
            return self._tokenizer, {"chat_template": template.read_text(encoding="utf-8")}
        return self._tokenizer, {}

    # -- logits

    def findings(self, answers: Answers) -> Iterator[AnswerDifference]:
        """Verdicts on all answers, grouped by adapter, with one model in memory at a time."""
        prompts = {prompt.name: prompt for prompt in self.prompts}
        paths = dict(self._question.adapters)
        for adapter in dict.fromkeys(answer.adapter for answer in answers.rows):
            rows = [answer for answer in answers.rows if answer.adapter == adapter]
            if refused := [row for row in rows if row.refusal]:
                rows = [row for row in rows if not row.refusal]
                yield from (self._refused(row, prompts[row.prompt]) for row in refused)
            if not rows:
                continue
            try:
                with self._loaded(None if adapter is None else paths[adapter]) as model:
                    yield from [
                        self._difference(model, row, prompts[row.prompt], answers) for row in rows
                    ]
            except _Unreadable as error:
                yield from (_without(row, str(error)) for row in rows)

    def _refused(self, answer: PromptAnswer, prompt: Prompt) -> AnswerDifference:
        """The verdict on an answer we refused: right if the reference refuses the prompt too."""
        try:
            self._encode(prompt, answer.adapter)
        except _Unreadable as error:
            reason = f"both refuse it: {answer.refusal}; transformers: {error}"
            return _without(answer, reason, is_right=True)
        refused = _without(answer, f"refused: {answer.refusal}")
        return msgspec.structs.replace(refused, is_refused=True)

    def _load_base(self) -> Any:
        """The model in float32, kept for later answers. Raises `OperatorError`."""
        if self._base is not None:
            return self._base
        with self._reading("weights"):
            model, about = self._transformers.AutoModelForCausalLM.from_pretrained(
                self._where, dtype=torch.float32, output_loading_info=True, **self._options
            )
        if missing := sorted(about["missing_keys"]):
            raise OperatorError(
                f"transformers does not find {missing[0]} ({len(missing)} such) in the checkpoint "
                "and would make it at random",
                "it cannot be the reference for this checkpoint",
            )
        if unused := sorted(about["unexpected_keys"]):
            self._note(f"transformers does not use {unused[0]} ({len(unused)} such)")
        self._base = model.eval()
        return self._base

    @contextlib.contextmanager
    def _loaded(self, adapter: str | None) -> Iterator[Any]:
        """The model in float32, with the adapter of a directory if given. Raises `OperatorError` if
        the model cannot be read, `_Unreadable` if the adapter cannot."""
        base = self._load_base()
        if adapter is None:
            yield base
            return
        peft = _import("peft", "peft")
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                model = peft.PeftModel.from_pretrained(base, adapter).eval().float()
            except Exception as error:
                self._base = None  # it may be partly wrapped
                word = f"{type(error).__name__}: {_first_line(error)}"
                raise _Unreadable(f"peft cannot read it: {word}") from error
        for warning in heard:
            if "keys" in str(warning.message):
                self._note(f"peft, on {adapter}: {_first_line(warning.message)}")
        yield model
        config = model.peft_config["default"]
        is_whole = getattr(config, "bias", "none") == "none" and not (
            getattr(config, "modules_to_save", None)
            or getattr(config, "trainable_token_indices", None)
        )
        # Keep the base, since loading is slow, unless unload() would leave whole weights in it.
        self._base = model.unload() if is_whole else None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _difference(
        self, model: Any, answer: PromptAnswer, prompt: Prompt, answers: Answers
    ) -> AnswerDifference:
        try:
            ids = self._encode(prompt, answer.adapter)
        except _Unreadable as error:
            return _without(answer, f"transformers refuses it: {error}")
        tokens, theirs = self._follow(model, ids, answer)
        if len(tokens) < len(answer.pieces):
            place = len(tokens)
            best = self._tokenizer.decode([int(theirs[place].argmax())])
            reason = f"token {place} is {answer.pieces[place]!r}, the reference's {best!r}"
            return _without(answer, reason)
        answer = msgspec.structs.replace(answer, token_ids=tuple(tokens))
        ours = None
        if answer.logits:
            with safe_open(answers.file, "pt") as file:
                ours = file.get_tensor(answer.logits)
        return judge_answer(answer, ours, ids, theirs, answers.dtype)

    def _follow(
        self, model: Any, prompt: list[int], answer: PromptAnswer
    ) -> tuple[list[int], Tensor]:
        """Our tokens, and the logits [num_tokens, vocab_size] from which `generate` would choose
        each, given our tokens before it. One token fewer than logits if the last has no id.

        Computed step by step over a cache, like `generate`: some rope types depend on the length.
        """
        count = len(answer.token_ids) or len(answer.pieces)
        rows: list[Tensor] = []
        tokens: list[int] = []
        cache, piece = None, prompt
        with torch.inference_mode():
            while len(rows) < count:
                out = model(
                    input_ids=torch.tensor([piece]),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                rows.append(out.logits[0, -1].float())
                token = self._next_token(answer, tokens, rows[-1])
                if token is None:
                    break
                tokens.append(token)
                cache, piece = out.past_key_values, [token]
        return tokens, torch.stack(rows)

    def _next_token(self, answer: PromptAnswer, tokens: list[int], logits: Tensor) -> int | None:
        """Our token id at this place. If we know only its text, which several tokens may share
        (e.g. half a character): the probable token of that text with the nearest logprob."""
        place = len(tokens)
        if answer.token_ids:
            return answer.token_ids[place]
        logprobs = logits.log_softmax(dim=-1)
        before = self._tokenizer.decode(tokens)
        found = []
        for token in logits.topk(min(MOST_CANDIDATES, len(logits))).indices.tolist():
            text = self._tokenizer.decode([*tokens, token])
            if answer.pieces[place] in (text[len(before) :], self._tokenizer.decode([token])):
                found.append((abs(float(logprobs[token]) - answer.logprobs[place]), int(token)))
        return min(found)[1] if found else None


def _import(name: str, distribution: str) -> Any:
    """The library. Raises `OperatorError` if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OperatorError(
            f"{name} cannot be imported: {error}", f"pip install {distribution}"
        ) from error


class _Unreadable(Exception):
    """The reference refuses a prompt or an adapter; the message says why."""


def _without(answer: PromptAnswer, reason: str, *, is_right: bool = False) -> AnswerDifference:
    return AnswerDifference(
        prompt=answer.prompt,
        adapter=answer.adapter,
        is_right=is_right,
        prompt_tokens=len(answer.prompt_ids) or answer.prompt_tokens,
        reason=reason,
    )


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]


def _rope(config: Any) -> dict[str, Any]:
    """The rope parameters; those of the first layer type if they differ by type."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if found and all(isinstance(value, dict) for value in found.values()):
        found = next(iter(found.values()))
    return dict(found)


def _locate(model: str, scratch: Path) -> tuple[str, dict[str, Any], list[str]]:
    """`from_pretrained`'s name and options for a model, and notes about it."""
    path = Path(os.path.expanduser(model))
    if path.is_dir() and not any(path.glob("*.safetensors")) and (path / "model.gguf").exists():
        path = path / "model.gguf"  # a model directory made from a GGUF
    if path.is_file():
        # Alone in a directory: transformers would prefer other files beside it.
        (scratch / "model.gguf").symlink_to(path.resolve())
        return str(scratch), {"gguf_file": "model.gguf"}, _notes_of_gguf(path)
    if path.is_dir() or not is_hub_id(model):
        return str(path), {}, []
    name, _, revision = model.partition("@")
    return name, {"revision": revision} if revision else {}, []


def _notes_of_gguf(path: Path) -> list[str]:
    """A note on names in the file that transformers does not read, if any."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    names = [*reader.fields, *(tensor.name for tensor in reader.tensors)]
    ignored = [name for name in names if any(part in name for part in IGNORED_GGUF)]
    if not ignored:
        return []
    return [
        f"transformers does not read {', '.join(ignored)} of a GGUF: this may explain a difference"
    ]


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    server = LineServer()
    reference: TransformersReference | None = None
    while (asked := server.read(ReferenceQuestion | Answers)) is not None:
        try:
            if isinstance(asked, ReferenceQuestion):
                reference = None  # free its weights before loading others
                reference = TransformersReference(asked)
                server.write(Prepared(reference.by, reference.prompts))
            else:
                assert reference is not None, "answers without a question"
                rows = tuple(reference.findings(asked))
                server.write(Findings(rows, tuple(reference.notes)))
        except OperatorError as error:
            server.refuse(error)


if __name__ == "__main__":
    main()
