"""`fold_constants`: what depends on constants alone is computed once."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

from fxpasses.program import Program
from fxpasses.schema import checks_tensor, is_canonical_target, is_pure

__all__ = ["FoldConstants", "fold_constants", "foldable"]

aten = torch.ops.aten


@dataclass(frozen=True)
class FoldConstants:
    """Replace calls whose operands are all constant by their value.

    Constant are: constants and buffers that the program does not change, the
    results of creation operators, and what is computed from these. Parameters
    are not: they stay visible to passes and to whoever loads other weights. A
    lone creation operator of the canonical set (`full`, `arange`) stays as it is,
    and a result whose elements are all equal becomes a `full`. An assertion of what
    is found to be true is dropped.

    Args:
        max_bytes: larger results, and larger values on the way, are not computed.
        parameters: take parameters for constants too, and compute whatever is no
            larger than its operands, such as a transposed weight. For a program
            that is about to be compiled: its weights are final.
    """

    max_bytes: int = 1 << 20
    parameters: bool = False
    __name__ = "fold_constants"

    def __call__(self, program: Program) -> Program:
        constant = foldable(program, self.max_bytes, self.parameters)
        roots = [
            node
            for node in constant
            if node.op == "call_function"
            and (node.all_input_nodes or _has_no_other_form(node.target))
            and isinstance(node.meta["val"], torch.Tensor)
            and any(user not in constant for user in node.users)
        ]
        if not roots:
            return program
        values = _evaluate(program, constant, roots)
        g = program.edit()
        for root in roots:
            node = g.node_map[root]
            if values[root].numel() == 1 and values[root]:
                for check in filter(checks_tensor, list(node.users)):  # holds for good
                    g.erase(check)
            with g.at(node):
                g.replace(node, _constant(g, values[root], views=self.parameters))
        return g.finish()


def foldable(program: Program, max_bytes: int, parameters: bool = False) -> dict[fx.Node, None]:
    """The nodes of the top-level graph whose value is constant, in order."""
    kinds = ("buffer", "constant", "param") if parameters else ("buffer", "constant")
    mutated = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
    found: dict[fx.Node, None] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            role = node.meta["role"]
            constant = role.kind in kinds and role.target not in mutated
        else:
            constant = (
                node.op == "call_function"
                and is_pure(node)
                and (isinstance(node.target, OpOverload) or node.target is operator.getitem)
                and all(operand in found for operand in node.all_input_nodes)
                and _bytes(node.meta["val"]) <= max(max_bytes, _operand_bytes(node) if parameters else 0)
            )
        if constant:
            found[node] = None
    return found


def _has_no_other_form(op: Any) -> bool:
    """Whether *op* is neither canonical nor made of operators that are."""
    from fxpasses.passes.decompose import has_decomposition

    return not is_canonical_target(op) and not has_decomposition(op)


def _bytes(val: Any) -> float:
    """Size in bytes; infinite for what is not of static size."""
    if isinstance(val, torch.Tensor):
        if not all(isinstance(size, int) for size in val.shape):
            return float("inf")
        return val.numel() * val.element_size()
    if isinstance(val, tuple | list):
        return sum(map(_bytes, val))
    return float("inf")


def _operand_bytes(node: fx.Node) -> float:
    return sum(_bytes(operand.meta["val"]) for operand in node.all_input_nodes)


def _evaluate(
    program: Program, constant: dict[fx.Node, None], roots: list[fx.Node]
) -> dict[fx.Node, torch.Tensor]:
    needed: set[fx.Node] = set()
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += node.all_input_nodes
    env: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in constant:
            if node not in needed:
                continue
            if node.op == "placeholder":
                env[node] = program.tensors[node.meta["role"].target]
            else:
                args, kwargs = map_aggregate(
                    (node.args, node.kwargs), lambda arg: env[arg] if isinstance(arg, fx.Node) else arg
                )  # type: ignore[misc]
                env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return {root: env[root] for root in roots}


def _constant(g: Any, value: torch.Tensor, views: bool) -> fx.Node:
    """*value* as a constant; with *views* a permutation stays one, for the pass that packs it to read."""
    if value.numel() > 0 and value.dtype.is_complex is False:
        first, last = (value[(place,) * value.dim()] for place in (0, -1))
        # Most weights differ there already, and are not looked at any further.
        if bool(first == last) or bool(first.isnan() & last.isnan()):
            same = bool((value == first).all()) and not bool(_negative_zero(value))
            if same or bool(value.isnan().all()):
                return g.call(aten.full.default, list(value.shape), first.item(), dtype=value.dtype)
    plain = value if views and _is_permuted(value) else value.contiguous()
    return g.constant(plain.clone() if plain is value and value.is_contiguous() else plain, "folded")


def _is_permuted(value: torch.Tensor) -> bool:
    """Whether *value* is all of its storage in another order."""
    return (
        not value.is_contiguous()
        and value.untyped_storage().nbytes() == value.nbytes
        and bool(aten.is_non_overlapping_and_dense.default(value))
    )


def _negative_zero(value: torch.Tensor) -> Any:
    """Whether zeros of both signs occur, which compare equal."""
    if not value.is_floating_point():
        return False
    signs = value.signbit()
    return signs.any() and not signs.all()


fold_constants = FoldConstants()
