"""`expand_complex`: complex numbers become pairs of real ones.

TVM has no complex dtypes. Each complex value is computed as a real tensor with
a last dim of two, by the rows of `fxpasses.passes.complexes`. What is left of
complex numbers are `view_as_real` of the program's complex inputs,
`view_as_complex` of its complex outputs, and calls that no row covers, between
two such views.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

from fxpasses.errors import FxpassesError, UnsupportedOperatorError
from fxpasses.passes.complexes.table import Pair, complex_rows
from fxpasses.passes.decompositions.values import full
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.schema import bind, is_complex
from fxpasses.tracing.fake_values import same_size

__all__ = ["expand_complex"]

aten = torch.ops.aten

_VIEWS = (aten.view_as_real.default, aten.view_as_complex.default)


def expand_complex(program: Program) -> Program:
    """Spell operators on complex numbers with operators on their parts."""
    if not any(is_complex(node) and node.target not in _VIEWS for node in program.graph.nodes):
        return program
    g = program.edit()
    pairs: dict[fx.Node, Pair] = {}
    stayed: list[fx.Node] = []
    for node in list(g.graph.nodes):
        if node.op != "call_function" or node._erased:
            continue
        if not is_complex(node) and not any(map(is_complex, node.all_input_nodes)):
            continue
        with g.at(node):
            value = _expand(g, node, pairs)
            if value is None:
                if node.target not in _VIEWS:
                    _stay(g, node, pairs)
                    stayed.append(node)
            elif isinstance(value, Pair):
                pairs[node] = value
            elif value is not node:
                g.replace(node, value)
    _finish_outputs(g, pairs, stayed)
    for node in reversed(pairs):
        if not node._erased and not node.users and node.op == "call_function":
            g.erase(node)
    return g.finish()


def _expand(g: Editor, node: fx.Node, pairs: dict[fx.Node, Pair]) -> Any:
    """What the row of a call gives; None where there is none, or it does not cover the call."""
    row = complex_rows().get(node.target)  # type: ignore[call-overload]
    if row is None or not isinstance(node.target, OpOverload):
        return None

    def operand(arg: Any) -> Any:
        if is_complex(arg):
            return _pair_of(g, arg, pairs)
        val = arg.meta["val"] if isinstance(arg, fx.Node) else None
        if isinstance(val, torch.Tensor) and val.dtype == torch.bfloat16:
            return g.call(aten._to_copy.default, arg, dtype=torch.float32)  # no complex number has such parts
        return arg

    args, kwargs = bind(node.target, node.args, node.kwargs)
    if node.target is aten.view_as_real.default and not isinstance(args[0], Pair):
        known = pairs.get(args[0])  # type: ignore[arg-type]
        return node if known is None else known.node
    slots = [slot.name for slot in node.target._schema.arguments]
    args = tuple(_with_tensor(g, node, name, arg) for name, arg in zip(slots, args, strict=False))
    kwargs = {name: _with_tensor(g, node, name, arg) for name, arg in kwargs.items()}
    args, kwargs = map_aggregate((args, kwargs), operand)  # type: ignore[misc]
    try:
        value = row(g, *args, **kwargs)
    except UnsupportedOperatorError:
        return None
    if isinstance(value, Pair):
        val = node.meta["val"]
        if value.val.dtype != val.dtype.to_real() or not all(map(same_size, value.shape, val.shape)):
            raise FxpassesError(f"{node.name}: {val} was expanded to {value.val}")
    return value


def _with_tensor(g: Editor, node: fx.Node, slot: str, arg: Any) -> Any:
    """A number that is a size, or is read from a tensor, as a real tensor where the call computes with it."""
    val = arg.meta["val"] if isinstance(arg, fx.Node) else None
    if slot not in _COMPUTED or not isinstance(val, torch.SymInt | torch.SymFloat | torch.SymBool):
        return arg
    like = next(operand for operand in node.all_input_nodes if is_complex(operand))
    return full(g, [], arg, like.meta["val"].dtype.to_real())


_COMPUTED = frozenset({"self", "other", "alpha", "beta"})
"""Names of arguments that are computed with, be they tensors or numbers."""


def _pair_of(g: Editor, node: fx.Node, pairs: dict[fx.Node, Pair]) -> Pair:
    """The pair of a complex node; one that comes from elsewhere is viewed right after it."""
    if node not in pairs:
        after = node.next
        while after.op == "placeholder":
            after = after.next
        with g.at(after):
            plain = node if not node.meta["val"].is_conj() else g.call(aten.resolve_conj.default, node)
            pairs[node] = Pair(g.call(aten.view_as_real.default, plain))
    return pairs[node]


def _complex_of(g: Editor, pair: Pair) -> fx.Node:
    """The complex value of a pair; canonical values have no strides, so the last one may be any here."""
    node = pair.node
    if node.meta["val"].stride(-1) != 1:
        node = g.call(aten.reshape.default, g.call(aten.flatten.using_ints, node), pair.val.shape)
    return g.call(aten.view_as_complex.default, node)


def _stay(g: Editor, node: fx.Node, pairs: dict[fx.Node, Pair]) -> None:
    """Leave a call as it is, on complex operands made of their pairs."""
    for operand in node.all_input_nodes:
        if is_complex(operand) and isinstance(operand.meta["val"], torch.Tensor):
            _pair_of(g, operand, pairs)
            node.replace_input_with(operand, _complex_of(g, pairs[operand]))


def _finish_outputs(g: Editor, pairs: dict[fx.Node, Pair], stayed: list[fx.Node]) -> None:
    output = g.graph.output_node()
    for node in stayed:
        if output in node.users and isinstance(node.meta["val"], torch.Tensor) and is_complex(node):
            _pair_of(g, node, pairs)
    with g.at(output):
        for operand in output.all_input_nodes:
            if operand in pairs and operand.op == "call_function":
                output.replace_input_with(operand, _complex_of(g, pairs[operand]))
