"""What a command line names: the source of a program, and its canonical form."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import fxpasses as fxp
from fxpasses.cli.app import bar

if TYPE_CHECKING:
    from fxpasses.pipeline import History
    from fxpasses.program import Program

__all__ = ["canonicalized", "load"]


def load(spec: str) -> tuple[Any, tuple[Any, ...] | None, dict[str, Any] | None]:
    """The source of a ``compile`` command with its example arguments, if it has any."""
    if spec.endswith(".pt2"):
        path = Path(spec)
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {spec}", param_hint="MODEL")
        return path, None, None
    module_name, separator, name = spec.partition(":")
    if not separator:
        raise typer.BadParameter(
            f"{spec!r} is neither a .pt2 file nor package.module:function", param_hint="MODEL"
        )
    # An installed command does not look into the current folder, as `python -m` does.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise typer.BadParameter(f"there is no module {module_name!r}", param_hint="MODEL") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise typer.BadParameter(f"{module_name} has no function {name!r}", param_hint="MODEL")
    match function():
        case (model, tuple(args)):
            return model, args, None
        case (model, tuple(args), dict(kwargs)):
            return model, args, kwargs
        case other:
            raise typer.BadParameter(
                f"{spec} returned {type(other).__name__}; it has to return (model, args) or "
                "(model, args, kwargs) with a tuple args and a dict kwargs",
                param_hint="MODEL",
            )


def canonicalized(program: Program) -> tuple[Program, History]:
    """`fxpasses.canonicalize` with a progress bar and its history."""
    passes = list(fxp.canonicalize)
    with bar("canonicalize", len(passes)) as tick:
        return fxp.Pipeline(*passes, name="canonicalize", hook=lambda *_: tick()).run(program)
