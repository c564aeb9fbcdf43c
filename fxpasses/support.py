"""What becomes of each operator: the road that it takes to TVM, or why it has none.

`route` answers for one overload from the tables themselves. That no core
overload of the installed torch is without an answer is a test, so that a new
release of torch fails it instead of drifting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import torch
from torch._ops import OpOverload

from fxpasses.passes.complexes.table import complex_rows
from fxpasses.passes.decompose import has_decomposition
from fxpasses.passes.decompositions.table import decompositions
from fxpasses.relax.table import lowerings
from fxpasses.schema import is_canonical_target

__all__ = ["FAILURES", "ISLANDS", "OUTCOMES", "SIZES", "Route", "matrix", "route"]

aten = torch.ops.aten

Kind = Literal["lowered", "decomposed", "size", "island", "none"]


@dataclass(frozen=True)
class Route:
    """Where an operator goes.

    `kind` is ``lowered`` (a row of the lowering table), ``decomposed`` (spelled
    with others by our own or torch's decomposition), ``size`` (a number that is
    computed from shapes or read from a tensor), ``island`` (runs in PyTorch, for the *reason* given),
    or ``none``.
    """

    kind: Kind
    reason: str = ""

    @property
    def native(self) -> bool:
        """Whether no PyTorch is needed to run it."""
        return self.kind in ("lowered", "decomposed", "size")


SIZES = frozenset(
    {
        aten.sym_size.int,
        aten.sym_numel.default,
        aten.sym_stride.int,
        aten.sym_storage_offset.default,
        aten.sym_is_contiguous.default,
        aten._local_scalar_dense.default,
    }
)
"""Operators that ask for a number: of a tensor's layout, or its one element. It is their ``meta["val"]``."""

_RANDOM = "it draws from PyTorch's generator, so that seeds mean what they mean there"

ISLANDS: dict[OpOverload, str] = {
    aten.rand.default: _RANDOM,
    aten.randn.default: _RANDOM,
    aten.randperm.default: _RANDOM,
}
"""Core overloads that are left to PyTorch on purpose. A row of the lowering table goes before."""


def route(op: OpOverload) -> Route:
    """The road that *op* takes."""
    if op in lowerings():
        return Route("lowered")
    if op in SIZES:
        return Route("size")
    if op in decompositions() or op in complex_rows():
        return Route("decomposed")
    if not is_canonical_target(op) and has_decomposition(op):
        return Route("decomposed")
    if op in ISLANDS:
        return Route("island", ISLANDS[op])
    return Route("none")


OUTCOMES = {
    "exact": "equal to eager bit for bit",
    "close": "within the tolerance that the computation itself has",
    "island": "runs in PyTorch inside the compiled program",
    "raises": "an error, where eager PyTorch raises one",
    "undefined": "uninitialised, random, or an edge at which PyTorch does not agree with itself",
    "refused": "a clear error before anything runs",
}
"""What the sweep over PyTorch's operator samples can say of a call."""

FAILURES = {
    "wrong": "another value, dtype or shape, without a word",
    "error": "an error that does not say what is not supported",
    "crash": "the end of the process",
}
"""What it can say besides; the sweep writes no matrix with one of these for fxpasses."""


@cache
def matrix() -> Mapping[str, Any]:
    """The support matrix: what the last sweep found, as data.

    ``matrix()["calls"]["aten.add.Tensor"]["float32"]`` counts the measured calls
    by outcome (see `OUTCOMES`), ``matrix()["reasons"]`` has the reasons of islands
    and refusals by overload, ``matrix()["torch"]`` the release that it is about.
    ``matrix()["systems"]`` counts the outcomes of fxpasses and of TVM's own importer
    (``tvm``) on the same units of samples, failures included (see `FAILURES`).
    """
    text = resources.files("fxpasses").joinpath("support.json").read_text()
    return json.loads(text)
