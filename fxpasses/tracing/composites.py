"""Composite operators that look at values where a graph need not, or that torch traces as something else.

Torch's `cov` reads back the number of observations that it has just put into a
tensor, and `combinations` counts the elements of a mask that no operand has a part in. On
fake tensors that is an error. These kernels say the same by shapes. What others
demand of values they leave to an assertion that the graph keeps. `cdist` goes another way
for more than 25 vectors, which is no other result. What torch traces for
`multilabel_margin_loss` counts margins to the class 0 after the end of a row's targets.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload

from fxpasses.tracing.python_kernels import python_kernels

__all__ = ["COMPOSITES", "composite_kernels", "tensor_split"]

aten = torch.ops.aten

_KEY = DispatchKey.CompositeImplicitAutograd


@contextmanager
def composite_kernels() -> Iterator[None]:
    """Where torch traces, the operators of this file look at no values."""
    with python_kernels({op: {_KEY: kernel} for op, kernel in COMPOSITES.items()}):
        yield


def _cov(self: torch.Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    rows = self.reshape(1, -1) if self.dim() < 2 else self
    weights = [w for w in (fweights, aweights) if w is not None]
    if (
        self.dim() > 2
        or self.dtype == torch.bool
        or any(w.dim() > 1 or w.numel() != rows.shape[1] for w in weights)
    ):
        return _original(aten.cov.default, self, correction=correction, fweights=fweights, aweights=aweights)
    if not weights:
        centered = rows - (rows.sum(1) / rows.shape[1]).unsqueeze(1)
        products = centered.mm(centered.t().conj())
        return (products / torch.sym_max(rows.shape[1] - correction, 0)).squeeze()
    for name, weight in (("fweights", fweights), ("aweights", aweights)):
        if weight is not None:
            torch._assert_async((weight >= 0).all(), f"cov(): {name} cannot be negative")
    weight = math.prod(weights[1:], start=weights[0])
    total = weight.sum()
    torch._assert_async(total != 0, "cov(): weights sum to zero, can't be normalized")
    centered = rows - ((rows * weight).sum(1) / total).unsqueeze(1)
    lost = correction if aweights is None else correction * (weight * aweights).sum() / total
    products = centered.mm((centered * weight).t().conj())
    return torch.true_divide(products, (total - lost).clamp(min=0)).squeeze()


def _corrcoef(self: torch.Tensor) -> Any:
    if self.dim() > 2 or self.dtype == torch.bool:
        return _original(aten.corrcoef.default, self)
    covariance = _cov(self)
    if covariance.dim() == 0:
        return covariance / covariance
    diagonal = covariance.diag()
    deviation = (diagonal.real if diagonal.is_complex() else diagonal).sqrt()
    scaled = covariance / deviation.reshape(-1, 1) / deviation.reshape(1, -1)
    if scaled.is_complex():
        return torch.complex(scaled.real.clip(-1, 1), scaled.imag.clip(-1, 1))
    return scaled.clip(-1, 1)


def _combinations(self: torch.Tensor, r: int = 2, with_replacement: bool = False) -> Any:
    if self.dim() != 1 or not isinstance(self.shape[0], int) or r < 1:
        return _original(aten.combinations.default, self, r, with_replacement)
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = torch.tensor(list(choose(range(self.shape[0]), r)), dtype=torch.int64).reshape(-1, r)
    return self[places]


def _narrow(self: torch.Tensor, dim: int, start: torch.Tensor, length: Any) -> Any:
    if start.dim() or start.is_floating_point() or start.is_complex() or start.dtype == torch.bool:
        return _original(aten.narrow.Tensor, self, dim, start, length)
    size = self.shape[dim]
    torch._check(length >= 0, lambda: "narrow(): length must be non-negative.")
    torch._check(length <= size, lambda: f"narrow(): length {length} of a dim of size {size}")
    first = torch.where(start < 0, start + size, start)
    # Whatever the length is, an index out of range raises.
    first = torch.arange(size - length + 1).index_select(0, first.reshape(1))
    return self.index_select(dim, first + torch.arange(length))


def _fill_diagonal_(self: torch.Tensor, fill_value: Any, wrap: bool = False) -> torch.Tensor:
    if self.dim() != 2 or wrap:
        return _original(aten.fill_diagonal_.default, self, fill_value, wrap)  # type: ignore[no-any-return]
    self.diagonal().fill_(
        fill_value
    )  # torch's kernel reads strides, which a graph with varying sizes has not
    return self


def _max_pool1d(
    self: torch.Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> torch.Tensor:
    # Torch's kernel reads the size as a number, and so fixes one that varies.
    return aten.max_pool1d_with_indices(self, kernel_size, stride, padding, dilation, ceil_mode)[0]  # type: ignore[no-any-return]


def tensor_split(self: torch.Tensor, tensor_indices_or_sections: torch.Tensor, dim: int = 0) -> Any:
    """With a number of sections the number of results depends on it; with places their sizes do."""
    places = tensor_indices_or_sections
    if places.dim() != 1 or places.dtype != torch.int64:
        return _original(aten.tensor_split.tensor_indices_or_sections, self, places, dim)
    return self.tensor_split([place.item() for place in places.unbind()], dim)


def _original(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The kernel of torch."""
    return op._op_dk(_KEY, *args, **kwargs)


