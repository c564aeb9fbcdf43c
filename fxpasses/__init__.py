"""fxpasses: any PyTorch graph in one canonical form, through small passes, to TVM.

::

    import fxpasses as fxp

    program = fxp.canonicalize(fxp.capture(model, args))
    compiled = fxp.compile(program, args)
    compiled(*args)

The public names are those of ``__all__``. What needs TVM or hypothesis is
imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Four public functions are called like the module that holds them. Importing that module here, and
# the function out of it, leaves the function as the package's attribute for good: Python binds a
# submodule to its package only when it loads it.
from fxpasses import errors as errors
from fxpasses.capture import capture as capture
from fxpasses.fingerprint import fingerprint as fingerprint
from fxpasses.interop import graph_module_pass as graph_module_pass
from fxpasses.pipeline import Pipeline as Pipeline
from fxpasses.program import Program as Program
from fxpasses.rewrite import rewrite as rewrite
from fxpasses.verify import verify as verify

if TYPE_CHECKING:
    from fxpasses import passes as passes
    from fxpasses import testing as testing
    from fxpasses.benchmark import bench as bench
    from fxpasses.benchmark.profile import profile as profile
    from fxpasses.codegen.artifact import load as load
    from fxpasses.codegen.compile import compile as compile
    from fxpasses.codegen.compile import explain as explain
    from fxpasses.passes import canonicalize as canonicalize
    from fxpasses.relax.emit import lower as lower

__version__ = "0.1.0"

__all__ = [
    "Pipeline",
    "Program",
    "bench",
    "canonicalize",
    "capture",
    "compile",
    "errors",
    "explain",
    "fingerprint",
    "graph_module_pass",
    "load",
    "lower",
    "passes",
    "profile",
    "rewrite",
    "testing",
    "verify",
]

# Public name to the module that holds it; None where the name is a submodule itself.
_LAZY: dict[str, str | None] = {
    "bench": "fxpasses.benchmark",
    "canonicalize": "fxpasses.passes",
    "compile": "fxpasses.codegen.compile",
    "explain": "fxpasses.codegen.compile",
    "load": "fxpasses.codegen.artifact",
    "lower": "fxpasses.relax.emit",
    "passes": None,
    "profile": "fxpasses.benchmark.profile",
    "testing": None,
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _LAZY[name]
    if home is None:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
