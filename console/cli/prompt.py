"""`loraconsole prompt`: one prompt for the base and adapters, the answers side by side."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.runtime.wording import counted
from ..client.ask import server_url, take_snapshot, undone_by
from ..client.remote import Remote
from ..commands.pipeline import PromptCommand
from ..text import units
from .documents import AnswerDocument
from .printing import print_json

if TYPE_CHECKING:
    from ..client.answer import Answer
    from ..client.chat import ChatParams


def prompt(config: Config, command: PromptCommand) -> int:
    """Sends the prompt to each named adapter (or the base), in one mixed batch."""
    from ..client.answer import Answer
    from ..client.chat import ChatParams

    text = _read_input() if command.text == "-" else command.text
    messages = [{"role": "system", "content": command.system}] if command.system else []
    messages.append({"role": "user", "content": text})
    params = ChatParams(
        max_tokens=command.max_tokens, temperature=command.temperature, seed=command.seed
    )
    answers = [Answer(name, name) for name in command.adapter]
    if command.base or not answers:
        answers.insert(0, Answer(config.model_name, f"{config.model_name} (base)"))
    asyncio.run(_ask_all(config, answers, messages, params, quiet=command.json))
    if command.json:
        print_json([_document(answer, config.model_name) for answer in answers])
    failed = [answer for answer in answers if answer.error]
    for answer in failed:
        print(f"loraconsole: {units.visible(f'{answer.label}: {answer.error}')}", file=sys.stderr)
    if failed and (hint := _what_admits_again(config)):
        print(f"  {hint}", file=sys.stderr)
    return 1 if failed else 0


def _read_input() -> str:
    """Standard input. Raises `OperatorError` if it cannot be decoded: replacing characters would
    change the prompt."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        what = f"standard input is not text in {sys.stdin.encoding}: byte {error.start} is "
        byte = error.object[error.start]
        hint = "PYTHONIOENCODING sets another encoding"
        raise OperatorError(f"{what}0x{byte:02x}", hint) from None


def _what_admits_again(config: Config) -> str:
    """A hint at the command that lets the pipeline admit requests again; "" if nothing holds it
    back."""
    try:
        table = take_snapshot(config).processes
    except OperatorError:
        return ""
    return undone_by(table, config.run)


async def _ask_all(
    config: Config,
    answers: list[Answer],
    messages: list[dict[str, str]],
    params: ChatParams,
    quiet: bool,
) -> None:
    from ..client.http_client import Http

    async with Remote(config) as remote:
        http = Http(await server_url(remote), config.api_key)
    with _drawing(answers, quiet) as draw:
        await asyncio.gather(*(a.stream(http, messages, params, draw) for a in answers))
        draw()


@contextlib.contextmanager
def _drawing(answers: list[Answer], quiet: bool) -> Iterator[Callable[[], None]]:
    """Yields a function that draws the current answers. One answer is printed as it arrives,
    several side by side; without a terminal, several are printed one after the other at the end."""
    if quiet:
        yield lambda: None
    elif len(answers) == 1:
        shown = 0

        def flow() -> None:
            nonlocal shown
            sys.stdout.write(_printable(answers[0].text[shown:]))
            sys.stdout.flush()
            shown = len(answers[0].text)

        yield flow
        if answers[0].text:
            print()
        if sys.stdout.isatty() and not answers[0].error:
            print(_figures(answers[0]), file=sys.stderr)
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(_columns(answers), refresh_per_second=8) as live:
            yield lambda: live.update(_columns(answers))
    else:
        yield lambda: None
        for answer in answers:
            if not answer.error:
                print(f"--- {units.visible(answer.label)}: {_figures(answer)}")
                print(f"{_printable(answer.text)}\n")


def _columns(answers: list[Answer]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(expand=True)
    for _ in answers:
        grid.add_column(ratio=1)
    grid.add_row(
        *(
            Panel(
                Text(_printable(a.error or a.text)),
                title=Text(units.visible(a.label)),
                subtitle=_figures(a),
            )
            for a in answers
        )
    )
    return grid


def _printable(text: str) -> str:
    """The text of an answer without terminal control characters."""
    return "\n".join(units.clean(line) for line in text.split("\n"))


def _figures(answer: Answer) -> str:
    if answer.is_streaming or answer.ttft_s is None:
        return ""
    first = f"first after {answer.ttft_s * 1e3:.0f} ms"
    return f"{counted(answer.count, 'token')}, {answer.tokens_s:.1f} tok/s, {first}"


def _document(answer: Answer, base: str) -> AnswerDocument:
    return AnswerDocument(
        adapter=None if answer.model == base else answer.model,
        model=answer.model,
        text=answer.text,
        finish_reason=answer.finish_reason or None,
        output_tokens=answer.count,
        ttft_ms=None if answer.ttft_s is None else round(answer.ttft_s * 1e3, 1),
        error=answer.error or None,
    )
