"""`SizeNodes`: the nodes of a graph that compute symbolic sizes, made when they are asked for."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxpasses.errors import FxpassesError
from fxpasses.tracing.fake_values import fake_value

if TYPE_CHECKING:
    import sympy

__all__ = ["SizeNodes"]


class SizeNodes:
    """Computes sizes from the shapes of the inputs, and from values that depend on data; each one once."""

    def __init__(self, fake_mode: Any) -> None:
        self.fake_mode = fake_mode
        self._made: dict[tuple[fx.Graph, Any], fx.Node] = {}
        self._sources: dict[fx.Graph, dict[Any, tuple[fx.Node, int | None]]] = {}

    def node(self, graph: fx.Graph, expr: sympy.Expr) -> fx.Node:
        """The node of *graph* that computes *expr*.

        Raises:
            FxpassesError: a symbol of it is the shape of no input.
        """
        known = self._made.get((graph, expr))
        if known is not None and not known._erased:
            return known
        sources = self._sources_of(graph)
        if expr.is_Symbol and expr in sources:
            source, dim = sources[expr]
            if dim is None:
                return source
            node = self._sym_size(source, dim)
        elif expr.is_Symbol:
            node = self._solved(graph, expr)
        else:
            node = self._arithmetic(graph, expr)
        self._made[graph, expr] = node
        return node

    def _sym_size(self, source: fx.Node, dim: int) -> fx.Node:
        place = source.next
        while place.op == "placeholder":
            place = place.next
        with source.graph.inserting_before(place):
            node = source.graph.call_function(torch.ops.aten.sym_size.int, (source, dim))
        node.meta["val"] = source.meta["val"].shape[dim]
        return node

    def _solved(self, graph: fx.Graph, symbol: sympy.Expr) -> fx.Node:
        """A symbol that is no dim itself, from a dim such as ``2*s0`` or ``s0 + 1``."""
        for source in graph.find_nodes(op="placeholder"):
            val = source.meta.get("val")
            for dim, size in enumerate(val.shape if isinstance(val, torch.Tensor) else ()):
                if not isinstance(size, torch.SymInt) or size.node.expr.free_symbols != {symbol}:
                    continue
                slope = size.node.expr.diff(symbol)
                if not slope.is_Integer:
                    continue
                node = self._sym_size(source, dim)
                offset = int(size.node.expr.subs(symbol, 0))
                for function, number, neutral in (
                    (operator.sub, offset, 0),
                    (operator.floordiv, int(slope), 1),
                ):
                    if number != neutral:
                        with graph.inserting_after(node):
                            node = graph.call_function(function, (node, number))
                        node.meta["val"] = fake_value(self.fake_mode, node)
                return node
        raise FxpassesError(f"the size {symbol} is the shape of no input of the graph")

    def _arithmetic(self, graph: fx.Graph, expr: sympy.Expr) -> fx.Node:
        from torch.utils._sympy.interp import sympy_interp

        symbols = sorted(expr.free_symbols, key=str)
        nodes = {symbol: self.node(graph, symbol) for symbol in symbols}
        # After the last operand, so that every later node may use the result.
        place = max(nodes.values()).next
        while place.op == "placeholder":
            place = place.next
        previous = place.prev
        tracer = fx.proxy.GraphAppendingTracer(graph)
        proxies: dict[Any, Any] = {s: fx.Proxy(n, tracer) for s, n in nodes.items()}
        with graph.inserting_before(place):
            result = sympy_interp(_proxy_arithmetic(), proxies, expr)
        node = previous.next
        while node is not place:
            node.meta["val"] = fake_value(self.fake_mode, node)
            node = node.next
        return result.node

    def _sources_of(self, graph: fx.Graph) -> dict[Any, tuple[fx.Node, int | None]]:
        from torch.utils._sympy.symbol import SymT, symbol_is_type

        read = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)
        if graph not in self._sources:
            sources: dict[Any, tuple[fx.Node, int | None]] = {}
            for node in graph.nodes:
                val = node.meta.get("val")
                is_tensor = isinstance(val, torch.Tensor)
                for dim, size in enumerate(val.shape if is_tensor else (val,)):
                    if not isinstance(size, torch.SymInt | torch.SymFloat) or not size.node.expr.is_Symbol:
                        continue
                    # A computed value may itself need the size; only what depends on data starts there.
                    if node.op == "placeholder" or symbol_is_type(size.node.expr, read):
                        sources.setdefault(size.node.expr, (node, dim if is_tensor else None))
            self._sources[graph] = sources
        return self._sources[graph]


@cache
def _proxy_arithmetic() -> Any:
    """How an expression of sizes is spelled on proxies; `math` and true division look at numbers, not at those."""
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    class ProxyArithmetic(PythonReferenceAnalysis):  # type: ignore[misc]
        @staticmethod
        def int_truediv(a: Any, b: Any) -> Any:
            return a / b

        @staticmethod
        def floor_to_int(x: Any, dtype: Any) -> Any:
            return _on_proxy(math.floor, x)

        @staticmethod
        def ceil_to_int(x: Any, dtype: Any) -> Any:
            return _on_proxy(math.ceil, x)

        @staticmethod
        def trunc_to_int(x: Any, dtype: Any) -> Any:
            return _on_proxy(math.trunc, x)

        @staticmethod
        def round_to_int(a: Any, dtype: Any) -> Any:
            return _on_proxy(round, a)

    return ProxyArithmetic


def _on_proxy(function: Callable[..., Any], x: Any) -> Any:
    return x.tracer.create_proxy("call_function", function, (x,), {})
