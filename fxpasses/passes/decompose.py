"""`decompose_to_core_aten`: every call becomes operators of the canonical set.

What has a row in the lowering table stays whole. The rest is spelled out, by
our own rows (`fxpasses.passes.decompositions`) where the form must not depend
on strides or is asked for often, else by torch's decomposition, traced for
this one call on fake tensors and remembered for calls of the same types. Sizes
for which the trace does something else than the call are refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

from fxpasses.errors import FxpassesError
from fxpasses.functionalize import replace_fresh_mutations
from fxpasses.guards import restricted, test
from fxpasses.passes.complexes.table import complex_rows
from fxpasses.passes.decompositions.composed import composed_kernel
from fxpasses.passes.decompositions.strided import READS_STRIDES
from fxpasses.passes.decompositions.table import decompositions
from fxpasses.passes.decompositions.trial import conditions_of
from fxpasses.passes.decompositions.views import copied_view
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.schema import bind, draws_random, is_canonical_target, is_complex
from fxpasses.signature import asserted_sizes
from fxpasses.tracing import mended_operators
from fxpasses.tracing.typical_sizes import example_sizes, with_typical_sizes

__all__ = ["decompose_to_core_aten", "has_decomposition"]


def decompose_to_core_aten(program: Program) -> Program:
    """Replace calls outside the canonical operator set by what they are made of.

    An operator that has neither a lowering nor a decomposition stays; lowering
    reports it.
    """
    if not any(_needs_work(node) for node in program.nodes()):
        return program
    typical = with_typical_sizes(program)
    if typical is not program:
        with suppress(FxpassesError):  # what cannot be told for these sizes may be for those of the example
            result = _decomposed(typical)
            if _serves(result, example_sizes(program)):
                return result
    return _decomposed(program)


def _serves(program: Program, sizes: dict[Any, int]) -> bool:
    """Whether *sizes* are within the ranges and conditions of *program*."""
    within = all(program.ranges[s].lower <= size <= program.ranges[s].upper for s, size in sizes.items())
    return within and all(test(condition)(sizes) for condition in asserted_sizes(program).values())


def _decomposed(program: Program) -> Program:
    g = program.edit()
    known = _Known(program)
    pending = deque(_in_order(node for node in g.nodes() if _needs_work(node)))
    while pending:
        node = pending.popleft()
        if node._erased:
            continue
        g._new.clear()
        with g.at(node):
            value = _decompose(g, node, known)
        if value is None:
            continue
        pending.extend(new for new in g._new if not new._erased and _needs_work(new))
        g.replace(node, value)
    return restricted(g.finish(), [(str(condition), condition) for condition in known.conditions])


@dataclass
class _Known:
    """The traces of torch's decompositions, by call, and the conditions on sizes under which they hold."""

    program: Program
    traces: dict[Any, fx.GraphModule | None] = field(default_factory=dict)
    conditions: list[Any] = field(default_factory=list)


def has_decomposition(op: OpOverload) -> bool:
    """Whether a row of ours or of torch's, or its own composite kernel, spells *op* out."""
    if op in decompositions() or copied_view(op) is not None:
        return True
    return any(op in table for table in _tables_for(op)) or op._can_decompose()


