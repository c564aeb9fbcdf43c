"""`leaf=`: modules and functions that stay one opaque call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fxpasses.capture.source import Source
from fxpasses.errors import InputError


@contextmanager
def opaque(source: Source) -> Iterator[None]:
    """Within, each leaf of *source* is one call of an operator of its own."""
    if source.leaf:
        raise InputError("leaf= is not supported yet")
    yield


def is_leaf(module: object) -> bool:
    """Whether *module* is a leaf of the capture that is going on."""
    return False
