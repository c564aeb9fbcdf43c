"""Pad the summed axis of reductions to whole vectors.

A split of an axis that it does not divide needs a condition, and the schedule
primitive `compute_at` loses the condition of a block that `rfactor` made (TVM
0.27; the result is wrong, without a message). So the condition is put into the
sum beforehand: past the end, the value that changes nothing is added.
"""

from __future__ import annotations

from typing import Any

from fxpasses.relax import tvm_api as T

__all__ = ["pad_summed_axes"]


def pad_summed_axes(function: Any, sizes: dict[str, int]) -> Any:
    """*function* with the one summed axis of each block in *sizes* padded to a multiple of a size.

    The axis must be the innermost loop, and the block a `BufferStore` of a
    combination of the accumulator and a term.
    """

    def pad(loop: Any) -> Any:
        realize = loop.body
        if not isinstance(realize, T.s_tir.SBlockRealize) or realize.block.name_hint not in sizes:
            return loop
        return _padded(loop, sizes[realize.block.name_hint])

    return T.tvm_ffi.structural_map(function, [(T.tirx.For, pad)])


def _padded(loop: Any, size: int) -> Any:
    tirx = T.tirx
    realize, block = loop.body, loop.body.block
    *others, axis = block.iter_vars
    step = tirx.IntImm(str(loop.loop_var.ty.dtype), size)
    extent = T.Analyzer().simplify(tirx.floordiv(loop.extent + (step - 1), step) * step)
    inside = axis.var < axis.dom.extent
    store = block.body
    value = store.value
    neutral = block.init.value

    def guarded(term: Any) -> Any:
        return tirx.if_then_else(tirx.likely(inside), term, neutral)

    left = isinstance(value.a, T.ir.TensorLoad) and value.a.source.same_as(store.buffer)
    a, b = (value.a, guarded(value.b)) if left else (guarded(value.a), value.b)
    padded = T.s_tir.SBlock(
        [*others, tirx.IterVar(T.ir.Range(0, extent), axis.var, axis.iter_type)],
        block.reads,
        block.writes,
        block.name_hint,
        tirx.BufferStore(store.buffer, type(value)(a, b), store.indices),
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
    realize = T.s_tir.SBlockRealize(realize.iter_values, realize.predicate, padded)
    return tirx.For(loop.loop_var, loop.min, extent, loop.kind, realize, annotations=loop.annotations)
