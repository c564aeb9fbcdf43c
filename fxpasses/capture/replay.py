"""A traced graph as a module that can be exported, with the names and structures of its source."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.capture.source import Source, sharing_state

__all__ = ["input_positions", "replay"]


def input_positions(source: Source, leaves: Sequence[Any]) -> list[int]:
    """Which of the flat arguments are inputs of a graph; the others are constants of it."""
    return [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor | torch.SymInt)]


def replay(
    source: Source,
    run: Callable[[torch.nn.Module, list[Any]], list[Any]],
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


def interpret(module: torch.nn.Module, graph: fx.Graph, values: Sequence[Any]) -> list[Any]:
    """Run *graph* with the attributes of *module*; new nodes get the source lines of its nodes."""
    with fx.traceback.preserve_node_meta():
        result = fx.Interpreter(module, graph=graph).run(*values)
    return list(result)


def fetch(root: torch.nn.Module, names: Sequence[str]) -> list[torch.Tensor]:
    """Parameters and buffers of *root* as they are at this moment."""
    return [operator.attrgetter(name)(root) for name in names]