def _pad_sequence(
    sequences: list[torch.Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> torch.Tensor:
    # Torch's kernel settles while it is traced which sequence is the longest.
    longest = functools.reduce(torch.sym_max, (sequence.shape[0] for sequence in sequences))

    def filled(sequence: torch.Tensor) -> torch.Tensor:
        missing = longest - sequence.shape[0]
        amounts = [missing, 0] if padding_side == "left" else [0, missing]
        return aten.constant_pad_nd(sequence, [0, 0] * (sequence.dim() - 1) + amounts, padding_value)

    return torch.stack([filled(sequence) for sequence in sequences], 0 if batch_first else 1)


def _multilabel_margin_loss(self: torch.Tensor, target: torch.Tensor, reduction: int = 1) -> torch.Tensor:
    classes = self.shape[-1] if self.dim() else 1
    if self.dim() > 2 or classes == 0 or target.shape != self.shape:
        return _original(aten.multilabel_margin_loss.default, self, target, reduction)
    scores, targets = self.reshape(-1, classes), target.reshape(-1, classes)
    torch._assert_async(((targets >= -1) & (targets < classes)).all(), "a target is out of range")
    given = (targets == -1).cumsum(1) == 0  # the first -1 ends the targets of its row
    places = torch.where(given, targets, 0)
    is_target = (given.unsqueeze(2) & (places.unsqueeze(2) == torch.arange(classes))).any(1, keepdim=True)
    margins = 1 - scores.gather(1, places).unsqueeze(2) + scores.unsqueeze(1)
    counted = given.unsqueeze(2) & ~is_target & (margins > 0)
    loss = torch.where(counted, margins, 0).sum((1, 2)) / classes
    if reduction == 0:
        return loss.reshape(self.shape[:-1])
    return loss.mean() if reduction == 1 else loss.sum()


def _cdist(
    x1: torch.Tensor, x2: torch.Tensor, p: float = 2.0, compute_mode: int | None = None
) -> torch.Tensor:
    rows = (x.shape[-2] for x in (x1, x2) if x.dim() > 1)
    if compute_mode in (None, 0) and any(isinstance(count, torch.SymInt) for count in rows):
        compute_mode = 2  # 'donot_use_mm_for_euclid_dist', whose sums are the exact ones
    return _original(aten.cdist.default, x1, x2, p, compute_mode)


COMPOSITES: dict[OpOverload, Callable[..., Any]] = {
    aten.cdist.default: _cdist,
    aten.cov.default: _cov,
    aten.fill_diagonal_.default: _fill_diagonal_,
    aten.corrcoef.default: _corrcoef,
    aten.combinations.default: _combinations,
    aten.max_pool1d.default: _max_pool1d,
    aten.multilabel_margin_loss.default: _multilabel_margin_loss,
    aten.narrow.Tensor: _narrow,
    aten.pad_sequence.default: _pad_sequence,
    aten.tensor_split.tensor_indices_or_sections: tensor_split,
}
"""By operator, the kernel that is traced."""
