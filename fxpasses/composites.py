"""Composite operators whose kernels ask tensors for values that shapes alone determine.

Torch's `cov` reads back the number of observations that it has just put into a
tensor, and `combinations` counts the elements of a mask that no operand has a part in. On
fake tensors that is an error. These kernels say the same by shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload

from fxpasses.python_kernels import python_kernels

__all__ = ["BY_SHAPE", "kernels_by_shape"]

aten = torch.ops.aten

_KEY = DispatchKey.CompositeImplicitAutograd


@contextmanager
def kernels_by_shape() -> Iterator[None]:
    """Where torch traces, the operators of this file look at no values."""
    with python_kernels({op: {_KEY: kernel} for op, kernel in BY_SHAPE.items()}):
        yield


def _cov(self: torch.Tensor, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    if fweights is not None or aweights is not None or self.dim() > 2 or self.dtype == torch.bool:
        return _original(aten.cov.default, self, correction=correction, fweights=fweights, aweights=aweights)
    rows = self.reshape(1, -1) if self.dim() < 2 else self
    count = rows.shape[1]
    centered = rows - (rows.sum(1) / count).unsqueeze(1)
    products = centered.mm(centered.t().conj())
    return (products / torch.sym_max(count - correction, 0)).squeeze()


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


def _original(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The kernel of torch."""
    return op._op_dk(_KEY, *args, **kwargs)


BY_SHAPE: dict[OpOverload, Callable[..., Any]] = {
    aten.cov.default: _cov,
    aten.corrcoef.default: _corrcoef,
    aten.combinations.default: _combinations,
}
