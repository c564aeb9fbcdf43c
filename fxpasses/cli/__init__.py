"""The ``fxpasses`` command; ``fxpasses --help`` lists what it can do.

Results go to standard output; progress and errors go to standard error. Exit
codes: 0 all well, 1 the work failed, 2 the command line was wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.text import Text

from fxpasses.cli import machine, measure, programs
from fxpasses.cli.app import app, err, out
from fxpasses.errors import FxpassesError

__all__ = ["app", "main", "out"]

for module in (programs, measure, machine):
    app.add_typer(module.commands)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; ends with `SystemExit`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The option belongs to the program, but a person adds it to the end of the command that failed.
    traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    if traceback:
        arguments.insert(0, "--traceback")
    try:
        app(args=arguments, prog_name="fxpasses")
    except FxpassesError as error:
        if traceback:
            raise
        err.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        sys.exit(1)
