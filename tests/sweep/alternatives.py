"""What PyTorch does not determine: elements that it gives otherwise by another road of its own.

At the edges PyTorch does not always agree with itself: a kernel leaves out a
NaN that the decomposition of the same operator keeps, or reads an expanded
tensor as if its elements were apart. An element that one of its roads gives is
a right one. The roads are taken for variants at edges alone, and for the
operators in `ROADS`, each of which was looked at: elsewhere a result that
only a decomposition shares with ours is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxpasses.schema import bind
from fxpasses.testing.numerics import HALF
from fxpasses.testing.single import Call

__all__ = ["excuses"]

aten = torch.ops.aten

ULPS = 16.0
ULPS_OF_HALF = 1.0
"""How far a result may lie from that of another road."""

ROADS: frozenset[OpOverload] = frozenset(
    {
        # A NaN is left out by the kernel, or kept.
        aten.multi_margin_loss.default,
        aten.scaled_dot_product_attention.default,
        # The lower neighbour counts even where its weight is zero: infinity times zero.
        aten.upsample_linear1d.vec,
        aten.upsample_bilinear2d.vec,
        aten.upsample_trilinear3d.vec,
        # A kernel of bfloat16 leaves out NaN and infinities beside the border of dilated volumes.
        aten.conv3d.padding,
        # x times the share below -infinity.
        aten.gelu.default,
        # An index is counted from the end, or clipped.
        aten._unsafe_masked_index.default,
        # Which of the places of NaN, or of an element that is expanded.
        aten.mode.default,
        aten.median.dim,
        aten.nanmedian.dim,
    }
)
"""Operators that PyTorch's roads give other elements for."""

ALONE: frozenset[OpOverload] = frozenset(
    {
        aten.fmod.Tensor,
        aten.fmod.Scalar,
        aten.remainder.Tensor,
        aten.remainder.Scalar,
        aten.remainder.Scalar_Tensor,
    }
)
"""Operators that PyTorch gives other values for in the vectors of some processors than for a single element.

With AVX-512 ``fmod(1, 1e-40)``, a quotient beyond the range of the dtype, is NaN in a vector.
"""

EITHER_ZERO: frozenset[OpOverload] = frozenset(
    {
        aten.maximum.default,
        aten.minimum.default,
        aten.clamp.Tensor,
        aten.clamp_min.Tensor,
        aten.clamp_max.Tensor,
        aten.amax.default,
        aten.amin.default,
    }
)
"""Operators that give of 0.0 and -0.0 either: PyTorch gives both within one tensor, in its vectors and beyond."""

Tensors = list[torch.Tensor]


def excuses(call: Call, want: Tensors, got: Tensors) -> Iterator[tuple[str, Tensors]]:
    """For each road that gives other elements, its name and *got* with these set to those of *want*."""
    for name, road in _roads(call).items():
        try:
            with torch.no_grad():
                leaves = pytree.tree_leaves(road())
        except Exception:  # a road that PyTorch does not have for this call excuses nothing
            continue
        other = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if [leaf.shape for leaf in other] == [leaf.shape for leaf in want]:
            yield (
                name,
                [
                    torch.where(_near(g, o) & ~_near(w, o), w, g)
                    for g, o, w in zip(got, other, want, strict=True)
                ],
            )
    if call[0] in EITHER_ZERO:
        yield (
            "either of two zeros is the larger",
            [torch.where((g == 0) & (w == 0), w, g) for g, w in zip(got, want, strict=True)],
        )
    linear = _linear(call, len(want))
    if any(linear):
        yield (
            "a sum with an infinity is infinite or NaN, by the order of its terms and the zeros among its factors",
            [
                torch.where(_lost(g) & _lost(w), w, g) if is_linear else g
                for g, w, is_linear in zip(got, want, linear, strict=True)
            ],
        )


def _roads(call: Call) -> dict[str, Callable[[], Any]]:
    op, args, kwargs = call
    if op in ALONE:
        return {"PyTorch gives this for single elements": lambda: _by_element(op, args, kwargs)}
    if op not in ROADS:
        return {}

    def contiguous() -> Any:
        whole = pytree.tree_map_only(torch.Tensor, _copied, (args, kwargs))
        return op(*whole[0], **whole[1])

    def decomposed() -> Any:
        with sdpa_kernel(SDPBackend.MATH), _Decomposed():
            return op(*args, **kwargs)

    def widened() -> Any:
        wide = pytree.tree_map_only(
            torch.Tensor, lambda x: x.float() if x.dtype in HALF else x, (args, kwargs)
        )
        return pytree.tree_map_only(torch.Tensor, lambda x: x.to(args[0].dtype), op(*wide[0], **wide[1]))

    def turned() -> Any:
        operand, dim, keepdim = bind(op, args, kwargs)[0]
        values, places = op(operand.flip(dim), dim, keepdim)
        return values, operand.shape[dim] - 1 - places

    roads = {
        "PyTorch's decomposition gives this": decomposed,
        "PyTorch gives this for contiguous tensors": contiguous,
    }
    if op is aten.conv3d.padding:
        roads["PyTorch gives this in float32"] = widened
    if op is aten.mode.default:
        roads["PyTorch gives this for another order of the elements"] = turned
    return roads


def _by_element(op: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """The result of a pointwise *op* that is called for each element by itself."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    whole = torch.broadcast_tensors(*tensors)
    results = []
    for elements in zip(*(tensor.flatten() for tensor in whole), strict=True):
        left = iter(elements)
        results.append(op(*(next(left) if isinstance(arg, torch.Tensor) else arg for arg in args), **kwargs))
    return torch.stack(results).reshape(whole[0].shape)


class _Decomposed(TorchDispatchMode):
    """Runs each operator as PyTorch's decomposition of it, where it has one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return decomposition_table.get(func, func)(*args, **(kwargs or {}))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _near(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.is_complex():
        return _near(a.real, b.real) & _near(a.imag, b.imag)
    same = (a == b) | ((a != a) & (b != b))
    if a.is_floating_point():
        ulps = ULPS_OF_HALF if a.dtype in HALF else ULPS
        same |= b.isfinite() & ((a - b).abs() <= ulps * torch.finfo(a.dtype).eps * b.abs())
    return same


def _lost(tensor: torch.Tensor) -> torch.Tensor:
    return ~tensor.isfinite()


def _linear(call: Call, count: int) -> list[bool]:
    """For each result, whether it doubles, to the bit, with the first tensor and perhaps one other."""
    op, args, kwargs = call
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [
        place
        for place, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    ]
    doubles = [False] * count
    if not places or {torch.Tag.reduction, torch.Tag.pointwise} & set(op.tags):
        return doubles
    finite = [
        leaf.nan_to_num(1.0, 1.0, 1.0) if place in places else leaf for place, leaf in enumerate(leaves)
    ]
    for others in itertools.chain([()], ((place,) for place in places[1:])):
        doubled = [2 * leaf if place in (places[0], *others) else leaf for place, leaf in enumerate(finite)]
        try:
            pairs = zip(_run(op, finite, spec), _run(op, doubled, spec), strict=True)
            found = [bool((2 * plain == twice).all()) for plain, twice in pairs]
        except Exception:  # it takes no such operands: not known to be linear, so nothing is excused
            break
        doubles = [a or b for a, b in zip(doubles, found, strict=True)]
    return doubles


def _run(op: Any, leaves: list[Any], spec: Any) -> Tensors:
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(op(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
