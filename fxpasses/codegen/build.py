"""Build an `IRModule` for a target."""

from __future__ import annotations

import itertools
import logging
from typing import Any

from fxpasses.codegen.pipeline import cpu_pipeline, tir_pipeline
from fxpasses.codegen.target import resolve_target
from fxpasses.relax import tvm_api as T

__all__ = ["build"]

log = logging.getLogger(__name__)


# Ways to build, from the fastest code to the one that makes fewest demands on TVM.
_WAYS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("all schedules", {}),
    ("each schedule tried by itself", {"careful": True}),
    ("elementary functions from the C library", {"careful": True, "vectors": False}),
)


def build(mod: Any, target: Any = "llvm") -> Any:
    """The Relax VM executable of *mod* for *target*.

    TVM's passes have cases of their own where they fail on a scheduled kernel;
    then what they cannot lower is left out, and the log says so.
    """
    target = resolve_target(target)
    for (_, options), (then, _) in itertools.pairwise(_WAYS):
        try:
            return _build(mod, target, **options)
        except (RuntimeError, TypeError, ValueError) as error:
            log.warning("the build failed (%s); next: %s", error, then)
    return _build(mod, target, **_WAYS[-1][1])


def _build(mod: Any, target: Any, *, careful: bool = False, vectors: bool = True) -> Any:
    pipeline = cpu_pipeline(target, careful=careful)
    return T.tvm.compile(
        mod,
        target=_without_masked_ends(target),
        relax_pipeline=pipeline,
        tir_pipeline=tir_pipeline(vectors=vectors),
    )


def _without_masked_ends(target: Any) -> Any:
    """*target*, for which LLVM ends the short loops that it vectorizes by single elements, not by masked vectors.

    A vector of which the mask leaves one element, and which is narrowed (int64 to int16, as in a
    bfloat16's rounding), is stored by LLVM 22 in the width before: over the elements behind it.
    """
    description = dict(target.export())
    options = [*map(str, description.get("cl-opt", ())), "-vectorizer-min-trip-count=0"]
    return T.tvm.target.Target(description | {"cl-opt": options})
