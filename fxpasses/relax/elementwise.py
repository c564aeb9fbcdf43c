"""The kernel of an elementwise operator: broadcast, convert, compute, convert once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import fx
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND as Promotion
from torch._prims_common import elementwise_dtypes

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.signature import dtype_name

__all__ = ["Element", "Promotion", "binary", "broadcast", "compute_dtype", "elementwise", "unary", "within"]

Element = Callable[..., Any]
"""From TIR expressions of the compute dtype to one such expression (see `fxpasses.relax.scalar`)."""


def elementwise(
    b: Any,
    function: Element,
    *operands: Any,
    compute: str | None = None,
    numbers: Literal["exact", "rounded"] = "exact",
    as_is: int = 0,
    first: tuple[Element, ...] = (),
) -> Any:
    """One kernel that computes *function* on each element of the broadcast *operands*.

    Operands are Relax tensors, Python numbers and TIR expressions of sizes. All
    are converted to the dtype *compute* (the one that PyTorch's promotion of
    the node's arguments gives, by default), and the result to the dtype of the
    node's value.

    Args:
        function: a function at module level; kernels of equal functions, shapes
            and dtypes are shared.
        numbers: what a Python number becomes beside a tensor of half precision:
            float32 at once, or rounded to the half type first.
        as_is: how many leading operands keep their own dtype.
        first: compute values that are used several times. Each gets the
            operands and the values before it, *function* all of them.
    """
    compute = compute_dtype(b) if compute is None else compute
    result = dtype_name(b.val.dtype)
    if numbers == "rounded":
        half = next((b.dtype_of(x) for x in operands if _is_tensor(x) and S.is_half(b.dtype_of(x))), None)
        if half is not None and compute == "float32":
            operands = tuple(S.rounded(x, half) if isinstance(x, int | float) else x for x in operands)
    return b.te(_kernel(function, compute, result, as_is, first), *operands)


@cache
def _kernel(
    function: Element, compute: str, result: str, as_is: int, first: tuple[Element, ...]
) -> Callable[..., Any]:
    def kernel(*operands: Any) -> Any:
        shape = broadcast([x.shape for x in operands if _has_shape(x)])

        def values(index: Any) -> list[Any]:
            read = [x(*within(x.shape, shape, index)) if _has_shape(x) else x for x in operands]
            return read[:as_is] + [S.const(value, compute) for value in read[as_is:]]

        computed: list[Any] = []

        def stage(function: Element, dtype: str, name: str) -> Any:
            before = list(computed)

            def element(*index: Any) -> Any:
                return S.cast(function(*values(index), *(value(*index) for value in before)), dtype)

            return T.te.compute(shape, element, name=name)

        for number, early in enumerate(first):
            computed.append(stage(early, compute, f"value{number}"))
        return stage(function, result, "compute")

    return kernel


def unary(function: Element, kind: Promotion = Promotion.DEFAULT) -> Callable[[Any, Any], Any]:
    """A row for operators whose schema is ``(Tensor self) -> Tensor``."""

    def row(b: Any, self: Any) -> Any:
        return elementwise(b, function, self, compute=compute_dtype(b, kind))

    return row


def binary(
    function: Element,
    kind: Promotion = Promotion.DEFAULT,
    numbers: Literal["exact", "rounded"] = "exact",
) -> Callable[[Any, Any, Any], Any]:
    """A row for operators whose schema is ``(self, other) -> Tensor``; each a tensor or a number."""

    def row(b: Any, self: Any, other: Any) -> Any:
        return elementwise(b, function, self, other, compute=compute_dtype(b, kind), numbers=numbers)

    return row


def broadcast(shapes: Sequence[Sequence[Any]]) -> list[Any]:
    """The common shape of *shapes*, aligned at the last dim; a size 1 gives way."""
    rank = max(map(len, shapes), default=0)
    common: list[Any] = []
    for dim in range(-rank, 0):
        sizes = [shape[dim] for shape in shapes if len(shape) >= -dim]
        common.append(next((size for size in sizes if not _is_one(size)), sizes[0]))
    return common


def within(own: Sequence[Any], shape: Sequence[Any], index: Sequence[Any]) -> list[Any]:
    """Where a tensor of the shape *own* has the element at *index* of the *shape* it is broadcast to."""
    rank = len(own)
    aligned = zip(own, shape[len(shape) - rank :], index[len(index) - rank :], strict=True)
    return [0 if _is_one(size) and not _is_one(wide) else i for size, wide, i in aligned]


def compute_dtype(b: Any, kind: Promotion = Promotion.DEFAULT) -> str:
    """The dtype that PyTorch computes the node's elementwise operator in; uint8 for bool."""
    operands = [a.meta["val"] if isinstance(a, fx.Node) else a for a in b.node.args]
    operands = [a for a in operands if isinstance(a, torch.Tensor | torch.SymInt | bool | int | float)]
    dtype, _ = elementwise_dtypes(*operands, type_promotion_kind=kind)
    return "uint8" if dtype is torch.bool else dtype_name(dtype)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, T.relax.Expr) and isinstance(x.ty, T.TensorType)


def _has_shape(x: Any) -> bool:
    return hasattr(x, "shape")


def _is_one(size: Any) -> bool:
    return isinstance(size, T.tirx.IntImm) and int(size) == 1
