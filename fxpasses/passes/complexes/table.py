"""The table of operators on complex numbers, and the small calls its rows are made of.

A row is a function shaped like the operator's schema, after the editor ``g``.
A complex operand arrives as a `Pair`; a row returns a `Pair`, or a node where
the result is real, or None to leave the call as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.operator_table import OperatorTable
from fxpasses.passes.decompositions.values import full
from fxpasses.rewrite import Editor
from fxpasses.tracing.fake_values import broadcast_sizes

__all__ = ["Pair", "complex_row", "complex_rows", "on_parts", "pair", "part", "parts"]

aten = torch.ops.aten

_TABLE = OperatorTable("rule for complex numbers", "fxpasses.passes.complexes")
complex_row = _TABLE.row
complex_rows = _TABLE.rows


@dataclass(frozen=True)
class Pair:
    """A complex value: a real node whose last dim holds the real and the imaginary part.

    Attributes:
        node: the pairs.
        real: the real parts, where all imaginary parts are known to be 0.
    """

    node: fx.Node
    real: fx.Node | None = None

    @property
    def val(self) -> torch.Tensor:
        """The fake tensor of the node."""
        return self.node.meta["val"]

    @property
    def rank(self) -> int:
        """The rank of the complex value."""
        return self.val.dim() - 1

    @property
    def shape(self) -> list[Any]:
        """The shape of the complex value."""
        return list(self.val.shape[:-1])


def part(g: Editor, value: Any, index: int) -> Any:
    """The real (0) or imaginary (1) part of an operand; a real one has the imaginary part 0.

    Numbers stay numbers.
    """
    if isinstance(value, Pair):
        return g.call(aten.select.int, value.node, value.rank, index)
    if isinstance(value, fx.Node):
        val = value.meta["val"]
        return value if index == 0 else full(g, [], 0, val.dtype)
    return complex(value).real if index == 0 else complex(value).imag


def parts(g: Editor, value: Any) -> tuple[Any, Any]:
    """Both parts of an operand."""
    return part(g, value, 0), part(g, value, 1)


def pair(g: Editor, real: fx.Node, imaginary: fx.Node) -> Pair:
    """The complex value of two real ones, which are broadcast and promoted."""
    dtype = torch.promote_types(real.meta["val"].dtype, imaginary.meta["val"].dtype)
    shape = broadcast_sizes(real.meta["val"].shape, imaginary.meta["val"].shape)
    columns = []
    for value in (real, imaginary):
        if value.meta["val"].dtype != dtype:
            value = g.call(aten._to_copy.default, value, dtype=dtype)
        value = g.call(aten.expand.default, value, shape)
        columns.append(g.call(aten.unsqueeze.default, value, len(shape)))
    return Pair(g.call(aten.cat.default, columns, len(shape)))


def on_parts(g: Editor, op: OpOverload, value: Any, *args: Any, **kwargs: Any) -> Any:
    """A call that moves elements, on the pairs at once."""
    return Pair(g.call(op, value.node, *args, **kwargs))
