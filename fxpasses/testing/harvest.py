"""`harvest`: what a grown program returns and mutates, and its graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.graph_modules import make_graph_module
from fxpasses.program import Input, Output, Program
from fxpasses.testing.drawers import Reject
from fxpasses.testing.growth import Call, Growth, Leaf, Value, map_items, parts

__all__ = ["harvest"]


def harvest(growth: Growth, *, mutation: bool) -> Program:
    """Choose outputs and mutations, drop what they do not need, and build the graph."""
    mutations = _mutations(growth) if mutation else []
    returned = _returned(growth)
    structure = _structure(growth, returned)
    return _build(growth, mutations, returned, structure)


def _mutations(growth: Growth) -> list[tuple[Leaf, Value]]:
    """Some buffers and user inputs, each with its new value."""
    pairs: list[tuple[Leaf, Value]] = []
    leaves = [v for v in growth.values if isinstance(v.source, Leaf) and v.source not in growth.pinned]
    for old in leaves[:4]:
        leaf = old.source
        assert isinstance(leaf, Leaf)
        likely = {"buffer": 5, "user": 1}.get(leaf.kind, 0)
        if growth.integer(0, 9) < 10 - likely:
            continue
        fitting = [
            v
            for v in reversed(growth.values)
            if isinstance(v.source, Call) and v.dtype == old.dtype and _shapes(v) == _shapes(old)
        ]
        at = growth.integer(0, len(fitting))
        try:
            pairs.append((leaf, fitting[at] if at < len(fitting) else _next(growth, old)))
        except Reject:
            continue
    return pairs


def _next(growth: Growth, old: Value) -> Value:
    """A new value of the type of *old*, as a counter has it."""
    if old.dtype == torch.bool:
        return growth.call(torch.ops.aten.logical_not.default, old)
    return growth.call(torch.ops.aten.add.Tensor, old, 1)


def _returned(growth: Growth) -> list[Any]:
    """Values, None and numbers."""
    computed = [v for v in growth.values if isinstance(v.source, Call)]
    style = growth.choose(("one", "ends", "ends", "ends", "some"))
    one = growth.integer(0, max(len(computed) - 1, 0))
    if not computed:
        return [growth.values[0]] if growth.values else [growth.like(growth.dtypes[0], (2,))]
    used = {part for call in growth.calls for part in parts(call)}
    if style == "one":
        returned: list[Any] = [list(reversed(computed))[one]]
    elif style == "ends":
        returned = [v for v in computed if v not in used] or computed[-1:]
    else:
        returned = [computed[growth.integer(0, len(computed) - 1)] for _ in range(growth.integer(1, 3))]
    extra = growth.integer(0, 15)
    if extra > 11:
        returned.append((None, 3, growth.values[0], returned[0])[extra - 12])
    return returned


def _structure(growth: Growth, returned: list[Any]) -> Any:
    style = growth.choose(("tuple", "tuple", "dict", "nested"))
    if len(returned) == 1 and style == "tuple":
        return returned[0] if growth.flag() else tuple(returned)
    if style == "dict":
        return {f"y{i}": value for i, value in enumerate(returned)}
    if style == "nested":
        return [returned[0], {"rest": tuple(returned[1:])}]
    return tuple(returned)


def _needed(roots: Iterable[Leaf | Call]) -> set[Leaf | Call]:
    """The roots, and all that they are computed from."""
    needed: set[Leaf | Call] = set()
    pending = list(roots)
    while pending:
        source = pending.pop()
        if source not in needed:
            needed.add(source)
            if isinstance(source, Call):
                pending += [item.source if isinstance(item, Value) else item for item in parts(source)]
    return needed


_KINDS = ("param", "buffer", "constant", "user")
"""The order of placeholders that torch.export gives."""


def _build(
    growth: Growth, mutations: list[tuple[Leaf, Value]], returned: list[Any], structure: Any
) -> Program:
    roots = [new.source for _, new in mutations] + [v.source for v in returned if isinstance(v, Value)]
    needed = _needed([*roots, *(leaf for leaf, _ in mutations)])
    graph = fx.Graph()
    nodes: dict[Leaf | Call, fx.Node] = {}
    fakes = {value.source: value.val for value in growth.values}
    leaves = [leaf for leaf in growth.leaves if leaf in needed]
    leaves.sort(key=lambda leaf: _KINDS.index(leaf.kind))
    for leaf in leaves:
        node = graph.placeholder(leaf.name if leaf.kind == "user" else f"p_{leaf.name}")
        node.meta["role"] = Input(leaf.kind, leaf.name)  # type: ignore[arg-type]
        node.meta["val"] = fakes[leaf]
        nodes[leaf] = node

    def node_of(item: Any) -> Any:
        if isinstance(item, Value):
            return nodes[item.source]
        return nodes[item] if isinstance(item, Call) else item

    for call in growth.calls:
        if call in needed:
            nodes[call] = graph.call_function(call.op, *map_items((call.args, call.kwargs), node_of))
            nodes[call].meta["val"] = call.val
    # As torch.export orders them: buffers, then inputs, then what the user gets.
    mutations = sorted(mutations, key=lambda pair: pair[0].kind != "buffer")
    results, out_spec = pytree.tree_flatten(structure)
    output = graph.output(tuple(node_of(item) for item in [*(new for _, new in mutations), *results]))
    output.meta["roles"] = tuple(
        [Output("buffer_mutation" if o.kind == "buffer" else "input_mutation", o.name) for o, _ in mutations]
        + [Output("user")] * len(results)
    )
    return Program(
        graph_module=make_graph_module(graph, {}),
        tensors={leaf.name: _tensor(leaf) for leaf in leaves if leaf.kind != "user"},
        in_spec=pytree.tree_structure((tuple(leaf.tensor for leaf in leaves if leaf.kind == "user"), {})),
        out_spec=out_spec,
        ranges={symbol: growth.shape_env.var_to_range[symbol] for symbol in _symbols(leaves, fakes)},
    )


def _symbols(leaves: Iterable[Leaf], fakes: Mapping[Leaf | Call, torch.Tensor]) -> list[Any]:
    """The symbols of the sizes of *leaves*."""
    sizes = [size for leaf in leaves for size in fakes[leaf].shape if isinstance(size, torch.SymInt)]
    return list(dict.fromkeys(symbol for size in sizes for symbol in size.node.expr.free_symbols))


def _tensor(leaf: Leaf) -> torch.Tensor:
    return torch.nn.Parameter(leaf.tensor) if leaf.kind == "param" else leaf.tensor


def _shapes(value: Value) -> list[torch.Size]:
    """At the sizes of the sample, and at the others."""
    return [value.shape, *(other.shape for other in value.resized)]
