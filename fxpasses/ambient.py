"""`exclusive` and `plainly`: what the rest of the process is to a trace, its threads and its modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["exclusive", "plainly"]


@contextmanager
def exclusive() -> Iterator[None]:
    """No other thread traces in the body: torch keeps the state of a trace where all threads see it."""
    # Dynamo's own lock, and no other, since dynamo calls a backend with it held.
    from torch._dynamo.convert_frame import compile_lock

    with compile_lock:
        yield


@contextmanager
def plainly() -> Iterator[None]:
    """Neither gradients nor the caller's autocast in the body: a graph says itself what it casts."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield
