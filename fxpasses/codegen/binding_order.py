"""`order_bindings`: each binding of a program behind those that it uses, sizes included.

TVM's fusion puts a fused kernel where the first of its parts was, and all that
it needs before it. It looks at variables there and not at the sizes in shapes,
so that a check of a size can end up in front of the place where the size,
which depends on values, gets its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import TopologicalSorter
from heapq import heapify, heappop, heappush
from typing import Any

from fxpasses.relax import tvm_api as T

__all__ = ["order_bindings"]


def order_bindings() -> Any:
    """The pass, behind fusion. What stands behind all that it uses stays where it is."""

    def run(mod: Any, _context: Any) -> Any:
        for var, function in mod.functions_items():
            if isinstance(function, T.relax.Function) and isinstance(function.body, T.relax.SeqExpr):
                mod.update_func(var, _with_order(function))
        return mod

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.order_bindings")


def _with_order(function: Any) -> Any:
    relax, blocks = T.relax, list(function.body.blocks)
    known = {size for parameter in function.params for size in _sizes_in(parameter.ty)}
    ordered = [_ordered(block, known) for block in blocks]
    if all(new is old for new, old in zip(ordered, blocks, strict=True)):
        return function
    body = relax.SeqExpr(ordered, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _ordered(block: Any, known: set[Any]) -> Any:
    """*block* in order; the sizes that it gives a value are added to those *known*."""
    bindings = list(block.bindings)
    if not any(isinstance(binding, T.relax.MatchCast) for binding in bindings):
        return block
    places: dict[Any, int] = {}
    for place, binding in enumerate(bindings):
        places[binding.var] = place
        if isinstance(binding, T.relax.MatchCast):
            places.update((size, place) for size in _sizes_in(binding.ty) if size not in known)
            known.update(_sizes_in(binding.ty))
    before = {
        place: {places[used] for used in _used(binding) if used in places} - {place}
        for place, binding in enumerate(bindings)
    }
    if all(place > max(used, default=-1) for place, used in before.items()):
        return block
    sorter = TopologicalSorter(before)
    sorter.prepare()
    ready, order = list(sorter.get_ready()), []
    heapify(ready)
    while ready:
        place = heappop(ready)
        order.append(bindings[place])
        sorter.done(place)
        for free in sorter.get_ready():
            heappush(ready, free)
    return type(block)(order)


def _sizes_in(type: Any) -> Iterable[Any]:
    """The variables that a value of *type* tells."""
    return T.relax.analysis.definable_tir_vars_in_type(type)


def _used(binding: Any) -> set[Any]:
    """The variables and the sizes in the value of *binding* and in its type."""
    analysis, value = T.relax.analysis, binding.value
    return {
        *analysis.all_vars(value),
        *analysis.free_symbolic_vars(value),
        *analysis.tir_vars_in_type(binding.var.ty),
    }
