"""`normalize_params`: one placeholder for each tensor that the graph uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxpasses.program import Program

__all__ = ["normalize_params"]


def normalize_params(program: Program) -> Program:
    """Merge placeholders of tied tensors and drop those of unused ones.

    Two tensors are tied when they are the same elements in memory: one
    storage, offset, shape and strides. A buffer that the program changes is
    merged with nothing.
    """
    g = program.edit()
    mutated = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
    first: dict[Any, fx.Node] = {}
    for node in g.graph.find_nodes(op="placeholder"):
        role = node.meta["role"]
        if role.kind == "user" or role.target in mutated:
            continue
        if not node.users:
            g.graph.erase_node(node)
            continue
        twin = first.setdefault(_identity(g.tensors[role.target]), node)
        if twin is not node:
            node.replace_all_uses_with(twin)
            g.graph.erase_node(node)
    return g.finish()


def _identity(tensor: torch.Tensor) -> Any:
    if tensor.numel() == 0:
        return id(tensor)
    return (
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.dtype,
    )
