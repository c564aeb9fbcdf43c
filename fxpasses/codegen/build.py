"""Build an `IRModule` for a target."""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.pipeline import cpu_pipeline
from fxpasses.codegen.target import resolve_target
from fxpasses.relax import tvm_api as T

__all__ = ["build"]


def build(mod: Any, target: Any = "llvm") -> Any:
    """The Relax VM executable of *mod* for *target*."""
    target = resolve_target(target)
    return T.tvm.compile(mod, target=target, relax_pipeline=cpu_pipeline(target))
