"""`eliminate_common_subexpressions`: equal pure calls become one."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxpasses.graph_modules import body_of, graph_modules
from fxpasses.program import Program
from fxpasses.schema import is_data_dependent, is_pure, unbound_symbols

__all__ = ["call_key", "eliminate_common_subexpressions"]


def eliminate_common_subexpressions(program: Program) -> Program:
    """Merge calls of one pure operator with the same arguments; random and data-dependent calls stay apart.

    So do calls whose shapes have names of their own for what only a run tells (the length of a slice from
    one value to another): a check that these are equal would be lost.
    """
    g = program.edit()
    for module in graph_modules(g.graph_module):
        first: dict[Any, fx.Node] = {}
        for node in list(module.graph.nodes):
            key = call_key(node)
            if key is None:
                continue
            twin = first.setdefault(key, node)
            if twin is not node:
                node.replace_all_uses_with(twin)
                module.graph.erase_node(node)
    return g.finish()


def call_key(node: fx.Node) -> Any:
    """What two calls must share to be equal; None for a node that is merged with nothing."""
    if node.op == "get_attr":
        body = body_of(node)
        return ("body", id(body)) if body is not None else None
    if not is_pure(node) or is_data_dependent(node.target):
        return None
    sizes = frozenset(unbound_symbols(node.meta.get("val")))
    return (node.target, _hashable(node.args), _hashable(node.kwargs), sizes)


def _hashable(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_hashable, value))
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, slice):
        return ("slice", _hashable(value.start), _hashable(value.stop), _hashable(value.step))
    if isinstance(value, float):
        return ("float", value.hex())  # -0.0 and 0.0 differ, NaN equals itself
    return (type(value).__name__, value) if isinstance(value, int) else value
