"""Control flow: `torch.cond` as a Relax ``If`` between two functions.

A dataflow block cannot hold an ``If``, so each call of `torch.cond` gets a
function of its own, whose body is the ``If``; the caller stays one dataflow
block, and every pass sees ordinary functions::

    cond(predicate, [sizes,] *operands) = if_true([sizes,] *operands) if predicate else if_false(...)

A Relax function knows only the symbols that its parameters show. So all free
symbols of the branches go in as one shape, each of them by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.graph_modules import body_of
from fxpasses.relax import tvm_api as T
from fxpasses.relax.checks import checks_of
from fxpasses.schema import checks_values, unbound_symbols

if TYPE_CHECKING:
    from fxpasses.relax.builder import Builder, Emission

__all__ = ["CONTROL", "Choice", "compiled_bodies", "control_refusal", "declare", "has_checks"]

COND = torch.ops.higher_order.cond


@dataclass(frozen=True)
class Choice:
    """The function of one `torch.cond`.

    Attributes:
        function: its global variable.
        symbols: those whose values it takes as a shape, in order.
        checked: whether its last result is the code of the run-time checks.
    """

    function: Any
    symbols: tuple[Any, ...]
    checked: bool


def control_refusal(node: fx.Node) -> str | None:
    """Why the higher-order call *node* is not compiled; None if it is."""
    if node.target not in CONTROL:
        return "TVM has no form of this control flow"
    if not all(isinstance(val, torch.Tensor | torch.SymInt | int) for val in node.meta["val"]):
        return "a branch returns neither a tensor nor an integer"
    return None


def compiled_bodies(module: fx.GraphModule, outside: Container[fx.Node] = ()) -> Iterator[fx.GraphModule]:
    """*module*, and each control-flow body compiled with it; not those of nodes in *outside*."""
    yield module
    for node in _choices(module, outside):
        for body in _branches(node):
            yield from compiled_bodies(body, outside)


def has_checks(module: fx.GraphModule, outside: Container[fx.Node]) -> bool:
    """Whether a call that is compiled with *module* demands a check when it runs."""
    return any(
        any(checks_of(node)) or checks_values(node) or _depends_on_values(node)
        for body in compiled_bodies(module, outside)
        for node in body.graph.nodes
        if node not in outside
    )


def _depends_on_values(node: fx.Node) -> bool:
    """Whether a size or number among operands or results does, and so may be checked."""
    vals = pytree.tree_leaves([n.meta.get("val") for n in (node, *node.all_input_nodes)])
    return any(unbound_symbols(val) for val in vals)


def declare(emission: Emission, module: fx.GraphModule) -> None:
    """Emit the functions of every `torch.cond` in *module*, the innermost first."""
    for node in _choices(module, emission.outside):
        for body in _branches(node):
            declare(emission, body)
        emission.choices[node] = _declare(emission, node)


def _choices(module: fx.GraphModule, outside: Container[fx.Node]) -> Iterator[fx.Node]:
    for node in module.graph.nodes:
        if node.target in CONTROL and node not in outside and control_refusal(node) is None:
            yield node


def _branches(node: fx.Node) -> list[fx.GraphModule]:
    found = [body_of(arg) for arg in node.args[1:3]]  # type: ignore[arg-type]
    assert all(body is not None for body in found), node
    return found  # type: ignore[return-value]


def _operands(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.args[3]) if len(node.args) > 3 else ()  # type: ignore[arg-type]


def _declare(emission: Emission, node: fx.Node) -> Choice:
    from fxpasses.relax.builder import Builder

    relax, block = T.relax, emission.block
    branches = _branches(node)
    inputs = [body.graph.find_nodes(op="placeholder") for body in branches]
    free = {symbol for nodes in inputs for n in nodes for symbol in _symbols(n.meta["val"])}
    symbols = tuple(sorted(free, key=str))
    checked = emission.checks is not None and any(has_checks(body, emission.outside) for body in branches)

    def parameters(builder: Builder, nodes: list[fx.Node]) -> list[Any]:
        shape = relax.ShapeType([builder.symbols.prim(symbol) for symbol in symbols])
        made = [relax.Var("sizes", shape)] if symbols else []
        for n in nodes:
            val = n.meta["val"]
            if isinstance(val, torch.Tensor):
                builder.env[n] = relax.Var(n.name, builder.type(val))
                made.append(builder.env[n])
            else:
                builder.env[n] = builder.size(val)
        return made

    functions = []
    for name, body, nodes in zip(("if_true", "if_false"), branches, inputs, strict=True):
        builder = Builder(emission)
        given = parameters(builder, nodes)
        functions.append(builder.function(name, given, body.graph, _returned(node, body), checked=checked))
    given = parameters(Builder(emission), inputs[0])
    predicate = relax.Var("predicate", T.TensorType((), "bool"))
    with block.function("cond", [predicate, *given], private=True):
        calls = [relax.Call(function, given) for function in functions]
        function = block.emit_func_output(block.emit(relax.If(predicate, *calls)))
    return Choice(function, symbols, checked)


def _cond(b: Builder, node: fx.Node) -> list[Any]:
    """Call the function of a `torch.cond`."""
    relax = T.relax
    choice = b.emission.choices[node]
    operands = _operands(node)
    inputs = _branches(node)[0].graph.find_nodes(op="placeholder")
    values: dict[Any, Any] = {}
    for operand, inner in zip(operands, inputs, strict=True):
        _match(values, inner.meta["val"], operand.meta["val"] if isinstance(operand, fx.Node) else operand)
    sizes = [b.size(values[s]) if s in values else b.symbols.prim(s) for s in choice.symbols]
    predicate = b.truth(node.args[0])
    tensors = [
        b.env[o] for o in operands if isinstance(o, fx.Node) and isinstance(o.meta["val"], torch.Tensor)
    ]
    shape = [relax.ShapeExpr(sizes)] if choice.symbols else []
    call = b.emit(relax.Call(choice.function, [predicate, *shape, *tensors]))
    vals = [val for val in b.val if not isinstance(val, int)]
    if choice.checked:
        b.codes.append(b.emit(relax.TupleGetItem(call, len(vals))))
    results = iter([b.emit(relax.TupleGetItem(call, place)) for place in range(len(vals))])
    return [val if isinstance(val, int) else _result(b, next(results), val) for val in b.val]


def _returned(node: fx.Node, body: fx.GraphModule) -> list[Any]:
    """What a branch returns, but for the integers that are the same in both."""
    values: Any = body.graph.output_node().args[0]
    return [value for value, val in zip(values, node.meta["val"], strict=True) if not isinstance(val, int)]


def _result(b: Builder, value: Any, val: Any) -> Any:
    """A result of a branch; an integer comes as a tensor without dims."""
    if isinstance(val, torch.Tensor):
        return b.match_cast(value, val)
    b.bind_size(val, value)
    return b.size(val)


def _match(values: dict[Any, Any], inner: Any, outer: Any) -> None:
    """Note the outer size of each symbol that is by itself a dim, or the value, of an operand."""
    pairs = (
        zip(inner.shape, outer.shape, strict=True) if isinstance(inner, torch.Tensor) else [(inner, outer)]
    )
    for inside, outside in pairs:
        if isinstance(inside, torch.SymInt) and inside.node.expr.is_Symbol:
            values.setdefault(inside.node.expr, outside)


def _symbols(val: Any) -> set[Any]:
    sizes = val.shape if isinstance(val, torch.Tensor) else (val,)
    return {s for size in sizes if isinstance(size, torch.SymInt) for s in size.node.expr.free_symbols}


CONTROL: dict[Any, Callable[[Builder, fx.Node], Any]] = {COND: _cond}
"""The higher-order operators that are compiled, and what emits a call of each."""
