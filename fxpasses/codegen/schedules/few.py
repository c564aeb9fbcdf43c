"""Products of few rows with a matrix that lies turned in memory.

To turn a copy of the matrix takes longer than to multiply a few rows with it.
Where it shows only at run time how many there are, such a kernel has two parts:
one for few rows, which reads the matrix as it lies, and what the other rules
make of it.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.elementwise import outermost
from fxpasses.codegen.schedules.expressions import elements, int_value, returning_none
from fxpasses.codegen.schedules.inline import inline
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.memory import step
from fxpasses.codegen.schedules.products import axes_of
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import few_rows

__all__ = ["DOTS", "for_few_rows", "or_else"]

DOTS = "fxpasses.dots"
"""The annotation of the loop over columns, for `fxpasses.codegen.dots`: lanes, rows and columns at a time."""


def for_few_rows(kernel: Kernel) -> Any:
    """Schedule a kernel for few rows; the condition on which they are few.

    Raises:
        NoFit: no product in it has a turned operand.
    """
    sch = kernel.sch
    _product_with_turned(kernel)
    inline(kernel)
    block, copy = _product_with_turned(kernel)
    axes = axes_of(block)
    (m,), n, k = axes.rows, axes.columns, block.rank
    lanes = block.lanes(kernel.cpu)
    rows, terms = (block.stmt.iter_vars[axis].dom.extent for axis in (m, k))
    condition = T.Analyzer().simplify(few_rows(rows, terms, lanes))
    sch.compute_inline(copy.rv)
    for other in kernel.blocks():
        if other.name != block.name:
            outermost(kernel, other)
    loops = block.loops
    others = [loops[axis] for axis in range(block.rank) if axis not in (m, n)]
    sch.reorder(*others, loops[n], loops[m], loops[k])
    kernel.parallel(kernel.fuse(others, block) if others else loops[n], elements(block.extents))
    sch.decompose_reduction(block.rv, loops[n])
    sch.annotate(loops[n], DOTS, [lanes, *_tile(kernel.cpu)])
    return condition


def _product_with_turned(kernel: Kernel) -> tuple[Block, Block]:
    """A product of single rows of both operands, and the block that turns a copy of the right one for it."""
    for block in kernel.blocks():
        if not (block.factors and block.is_plain and block.rank == len(block.vars) - 1):
            continue
        axes = axes_of(block)
        if len(axes.rows) != 1 or step(block, axes.left, block.rank) != 1:
            continue
        for copy in map(kernel.block, kernel.sch.get_producers(block.rv)):
            if copy.is_elementwise and copy.store.buffer.same_as(axes.right.source) and _turns(copy):  # type: ignore[union-attr]
                return block, copy
    raise NoFit


def _turns(copy: Block) -> bool:
    """Whether *copy* is one of a tensor that has the last two axes exchanged."""
    rank = len(copy.vars)
    if rank < 2 or not isinstance(copy.store.value, T.ir.TensorLoad):  # type: ignore[union-attr]
        return False
    order = [*range(rank - 2), rank - 1, rank - 2]
    indices = copy.loads[0].indices
    return len(indices) == rank and all(
        index.same_as(copy.vars[axis]) for index, axis in zip(indices, order, strict=True)
    )


def _tile(cpu: CpuInfo) -> list[int]:
    """Rows and columns of which the vectors of sums, and a vector of each, stay in registers."""
    return [4, 4] if cpu.registers > 16 else [2, 4]


def or_else(few: Any, condition: Any, function: Any) -> Any:
    """What *few* does where the *condition* holds, and what *function* does otherwise, on the same parameters."""
    if int_value(condition) is not None:
        return few if int_value(condition) else function
    block, realize = T.s_tir.SBlock, T.s_tir.SBlockRealize

    def part(name: str, body: Any) -> Any:
        root = body.block
        return realize([], True, block([], [], [], name, root.body, None, root.alloc_buffers))

    either = T.tirx.IfThenElse(condition, part("few", _with_own_variables(few)), part("many", function.body))
    return function.with_body(realize([], True, block([], [], [], "root", either)))


def _with_own_variables(function: Any) -> Any:
    """The body of *function* with variables, blocks and buffers that are in no other; only the parameters stay."""
    other = T.s_tir.renew_defs(function)
    pairs = list(zip(other.params, function.params, strict=True))
    for new, old in list(pairs):
        pairs += zip(_sizes(new), _sizes(old), strict=True)
    old_of = dict(pairs)
    return T.tvm_ffi.structural_map(other.body, [(T.tirx.Var, lambda var: old_of.get(var, var))])


def _sizes(parameter: Any) -> list[Any]:
    """The variables in the shape of a parameter."""
    found: list[Any] = []
    for size in getattr(parameter.ty, "shape", ()):
        T.tvm_ffi.structural_walk(size, (T.tirx.Var, returning_none(found.append)))
    return found
