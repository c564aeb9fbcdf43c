"""Python functions that compiled code calls, and the way of their errors back to the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any

import torch

from fxpasses.errors import IndexRangeError, RunError
from fxpasses.relax import tvm_api as T
from fxpasses.sizes import evaluate

__all__ = ["ISLAND", "REQUIRE", "enter", "register", "take_error"]

ISLAND = "fxpasses.island"
REQUIRE = "fxpasses.require"

_failed = threading.local()


def enter(name: str, function: Callable[..., Any]) -> None:
    """Let compiled code call *function* by *name*.

    An exception loses its type on its way through TVM, so it is kept for `take_error`.
    """

    @wraps(function)
    def guarded(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            _failed.error = error
            raise

    T.tvm_ffi.register_global_func(name, guarded, override=True)


def take_error() -> Exception | None:
    """The exception that a function called by this thread ended with, once."""
    error: Exception | None = getattr(_failed, "error", None)
    _failed.error = None
    return error


@cache
def register() -> None:
    """Make the functions known to TVM."""
    enter(REQUIRE, _require)


@cache
def _zero() -> Any:
    return T.tvm_ffi.from_dlpack(torch.zeros((), dtype=torch.int32))


def _require(condition: str, names: str, source: str, kind: str, sizes: Sequence[int]) -> Any:
    """A zero, if *condition* holds of the symbols *names* with the values *sizes*."""
    symbols = dict(zip(str(names).split(","), (int(size) for size in sizes), strict=True))
    if evaluate(str(condition), symbols):
        return _zero()
    values = ", ".join(f"{name} = {value}" for name, value in symbols.items())
    place = f" ({source})" if str(source) else ""
    message = f"a value that the program read or computed breaks {condition}: {values}{place}"
    raise (IndexRangeError if str(kind) == "index" else RunError)(message)
