"""The command line: parses the arguments, runs the command, prints errors. The commands are records
in `commands/`; their code is in `cli/`.

Exit status: 0 success, 1 failure, 2 wrong usage, 3 no pipeline is running.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from ..pipeline.api_keys import hide_key_arguments
from ..pipeline.errors import OperatorError, UsageError
from ..pipeline.runtime.stdout import ends_with_its_reader
from .cli.dispatch import dispatch
from .commands.base import Command
from .commands.parser import parse
from .terminal.ending import exit_on_signals

FAILED, USAGE, NOT_RUNNING = 1, 2, 3


@ends_with_its_reader()
def main() -> NoReturn:
    """The `loraconsole` command."""
    hide_key_arguments()
    exit_on_signals()
    command = Command()
    try:
        command = parse(sys.argv[1:])
        code = dispatch(command)
    except OperatorError as error:
        code = report(error, command.as_json)
    except UnicodeEncodeError as error:  # messages, JSON and sockets are UTF-8
        what = f"{error.object!a} is not text: bytes in it are not {error.encoding}"
        code = report(OperatorError(what, "rename the file or the directory"), command.as_json)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def report(error: OperatorError, as_json: bool) -> int:
    """Prints an operator's error, as JSON too if `as_json`; returns the exit status."""
    from .cli.documents import ErrorDocument, FailedStart
    from .cli.printing import print_json
    from .client.failed_adapters import AdaptersFailed, describe_failure, documents
    from .client.remote import NotRunning
    from .text.units import visible

    document = ErrorDocument(error.what, error.hint)
    if isinstance(error, AdaptersFailed):
        document = FailedStart(error.what, error.hint, documents(error.failed))
        for view in error.failed:
            print(f"loraconsole: {describe_failure(view)}", file=sys.stderr)
    if as_json:
        print_json(document)
    print(f"loraconsole: {visible(error.what)}", file=sys.stderr)
    if error.hint:
        print(f"  {visible(error.hint)}", file=sys.stderr)
    if isinstance(error, UsageError):
        return USAGE
    return NOT_RUNNING if isinstance(error, NotRunning) else FAILED


if __name__ == "__main__":
    main()
