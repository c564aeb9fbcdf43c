"""Garbage of a compilation: graphs are full of cycles, so that only a search finds what nobody uses any more.

A search looks at all objects of the process, and torch alone has a million.
Inside of `apart` the objects that were there before are left out, which makes
it fast enough to run between the stages of a compilation (`sweep`): each
stage finds the memory that the one before has used.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["apart", "every_object", "sweep"]

_MANY = 20_000
"""So many objects, and no fewer, are worth a search."""

_lock = threading.Lock()
_inside = 0
_was_on = False
_is_frozen = False


@contextmanager
def apart() -> Iterator[None]:
    """No search for garbage in the body but by `sweep`; then the last one, and free memory goes to the system."""
    _enter()
    try:
        yield
    finally:
        sweep(1)
        _leave()
        with suppress(OSError, AttributeError):  # the C library is another one
            ctypes.CDLL(None).malloc_trim(0)


def sweep(least: int = _MANY) -> None:
    """Free what has become garbage since `apart` began; nothing outside of it, or of fewer than *least* objects."""
    with _lock:
        is_cheap = _is_frozen
    if is_cheap and gc.get_count()[0] >= least:
        gc.collect()


def every_object() -> list[object]:
    """All objects that may be part of a cycle, those that are left out inside of `apart` with them."""
    frozen = gc.get_freeze_count()
    if frozen:
        gc.unfreeze()
    try:
        return gc.get_objects()
    finally:
        if frozen:
            gc.freeze()


def _enter() -> None:
    global _inside, _was_on, _is_frozen
    with _lock:
        _inside += 1
        if _inside == 1:
            _was_on = gc.isenabled()
            gc.disable()
            _is_frozen = not gc.get_freeze_count()  # what the user has frozen must stay so
            if _is_frozen:
                gc.freeze()


def _leave() -> None:
    global _inside, _is_frozen
    with _lock:
        _inside -= 1
        if not _inside:
            if _is_frozen:
                gc.unfreeze()
            _is_frozen = False
            if _was_on:
                gc.enable()
