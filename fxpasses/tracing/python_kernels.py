"""`python_kernels`: other kernels in Python for torch's operators, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch._C import DispatchKey
from torch._ops import OpOverload

__all__ = ["python_kernels"]


@contextmanager
def python_kernels(kernels: Mapping[OpOverload, Mapping[DispatchKey, Callable[..., Any]]]) -> Iterator[None]:
    """Let torch's Python dispatcher call these kernels, by operator and dispatch key."""
    kept = [(op, dict(op.py_kernels)) for op in kernels]
    for op, others in kernels.items():
        op.py_kernels.update(others)
        op._dispatch_cache.clear()
    try:
        yield
    finally:
        for op, before in kept:
            op.py_kernels.clear()
            op.py_kernels.update(before)
            op._dispatch_cache.clear()
