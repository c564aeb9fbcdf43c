"""A traced graph as a module that can be exported, with the names and structures of its source."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.capture.source import Source, sharing_state

__all__ = ["assumptions", "fetch", "has_regions", "input_positions", "interpret", "replay", "replay_graph"]


def input_positions(source: Source, leaves: Sequence[Any]) -> list[int]:
    """Which of the flat arguments are inputs of a graph; the others are constants of it."""
    return [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor | torch.SymInt)]


def replay(
    source: Source,
    run: Callable[[torch.nn.Module, list[Any]], Iterable[Any]],
    positions: Sequence[int],
    out_spec: pytree.TreeSpec,
) -> Source:
    """*source* with a root that runs a graph instead of the user's code.

    *run* gets the new root, whose parameters and buffers have the names of the
    old one, and the flat arguments at *positions*; it gives the flat results.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, {name: kwargs[name] for name in source.kwargs}))
        results = run(root, [leaves[i] for i in positions])
        return pytree.tree_unflatten(results, out_spec)

    root = sharing_state(source.root, forward)
    return source.replace(root=root)


def replay_graph(source: Source) -> Source:
    """*source*, a `GraphModule`, with a root that interprets its graph."""
    module = source.root
    assert isinstance(module, fx.GraphModule)
    signature = inspect.signature(module.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with fx.traceback.preserve_node_meta():
            return _Interpreter(module).run(*bound.args, **bound.kwargs)

    return source.replace(root=sharing_state(module, forward))


def interpret(module: torch.nn.Module, graph: fx.Graph, values: Sequence[Any]) -> Any:
    """Run *graph* with the attributes of *module*; new nodes get the source lines of its nodes."""
    with fx.traceback.preserve_node_meta():
        return _Interpreter(module, graph=graph).run(*values, enable_io_processing=False)


def has_regions(module: fx.GraphModule) -> bool:
    """Whether a graph switches gradients or autocast on or off by calls, so that it must be interpreted."""
    from torch.amp.autocast_mode import _enter_autocast

    return any(
        module.graph.find_nodes(op="call_function", target=target)
        for target in (_enter_autocast, torch._C._set_grad_enabled)
    )


class _Interpreter(fx.Interpreter):
    """Runs regions of autocast as regions, and without gradients throughout.

    Torch records the two calls that a traced region of autocast consists of,
    but does not enter it; the values inside would have the dtypes of the code
    around.
    """

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

        if target is torch._C._set_grad_enabled:
            return None
        if target is _enter_autocast:
            device, dtype, enabled, cache = args
            region = torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cache)
            region.__enter__()
            return region
        if target is _exit_autocast:
            return args[0].__exit__(None, None, None)
        return super().call_function(target, args, kwargs)


def fetch(root: torch.nn.Module, names: Sequence[str]) -> list[torch.Tensor]:
    """Parameters and buffers of *root* as they are at this moment."""
    return [operator.attrgetter(name)(root) for name in names]


def assumptions(mode: Any, leaves: Sequence[Any]) -> Callable[[Sequence[Any]], None]:
    """A function that holds new inputs to what a trace with *leaves* took for granted about sizes.

    In an export its checks become guards.
    """
    guards = [guard.expr for guard in mode.shape_env.guards]
    symbols: dict[Any, tuple[int, int | None]] = {}
    for index, leaf in enumerate(leaves):
        sizes: Any = enumerate(leaf.shape) if isinstance(leaf, torch.Tensor) else [(None, leaf)]
        for dim, size in sizes:
            if isinstance(size, torch.SymInt) and size.node._expr.is_Symbol:
                symbols.setdefault(size.node._expr, (index, dim))

    def check(given: Sequence[Any]) -> None:
        from torch.utils._sympy.interp import sympy_interp
        from torch.utils._sympy.reference import PythonReferenceAnalysis

        for guard in guards:
            values = {}
            for symbol in guard.free_symbols:
                index, dim = symbols[symbol]
                values[symbol] = given[index] if dim is None else given[index].shape[dim]
            torch._check(sympy_interp(PythonReferenceAnalysis, values, guard))

    return check
