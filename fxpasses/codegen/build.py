"""Build an `IRModule` for a target."""

from __future__ import annotations

import logging
from typing import Any

from fxpasses.codegen.pipeline import cpu_pipeline, tir_pipeline
from fxpasses.codegen.target import resolve_target
from fxpasses.relax import tvm_api as T

__all__ = ["build"]

log = logging.getLogger(__name__)


def build(mod: Any, target: Any = "llvm") -> Any:
    """The Relax VM executable of *mod* for *target*."""
    target = resolve_target(target)
    try:
        return _build(mod, target)
    except (RuntimeError, TypeError, ValueError) as error:
        # TVM's passes have cases of their own where they fail on a scheduled kernel.
        log.warning("the build failed (%s); trying each schedule by itself", error)
        return _build(mod, target, careful=True)


def _build(mod: Any, target: Any, *, careful: bool = False) -> Any:
    pipeline = cpu_pipeline(target, careful=careful)
    return T.tvm.compile(mod, target=target, relax_pipeline=pipeline, tir_pipeline=tir_pipeline())
