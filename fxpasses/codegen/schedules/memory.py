"""How the accesses of a block run through memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import int_value, same
from fxpasses.relax import tvm_api as T

__all__ = ["innermost", "step", "stretch"]


def innermost(load: Any) -> list[Any]:
    """The index of the last dim of more than one element; none where there is no such dim."""
    found = [i for i, size in zip(load.indices, load.source.shape, strict=True) if int_value(size) != 1]
    return found[-1:]


def step(block: Block, load: Any, axis: int) -> int | None:
    """How many elements lie between what *load* reads for two neighbours along *axis*; None where it is unknown."""

    def moved(var: Any) -> Any:
        return var + 1 if var.same_as(block.vars[axis]) else var

    count: Any = 0
    for index, size in zip(load.indices, load.source.shape, strict=True):
        difference = T.tvm_ffi.structural_map(index, [(T.tirx.Var, moved)]) - index
        count = count * size + difference
    return int_value(T.Analyzer().simplify(count))


def stretch(block: Block, axes: Sequence[int]) -> int:
    """How many of the last *axes* all operands run through as one stretch of memory, or not at all."""
    assert block.store is not None
    accesses = [(load.source, load.indices) for load in block.loads]
    accesses.append((block.store.buffer, block.store.indices))
    count = 1
    while count < len(axes) and all(
        _is_stretch(block, buffer, indices, axes[-count - 1 :]) for buffer, indices in accesses
    ):
        count += 1
    return count


def _is_stretch(block: Block, buffer: Any, indices: Any, axes: Sequence[int]) -> bool:
    if not block.uses(indices) & set(axes):
        return True
    if len(indices) < len(axes):
        return False
    tail = list(zip(indices, buffer.shape, strict=True))[-len(axes) :]
    whole = all(
        index.same_as(block.vars[axis]) and same(size, block.stmt.iter_vars[axis].dom.extent)
        for (index, size), axis in zip(tail, axes, strict=True)
    )
    return whole and not block.uses(indices[: len(indices) - len(axes)]) & set(axes)
