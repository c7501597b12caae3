"""`SideBySide`: compares our answers with those of another library, run as a process.

The structs here are the whole protocol. The process (`reference/transformers_reference.py`) reads
the model's and the adapters' files with that library only, so it detects files that we misread.
Knows no torch: the console may import it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, TypeVar

import msgspec

from ..errors import OperatorError

DtypeName: TypeAlias = Literal["float32", "bfloat16", "float16", "int4"]
T = TypeVar("T")


class ChatTurn(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: str
    content: str


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or a chat if it has turns."""

    name: str
    text: str = ""
    turns: tuple[ChatTurn, ...] = ()


class ReferenceQuestion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """To a reference: the model and adapters to compute."""

    model: str
    """A directory, a .gguf file, or org/name[@revision]."""
    adapters: tuple[tuple[str, str], ...] = ()
    """(name, directory) of each."""
    tokens: int = 16
    """Greedy tokens per answer."""
    scratch: str = ""
    """A temporary directory, for links."""


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """From a reference that has read everything except the weights."""

    by: str
    """The libraries with their versions."""
    prompts: tuple[Prompt, ...]


class ReferenceRefusal(msgspec.Struct, frozen=True, tag=True):
    """From a reference or an engine that cannot load the model."""

    what: str
    hint: str = ""


class EngineQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """To our engine."""

    directory: str
    adapters: tuple[tuple[str, str], ...]
    prompts: tuple[Prompt, ...]
    tokens: int
    dtype: DtypeName
    ignored: tuple[str, ...]
    """Keys of config.json treated as absent, as with `--ignore-key`."""
    logits: str
    """The file to write the logits to."""


class PromptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Our answer to a prompt, from the base (`adapter` None) or an adapter."""

    prompt: str
    adapter: str | None
    prompt_ids: tuple[int, ...] = ()
    prompt_tokens: int = 0
    """Number of prompt tokens, for answers over HTTP, which have no `prompt_ids`."""
    token_ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    """Tokens as text, for answers over HTTP, which have no `token_ids`."""
    logprobs: tuple[float, ...] = ()
    """Log probability of each token, over the whole vocabulary."""
    logits: str = ""
    """The name of a tensor [num_tokens, vocab_size] in the file of `Answers`; "" if there are only
    `logprobs`."""
    refusal: str = ""
    """Why there is no answer."""


class Answers(msgspec.Struct, frozen=True, tag=True):
    """To a reference: the answers to its prompts."""

    dtype: DtypeName
    rows: tuple[PromptAnswer, ...]
    file: str = ""
    """A safetensors file of logits."""


class AnswerDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One answer compared with the reference's."""

    prompt: str
    adapter: str | None
    is_right: bool
    is_refused: bool = False
    """Whether we gave no answer although the reference does."""
    prompt_tokens: int = 0
    tokens: int = 0
    equal_tokens: int = 0
    """Number of greedy tokens that the reference also chooses."""
    largest: float = 0.0
    """The largest difference of any logit or, by `unit`, of any token's logprob."""
    mean: float = 0.0
    """The mean difference, in the same unit."""
    range: float = 0.0
    """From the reference's smallest logit to its largest."""
    unit: Literal["logits", "logprobs"] = "logits"
    reason: str = ""
    """What differs, or the refusal that both gave."""


class Findings(msgspec.Struct, frozen=True, tag=True):
    """From a reference: its verdicts on all answers."""

    rows: tuple[AnswerDifference, ...]
    notes: tuple[str, ...] = ()


class ReferenceComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a comparison."""

    model: str
    by: str
    dtype: DtypeName
    rows: tuple[AnswerDifference, ...]
    notes: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        return all(row.is_right for row in self.rows)


# --- the processes ------------------------------------------------------------------------------


class LineClient:
    """Runs a module as a process that answers each line of JSON with another.

    A context manager; its exit kills the process.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LineClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._close(self._process)

    def ask(self, question: msgspec.Struct, kind: type[T]) -> T:
        """The process's answer. Raises `OperatorError` if it refuses or exits without one."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(question) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(process) from None
        line = process.stdout.readline()
        if not line:
            raise self._ended(process)
        answer = msgspec.json.decode(line, type=kind | ReferenceRefusal)
        if isinstance(answer, ReferenceRefusal):
            raise OperatorError(answer.what, answer.hint)
        assert isinstance(answer, kind)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        command = [sys.executable, "-P", "-m", f"loraconsole.pipeline.reference.{self._module}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        return self._process

    def _close(self, process: subprocess.Popen[bytes]) -> None:
        """Closes the pipes and the log; the next question starts another process."""
        process.wait()
        self._process = None
        self._log.close()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                assert pipe is not None
                pipe.close()

    def _ended(self, process: subprocess.Popen[bytes]) -> OperatorError:
        code = process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._close(process)
        if code == -signal.SIGKILL:
            hint = "the OS kills processes when memory runs out; free some memory"
            return OperatorError(f"{self._module} was killed", hint)
        last = lines[-1] if lines else "no error message"
        return OperatorError(f"{self._module} exited with status {code}: {last}")


class SideBySide:
    """Compares our answers with transformers', for any number of models in turn.

    A context manager: the two processes start when first needed and end at its exit.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` is called with each stage, since a comparison takes minutes."""
        self._say = say
        self._reference = LineClient("transformers_reference")
        self._engine = LineClient("engine_answers")

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.__exit__(kind, error, trace)
        self._reference.__exit__(kind, error, trace)

    def compare_engine(
        self,
        question: ReferenceQuestion,
        directory: Path,
        dtype: DtypeName = "float32",
        ignored: tuple[str, ...] = (),
        reference: ReferenceQuestion | None = None,
    ) -> ReferenceComparison:
        """Compares our engine on the CPU, without a pipeline. `directory` is the model directory
        that a pipeline of `question.model` would have, `ignored` are keys of its config.json.
        transformers reads the model of `reference`, by default that of `question`. Raises
        `OperatorError` if either cannot read it."""
        with tempfile.TemporaryDirectory() as scratch:

            def serve(prompts: tuple[Prompt, ...]) -> Answers:
                self._say("the engine computes")
                asked = EngineQuestion(
                    directory=str(directory),
                    adapters=question.adapters,
                    prompts=prompts,
                    tokens=question.tokens,
                    dtype=dtype,
                    ignored=ignored,
                    logits=str(Path(scratch) / "logits.safetensors"),
                )
                return self._engine.ask(asked, Answers)

            return self.compare_served(reference or question, serve)

    def compare_served(
        self, question: ReferenceQuestion, serve: Callable[[tuple[Prompt, ...]], Answers]
    ) -> ReferenceComparison:
        """Compares `serve`'s answers to the reference's prompts. Raises `OperatorError`."""
        self._say("transformers reads the files")
        with tempfile.TemporaryDirectory() as scratch:
            asked = msgspec.structs.replace(question, scratch=scratch)
            prepared = self._reference.ask(asked, Prepared)
            answers = serve(prepared.prompts)
            self._say(f"{prepared.by} computes")
            findings = self._reference.ask(answers, Findings)
        return ReferenceComparison(
            model=question.model,
            by=prepared.by,
            dtype=answers.dtype,
            rows=findings.rows,
            notes=findings.notes,
        )
