"""Shapes of operators that torch cannot tell on fake tensors, or tells wrongly.

`ctc_loss` and `linalg.lstsq` have no fake kernel, since sizes of some results
depend on values; fake quantization has none for sizes that vary;
`unique_consecutive` counts its dim from the front alone; `_grouped_mm` knows
bfloat16 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OpOverload

__all__ = ["FAKE_KERNELS", "fake_kernels"]

aten = torch.ops.aten

_WITH_SINGULAR_VALUES = ("gelsd", "gelss")


@contextmanager
def fake_kernels() -> Iterator[None]:
    """Where torch traces, the operators of this file have these shapes."""
    from torch._subclasses.fake_impls import op_implementations_dict as known

    before = {op: known[op] for op in FAKE_KERNELS if op in known}
    known.update(FAKE_KERNELS)
    try:
        yield
    finally:
        for op in FAKE_KERNELS:
            known.pop(op, None)
        known.update(before)


def _some(fake_mode: Any, op: OpOverload, most: Any = None) -> torch.SymInt:
    """A size that depends on values."""
    from torch._subclasses.fake_tensor import DynamicOutputShapeException
    from torch.fx.experimental.symbolic_shapes import _constrain_range_for_size

    if fake_mode.shape_env is None or not fake_mode.shape_env.allow_dynamic_output_shape_ops:
        raise DynamicOutputShapeException(op)
    size = fake_mode.shape_env.create_unbacked_symint()
    _constrain_range_for_size(size, min=0, max=most if isinstance(most, int) else None)
    return size


def _ctc_loss(
    fake_mode: Any,
    op: OpOverload,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Any,
    target_lengths: Any,
    *options: Any,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each sequence of [time, batch, class], and a state for each step and place in the target."""
    time, batch = log_probs.shape[:2]
    if isinstance(target_lengths, torch.Tensor):
        places = _some(fake_mode, op)
    else:
        places = 2 * max(target_lengths, default=0) + 1
    return log_probs.new_empty((batch,)), log_probs.new_empty((batch, time, places))


def _lstsq(
    fake_mode: Any,
    op: OpOverload,
    self: torch.Tensor,
    b: torch.Tensor,
    rcond: float | None = None,
    *,
    driver: str | None = None,
) -> tuple[torch.Tensor, ...]:
    """Solution, residuals, rank and singular values.

    `gelsy`, the driver by default, gives no residuals; `gelsd` and `gelss` do where the rank is full.
    """
    from torch._subclasses.fake_tensor import DynamicOutputShapeException

    rows, columns = self.shape[-2:]
    is_vector = b.dim() == 1 or (b.dim() == self.dim() - 1 and b.shape == self.shape[:-1])
    sides: Sequence[Any] = () if is_vector else b.shape[-1:]
    batch = torch.broadcast_shapes(self.shape[:-2], b.shape[:-1] if is_vector else b.shape[:-2])
    left: Sequence[Any] = (0,)
    if rows > columns and driver not in (None, "gelsy"):
        left = (*batch, *(sides or (1,)))
        if driver in _WITH_SINGULAR_VALUES:
            if batch:  # as many dims as batches have, or one
                raise DynamicOutputShapeException(op)
            left = (_some(fake_mode, op, left[0]),)
    real = self.real if self.is_complex() else self
    return (
        self.new_empty((*batch, columns, *sides)),
        real.new_empty(left),
        self.new_empty((0,) if driver == "gels" else batch, dtype=torch.int64),
        real.new_empty((*batch, min(rows, columns)) if driver in _WITH_SINGULAR_VALUES else (0,)),
    )


def _unique_consecutive(
    fake_mode: Any,
    op: OpOverload,
    self: torch.Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    from torch._subclasses.fake_impls import unique_consecutive

    if dim is not None and self.dim():
        dim %= self.dim()
    return unique_consecutive(fake_mode, op, self, return_inverse, return_counts, dim)


def _grouped_mm(
    fake_mode: Any,
    op: OpOverload,
    self: torch.Tensor,
    mat2: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """A product for each group: *offs* has the ends of the groups where rows, columns or the sums are divided."""
    if offs is not None and self.dim() == mat2.dim() == 2:
        groups: Sequence[Any] = offs.shape
    else:
        groups = self.shape[:1] if self.dim() == mat2.dim() == 3 else ()
    return self.new_empty((*groups, self.shape[-2], mat2.shape[-1]), dtype=out_dtype)


def _fake_quantize(
    fake_mode: Any, op: OpOverload, self: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rounded numbers, and where they are within the range."""
    return torch.empty_like(self), torch.empty_like(self, dtype=torch.bool)


FAKE_KERNELS: dict[OpOverload, Callable[..., Any]] = {
    aten._ctc_loss.default: _ctc_loss,
    aten._ctc_loss.Tensor: _ctc_loss,
    aten._grouped_mm.default: _grouped_mm,
    aten.fake_quantize_per_channel_affine_cachemask.default: _fake_quantize,
    aten.fake_quantize_per_tensor_affine_cachemask.default: _fake_quantize,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: _fake_quantize,
    aten.linalg_lstsq.default: _lstsq,
    aten.unique_consecutive.default: _unique_consecutive,
}
