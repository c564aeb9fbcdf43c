"""The door of dynamo, which reads the bytecode, and the graphs that it gives to a backend."""

from __future__ import annotations

from fxpasses.capture.exported import export
from fxpasses.capture.shapes import Captured
from fxpasses.capture.source import Source

__all__ = ["by_dynamo"]


def by_dynamo(source: Source) -> Captured:
    """Capture with `torch.export` on top of dynamo."""
    return export(source, strict=True)
