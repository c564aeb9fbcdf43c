"""The command line program: its options, its two consoles, and how it shows progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

import fxpasses as fxp
from fxpasses.view import console

__all__ = ["app", "bar", "err", "out", "stage", "waiting"]

app = typer.Typer(
    help="Any PyTorch graph in one canonical form, through small passes, to Apache TVM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = console.open_console()
err = console.open_console(stderr=True)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"fxpasses {fxp.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the Python traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = {"traceback": traceback}


# -- progress -------------------------------------------------------------------------


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    with err.status(Text(text)) if err.is_terminal else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def stage(text: str) -> Iterator[None]:
    """A spinner while the body runs, then a line with its time."""
    start = time.perf_counter()
    with waiting(text):
        yield
    err.print(Text(f"{text}: {time.perf_counter() - start:.1f} s", style="dim"), soft_wrap=True)


@contextlib.contextmanager
def bar(text: str, total: int) -> Iterator[Any]:
    """A progress bar; the body calls what it is given after each piece of work."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
    err.print(Text(f"{text}: {time.perf_counter() - start:.1f} s", style="dim"), soft_wrap=True)
