"""`Reference`: a process that computes a model by another library, and judges our answers by it.

The structs here are all that crosses. The process (`model/transformers_reference.py`) reads the
model's and the adapters' own files by that library alone, so that it finds a file that we misread.
Knows no torch: the console may import it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, TypeVar

import msgspec

from .config import OperatorError

Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int4"]
T = TypeVar("T")


class Turn(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: str
    content: str


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or a chat where it has turns."""

    name: str
    text: str = ""
    turns: tuple[Turn, ...] = ()


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """To a reference: what to compare with."""

    model: str
    """A directory, a .gguf file, or org/name[@revision]."""
    adapters: tuple[tuple[str, str], ...] = ()
    """(name, directory) of each."""
    tokens: int = 16
    """Greedy tokens of each answer."""


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """From a reference that has read everything but the weights."""

    by: str
    """The libraries and their versions."""
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From a reference that cannot be one, and from an engine that does not take the model."""

    what: str
    hint: str = ""


class EngineQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """To our engine."""

    directory: str
    adapters: tuple[tuple[str, str], ...]
    prompts: tuple[Prompt, ...]
    tokens: int
    dtype: Precision
    logits: str
    """The file to write them to."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What we make of a prompt, by the base (`adapter` None) or an adapter."""

    prompt: str
    adapter: str | None
    prompt_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    """Their number, where HTTP says no more of them."""
    token_ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    """Tokens as text, where HTTP says no ids."""
    logprobs: tuple[float, ...] = ()
    """Of each token, among all of the vocabulary."""
    logits: str = ""
    """The name of a tensor [num_tokens, vocab_size] in the file of `Answers`; "" has only
    `logprobs`."""
    refusal: str = ""
    """Why there is no answer."""


class Answers(msgspec.Struct, frozen=True, tag=True):
    """To a reference, from whoever served the prompts."""

    dtype: Precision
    rows: tuple[Answer, ...]
    file: str = ""
    """A safetensors file of logits."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One answer beside the reference's."""

    prompt: str
    adapter: str | None
    is_right: bool
    prompt_tokens: int = 0
    tokens: int = 0
    equal_tokens: int = 0
    """Of the greedy tokens, those that the reference chooses as well."""
    largest: float = 0.0
    """The largest difference of any logit, or, where `unit` says so, of a token's logprob."""
    mean: float = 0.0
    range: float = 0.0
    """From the reference's smallest logit to its largest."""
    unit: Literal["logits", "logprobs"] = "logits"
    reason: str = ""
    """What differs, in words; or what both refuse."""


class Findings(msgspec.Struct, frozen=True, tag=True):
    """From a reference: its judgement of all answers."""

    rows: tuple[Difference, ...]
    notes: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison comes to."""

    model: str
    by: str
    dtype: Precision
    rows: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        return all(row.is_right for row in self.rows)


# --- the processes ------------------------------------------------------------------------------


class Conversation:
    """A module run as a process that reads a line of JSON for each line that it writes.

    A context manager: leaving it ends the process.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __enter__(self) -> Conversation:
        self._log = tempfile.TemporaryFile()  # closed by __exit__
        command = [sys.executable, "-P", "-m", f"loraconsole.pipeline.model.{self._module}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def ask(self, question: msgspec.Struct, kind: type[T]) -> T:
        """Its answer. Raises `OperatorError` where it refuses or ends without one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = msgspec.json.decode(line, type=kind | Refused)
        if isinstance(answer, Refused):
            raise OperatorError(answer.what, answer.hint)
        assert isinstance(answer, kind)
        return answer

    def _ended(self) -> OperatorError:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or [
            "it says nothing"
        ]
        if code == -9:
            hint = "the kernel kills what takes more memory than there is; free some"
            return OperatorError(f"{self._module} was killed", hint)
        return OperatorError(f"{self._module} ended with status {code}: {lines[-1]}")


def compare_engine(
    question: Question,
    directory: Path,
    dtype: Precision = "float32",
    say: Callable[[str], None] = lambda _: None,
    reference_of: str = "",
) -> Comparison:
    """Our engine on the CPU, in a process of its own and without a pipeline, beside transformers.

    `directory` is the model directory that a pipeline of `question.model` would have; `say` hears
    what is done. `reference_of` has transformers read another model than `question.model`. Raises
    `OperatorError` where either cannot read what it is given.
    """
    asked = msgspec.structs.replace(question, model=reference_of or question.model)
    with tempfile.TemporaryDirectory() as scratch:
        file = str(Path(scratch) / "logits.safetensors")

        def serve(prompts: Sequence[Prompt]) -> Answers:
            say("the engine computes")
            with Conversation("engine_answers") as engine:
                return engine.ask(
                    EngineQuestion(
                        directory=str(directory),
                        adapters=question.adapters,
                        prompts=tuple(prompts),
                        tokens=question.tokens,
                        dtype=dtype,
                        logits=file,
                    ),
                    Answers,
                )

        return compare_served(asked, serve, say)


def compare_served(
    question: Question,
    serve: Callable[[Sequence[Prompt]], Answers],
    say: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """What `serve` answers to the reference's prompts, beside transformers. Raises
    `OperatorError`."""
    with Conversation("transformers_reference") as reference:
        say("transformers reads the files")
        prepared = reference.ask(question, Prepared)
        answers = serve(prepared.prompts)
        say(f"{prepared.by} computes")
        findings = reference.ask(answers, Findings)
    return Comparison(
        model=question.model,
        by=prepared.by,
        dtype=answers.dtype,
        rows=findings.rows,
        notes=(*prepared.notes, *findings.notes),
    )
