"""`FuseAttention`: attention as one kernel that reads and writes the layouts around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxpasses.passes.decompositions.values import reshape, shape
from fxpasses.passes.normalize_kwargs import in_full_form
from fxpasses.passes.remove_noops import remove_noops
from fxpasses.program import Program
from fxpasses.rewrite import Editor
from fxpasses.tracing.fake_values import same_size

__all__ = ["FuseAttention", "fuse_attention"]

aten = torch.ops.aten
dialect = torch.ops.fxpasses

_SWAPPED = [0, 2, 1, 3]

# Elements of a head; more would not stay in the cache.
_WIDEST = 512


@dataclass(frozen=True)
class FuseAttention:
    """Write `scaled_dot_product_attention` as `fxpasses::attention`.

    The permutations of [N, L, H, E] around it go. So do masks that admit all,
    or all up to the position of a query, and repetitions of masks and of heads
    of keys and values; any other mask is laid out keys first.

    Left as they are: half types, operands that are not of four dims or whose
    batches differ, those without elements, and heads of unknown or great size.

    Args:
        vector_bytes: the size of a vector register of the target.
        registers: how many of these it has.
    """

    vector_bytes: int = 64
    registers: int = 32
    __name__ = "fuse_attention"

    def __call__(self, program: Program) -> Program:
        if not any(node.target is aten.scaled_dot_product_attention.default for node in program.graph.nodes):
            return program
        g = in_full_form(program).edit()  # the rule reads arguments by position
        changed = False
        for node in list(g.graph.nodes):
            if node.target is aten.scaled_dot_product_attention.default and _fits(node):
                with g.at(node):
                    g.replace(node, self._rewritten(g, node))
                changed = True
        return remove_noops(g.finish()) if changed else program

    def _rewritten(self, g: Editor, node: fx.Node) -> fx.Node:
        query, *others, mask, _, is_causal = node.args
        operands = [query, *_shared_heads(g, others)]
        dtype = node.meta["val"].dtype
        scale = node.kwargs["scale"]
        if scale is None:
            scale = shape(operands[0])[-1] ** -0.5  # type: ignore[arg-type]
        inside = [_inside(operand) for operand in operands]
        swapped = any(_is_swap(user) for user in node.users)
        if _is_triangle(g, mask):
            mask, is_causal = None, True
        result = g.call(
            dialect.attention.default,
            *(
                operand if source is None else source
                for operand, source in zip(operands, inside, strict=True)
            ),
            _keys_first(g, mask),
            is_causal,
            scale,
            [*(source is not None for source in inside), swapped],
            max(self.vector_bytes // dtype.itemsize, 1),
            self.registers,
        )
        return g.call(aten.permute.default, result, _SWAPPED) if swapped else result


fuse_attention = FuseAttention()
"""`FuseAttention` for 32 vectors of 64 bytes."""


def _fits(node: fx.Node) -> bool:
    query, key, value, mask, dropout, _ = node.args
    vals = [operand.meta["val"] for operand in (query, key, value)]  # type: ignore[union-attr]
    if dropout != 0 or vals[0].dtype not in (torch.float32, torch.float64):
        return False
    if any(same_size(size, 0) for val in vals for size in val.shape):
        return False
    if any(val.dim() != 4 or not same_size(val.shape[0], vals[0].shape[0]) for val in vals):
        return False
    if not same_size(vals[1].shape[1], vals[2].shape[1]):
        return False
    if not (same_size(vals[1].shape[1], vals[0].shape[1]) or node.kwargs["enable_gqa"]):
        return False
    if isinstance(mask, fx.Node) and mask.meta["val"].dtype not in (torch.bool, vals[0].dtype):
        return False
    return all(isinstance(val.shape[3], int) and 0 < val.shape[3] <= _WIDEST for val in vals)


def _is_swap(value: Any) -> bool:
    """Whether *value* exchanges the heads and the positions of a tensor."""
    return isinstance(value, fx.Node) and value.target is aten.permute.default and value.args[1] == _SWAPPED


def _inside(value: Any) -> fx.Node | None:
    """The [N, L, H, E] that *value* [N, H, L, E] is a permutation of."""
    return value.args[0] if _is_swap(value) else None


def _shared_heads(g: Editor, operands: list[Any]) -> list[Any]:
    """Key and value before their heads were repeated, where both were: queries may share them."""
    sources = [_before_repetition(operand) for operand in operands]
    if any(source is None for source in sources) or shape(sources[0])[1] != shape(sources[1])[1]:
        return operands
    return [reshape(g, source, [*shape(source)[:2], *shape(source)[3:]]) for source in sources]


def _before_repetition(value: fx.Node) -> fx.Node | None:
    """The [N, G, 1, S, E] from which `expand` and `reshape` made *value* [N, H, S, E]."""
    expand = value.args[0] if value.target is aten.reshape.default else None
    if not isinstance(expand, fx.Node) or expand.target is not aten.expand.default:
        return None
    source: fx.Node = expand.args[0]  # type: ignore[assignment]
    sizes, repeated, result = shape(source), shape(expand), shape(value)
    if len(sizes) != 5 or not same_size(sizes[2], 1) or len(repeated) != 5:
        return None
    alike = all(same_size(sizes[dim], repeated[dim]) for dim in (0, 1, 3, 4))
    heads_merged = all(map(same_size, (repeated[0], *repeated[3:]), (result[0], *result[2:])))
    return source if alike and heads_merged else None


def _keys_first(g: Editor, mask: Any) -> fx.Node | None:
    """*mask* with its last two dims exchanged; None where it admits all."""
    mask = _unexpanded(mask)
    if mask is None or _admits_all(g, mask):
        return None
    sizes = shape(mask)
    swapped = [*sizes[:-2], sizes[-1], sizes[-2]]
    if any(isinstance(size, int) and size == 1 for size in sizes[-2:]):
        return reshape(g, mask, swapped)
    rank = len(sizes)
    return g.call(aten.permute.default, mask, [*range(rank - 2), rank - 1, rank - 2])


def _unexpanded(mask: Any) -> Any:
    """*mask* before it was repeated along dims of size 1."""
    while isinstance(mask, fx.Node) and mask.target is aten.expand.default and _same_rank(mask):
        mask = mask.args[0]
    return mask


def _is_triangle(g: Editor, mask: Any) -> bool:
    """Whether *mask* is known to admit, for each query, the keys up to its own position and no other."""
    mask = _unexpanded(mask)
    tensor = None if mask is None else g.tensor(mask)
    if tensor is None or tensor.dim() < 2 or tensor.shape[-1] != tensor.shape[-2] or tensor.shape[-1] < 2:
        return False
    if tensor.dtype is not torch.bool:
        if not bool(((tensor == 0) | (tensor == -torch.inf)).all()):
            return False
        tensor = tensor == 0
    return bool((tensor == torch.ones(tensor.shape[-2:], dtype=torch.bool).tril()).all())


def _same_rank(expand: fx.Node) -> bool:
    return expand.args[0].meta["val"].dim() == expand.meta["val"].dim()  # type: ignore[union-attr]


def _admits_all(g: Editor, mask: fx.Node) -> bool:
    """Whether each element of *mask* is known to be True, or 0."""
    neutral = mask.meta["val"].dtype is torch.bool
    if mask.target is aten.full.default:
        return bool(mask.args[1] == neutral)
    tensor = g.tensor(mask)
    return tensor is not None and bool((tensor == neutral).all())
