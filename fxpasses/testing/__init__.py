"""What users import to test passes: random programs, comparison, bisection.

`programs` and `inputs_for` need hypothesis; everything else works without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxpasses.testing.divergence import Divergence as Divergence
    from fxpasses.testing.divergence import first_divergence as first_divergence
    from fxpasses.testing.equivalence import assert_equivalent as assert_equivalent
    from fxpasses.testing.equivalence import compare_each as compare_each
    from fxpasses.testing.single import single_op_program as single_op_program
    from fxpasses.testing.strategies import inputs_for as inputs_for
    from fxpasses.testing.strategies import programs as programs
    from fxpasses.testing.values import sample_inputs as sample_inputs

__all__ = [
    "Divergence",
    "assert_equivalent",
    "compare_each",
    "first_divergence",
    "inputs_for",
    "programs",
    "sample_inputs",
    "single_op_program",
]

_HOMES = {
    "Divergence": "divergence",
    "assert_equivalent": "equivalence",
    "compare_each": "equivalence",
    "first_divergence": "divergence",
    "inputs_for": "strategies",
    "programs": "strategies",
    "sample_inputs": "values",
    "single_op_program": "single",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ImportError(
            f"fxpasses.testing.{name} needs hypothesis, which is not installed: "
            "pip install 'fxpasses[testing]'",
            name="hypothesis",
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
