"""Results of a graph lie in memory as those of eager PyTorch do.

A compiled program gives contiguous results. Behind a graph break, code may ask for
strides, or read memory by them (``as_strided``). So the program gives a result that is
not contiguous in eager PyTorch with its dims in the order of memory, and a view turns
them back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fxpasses.tracing.fake_values import same_size

__all__ = ["in_memory_order"]

Turn = Callable[[Sequence[Any]], Sequence[Any]]


def in_memory_order(module: fx.GraphModule, visible: slice) -> tuple[fx.GraphModule, Turn | None]:
    """*module* with contiguous results, and the function that makes of them what it gave before.

    The function is None where all of the *visible* results are contiguous. One whose
    elements overlap, or leave gaps, stays as it is.
    """
    output = module.graph.output_node()
    results: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    orders = {place: _order(results[place]) for place in range(len(results))[visible]}
    turned = {place: order for place, order in orders.items() if order is not None}
    if not turned:
        return module, None
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copies)
    given = [copies[result] if isinstance(result, fx.Node) else result for result in results]
    for place, order in turned.items():
        val = results[place].meta["val"]
        given[place] = graph.call_function(torch.ops.aten.permute.default, (given[place], order))
        given[place].meta.update(results[place].meta, val=val.permute(order))
    graph.output(tuple(given))
    back = {place: sorted(order, key=order.__getitem__) for place, order in turned.items()}

    def turn(values: Sequence[Any]) -> Sequence[Any]:
        return [value.permute(back[place]) if place in back else value for place, value in enumerate(values)]

    return fx.GraphModule(module, graph), turn


def _order(result: Any) -> list[int] | None:
    """The dims of *result* as they follow each other in memory; None where that is their own order."""
    is_computed = isinstance(result, fx.Node) and result.op == "call_function"
    val = result.meta.get("val") if is_computed else None
    if not isinstance(val, torch.Tensor) or val.layout != torch.strided:
        return None
    single = [dim for dim, size in enumerate(val.shape) if same_size(size, 1)]
    dims = [dim for dim in range(val.dim()) if dim not in single]
    order = sorted(dims, key=lambda dim: (-_hint(val.stride(dim)), dim))
    if order == dims or not _is_dense([(val.shape[dim], val.stride(dim)) for dim in order]):
        return None
    return single + order


def _is_dense(dims: Sequence[tuple[Any, Any]]) -> bool:
    """Whether dims of these sizes and strides, from the outermost, hold elements without gaps."""
    expected: Any = 1
    for size, step in reversed(dims):
        if not same_size(step, expected):
            return False
        expected = expected * size
    return True


def _hint(size: int | torch.SymInt) -> int:
    """The size in the example; nothing is assumed of others, since `_is_dense` holds for all."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else 0