def _in_order(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """First those that read strides, the last one first: nothing that their operands come from has changed."""
    nodes = list(nodes)
    first = [node for node in nodes if node.target in READS_STRIDES]
    return first[::-1] + [node for node in nodes if node.target not in READS_STRIDES]


def _needs_work(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    if target in complex_rows() and any(map(is_complex, (node, *node.all_input_nodes))):
        return False  # `expand_complex` spells it out
    return target in decompositions() or not is_canonical_target(target)


def _decompose(g: Editor, node: fx.Node, known: _Known) -> Any:
    op: OpOverload = node.target  # type: ignore[assignment]
    args, kwargs = bind(op, node.args, node.kwargs)
    row = decompositions().get(op)
    if row is not None:
        value = row(g, *args, **kwargs)
        if value is not None or is_canonical_target(op):
            return value
    view = copied_view(op)
    if view is not None:
        return g.call(view, *args, **kwargs)
    return _by_trace(g, node, op, args, kwargs, known)


# -- torch's own decompositions ------------------------------------------------------


@cache
def _tables() -> tuple[dict[OpOverload, Any], ...]:
    """Torch's decompositions of everything that is not canonical.

    First those to core ATen, then all that torch knows; some of the latter end
    in the ``prims`` namespace and are of no use here.
    """
    from torch._decomp import core_aten_decompositions, decomposition_table

    core = {op: rule for op, rule in core_aten_decompositions().items() if not is_canonical_target(op)}
    rest = {op: rule for op, rule in decomposition_table.items() if not is_canonical_target(op)}
    return core, {**rest, **core}


def _tables_for(op: OpOverload) -> tuple[dict[OpOverload, Any], ...]:
    """The tables to trace a call of *op* with."""
    kernel = composed_kernel(op)
    return _tables() if kernel is None else tuple({**table, op: kernel} for table in _tables())


def _by_trace(
    g: Editor,
    node: fx.Node,
    op: OpOverload,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    known: _Known,
) -> Any:
    if draws_random(op, args, kwargs):
        return None  # torch's decomposition would draw other numbers for the same seed
    operands: list[fx.Node] = []

    def number(arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            if arg not in operands:
                operands.append(arg)
            return _Operand(operands.index(arg))
        return arg

    args, kwargs = map_aggregate((args, kwargs), number)  # type: ignore[misc]
    vals = [operand.meta["val"] for operand in operands]
    key = (op, repr(args), repr(kwargs), tuple(_type_key(val) for val in vals))
    if key not in known.traces:
        traced = known.traces[key] = _trace(op, args, kwargs, vals)
        if traced is not None and known.program.ranges:
            known.conditions += conditions_of(known.program, _caller(op, args, kwargs), traced, vals)
    traced = known.traces[key]
    return None if traced is None else _inline(g, traced, operands)


def _trace(op: OpOverload, args: Any, kwargs: Any, vals: list[Any]) -> fx.GraphModule | None:
    # not by the table alone: some operators have a kernel of torch's in Python
    call = _caller(composed_kernel(op) or op, args, kwargs)
    for table in _tables_for(op):
        try:
            traced = _trace_with(table, call, vals)
        except Exception:  # it looks at values, or at memory: lowering reports it
            return None
        calls = traced.graph.find_nodes(op="call_function", target=op)
        if not calls and not any(_is_prim(n.target) or _mutates(n) for n in traced.graph.nodes):
            return traced
    return None


def _caller(run: Callable[..., Any], args: Any, kwargs: Any) -> Callable[..., Any]:
    """*run* as a function of its operands."""

    def call(*values: Any) -> Any:
        def value(arg: Any) -> Any:
            return values[arg.index] if isinstance(arg, _Operand) else arg

        full_args, full_kwargs = map_aggregate((args, kwargs), value)  # type: ignore[misc]
        return run(*full_args, **full_kwargs)

    return call


def _trace_with(table: dict[OpOverload, Any], call: Any, vals: list[Any]) -> fx.GraphModule:
    from torch._subclasses.functional_tensor import dispatch_functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad(), mended_operators():
        traced = make_fx(call, decomposition_table=table, tracing_mode="symbolic")(*vals)
        if any(_mutates(n) for n in traced.graph.nodes):
            replace_fresh_mutations(traced)
        if any(_mutates(n) for n in traced.graph.nodes):
            # Of the trace, since it decomposes below functionalisation.
            functional = dispatch_functionalize(traced)
            traced = make_fx(functional, decomposition_table=table, tracing_mode="symbolic")(*vals)
    return traced


def _is_prim(target: Any) -> bool:
    """Whether *target* is an operator of torch's lowest level for which we have no row."""
    return isinstance(target, OpOverload) and target.namespace == "prims" and target not in decompositions()


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _inline(g: Editor, traced: fx.GraphModule, operands: list[fx.Node]) -> Any:
    mapping: dict[fx.Node, Any] = dict(zip(traced.graph.find_nodes(op="placeholder"), operands, strict=True))
    for inner in traced.graph.nodes:
        if inner.op == "get_attr":
            mapping[inner] = g.constant(getattr(traced, inner.target), "folded")
        elif inner.op == "call_function":
            args, kwargs = map_aggregate(
                (inner.args, inner.kwargs), lambda arg: mapping[arg] if isinstance(arg, fx.Node) else arg
            )  # type: ignore[misc]
            mapping[inner] = g.call(inner.target, *args, **kwargs)
        elif inner.op == "output":
            return map_aggregate(inner.args[0], lambda arg: mapping[arg] if isinstance(arg, fx.Node) else arg)
    return None


class _Operand:
    """Stands for the operand of a traced call, so that equal calls share a trace."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"%{self.index}"


def _type_key(val: Any) -> Any:
    if isinstance(val, torch.Tensor):
        return (val.dtype, tuple(map(str, val.shape)), tuple(map(str, val.stride())))
    return str(val)
