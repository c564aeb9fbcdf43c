"""Build an `IRModule` for a target."""

from __future__ import annotations

from typing import Any

from fxpasses.relax import tvm_api as T

__all__ = ["build"]


def build(mod: Any, target: str | Any = "llvm") -> Any:
    """The Relax VM executable of *mod* for *target*."""
    return T.tvm.compile(mod, target=T.tvm.target.Target(target) if isinstance(target, str) else target)
