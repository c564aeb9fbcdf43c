"""Hold rows of the lowering table against eager PyTorch.

`check` runs one call; `check_calls` puts many calls into one module, which is
much cheaper (a build costs about 0.1 s)::

    check(aten.add.Scalar, x, 2)
    check_calls([call(aten.relu.default, x) for x in samples(torch.float32)])

Results are compared by dtype, shape and value. Without a tolerance the values
must be the same to the bit, the sign of zero included (NaN equals NaN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from fxpasses.codegen.build import build
from fxpasses.codegen.runtime import prepare
from fxpasses.relax import tvm_api as T
from fxpasses.relax.emit import lower
from fxpasses.testing.single import Call, calls_program

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
INTEGERS = (*SIGNED, torch.uint8)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)

# Functions such as exp are a few units in the last place off torch's own.
ULPS: Mapping[torch.dtype, float] = {
    torch.float64: 1e-13,
    torch.float32: 3e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}

Tolerance = float | Mapping[torch.dtype, float] | None


def call(op: OpOverload, *args: Any, **kwargs: Any) -> Call:
    """A call for `check_calls`."""
    return op, args, kwargs


def check(
    op: OpOverload,
    *args: Any,
    tolerance: Tolerance = None,
    dynamic: bool = False,
    results: Sequence[int] | None = None,
    **kwargs: Any,
) -> None:
    """Compile ``op(*args, **kwargs)`` and compare with eager; see `check_calls`."""
    check_calls([(op, args, kwargs)], tolerance=tolerance, dynamic=dynamic, results=results)


def check_calls(
    calls: Sequence[Call],
    tolerance: Tolerance = None,
    dynamic: bool = False,
    results: Sequence[int] | None = None,
) -> None:
    """Compile all *calls* in one module and compare each with eager.

    Args:
        calls: made by `call`.
        tolerance: None for equal bits; else the relative and absolute
            tolerance of float results, as a number (0 for equal values, zeros of
            either sign being equal) or by dtype (`ULPS`).
        dynamic: make every size other than 0 and 1 symbolic.
        results: which results of a call with several are computed and
            compared; all without it.
    """
    expected = [eager(call, results) for call in calls]
    for one, got, want in zip(calls, compiled(calls, dynamic, results), expected, strict=True):
        problem = difference(got, want, tolerance)
        assert problem is None, f"{_describe(one)}: {problem}"


def eager(one: Call, results: Sequence[int] | None = None) -> list[torch.Tensor]:
    """The results of a call in eager PyTorch, flat."""
    op, args, kwargs = one
    with torch.no_grad():
        value = op(*args, **kwargs)
    if results is not None and isinstance(value, tuple | list):
        value = [value[index] for index in results]
    return pytree.tree_leaves(value)


def compiled(
    calls: Sequence[Call], dynamic: bool = False, results: Sequence[int] | None = None
) -> list[list[torch.Tensor]]:
    """The results of each call through TVM, flat."""
    program, tensors = calls_program(calls, dynamic, results)
    module = lower(program)
    vm = T.relax.VirtualMachine(build(module), T.tvm.cpu())
    arrays = [prepare(tensor) for tensor in tensors]
    values = [torch.from_dlpack(array) for array in vm["main"](*arrays)]
    return [pytree.tree_leaves(group) for group in pytree.tree_unflatten(values, program.out_spec)]


def difference(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor], tolerance: Tolerance) -> str | None:
    """What differs between results and expected results, as a text; None where nothing does."""
    for index, (a, e) in enumerate(zip(got, want, strict=True)):
        if a.dtype != e.dtype or a.shape != e.shape:
            return f"result {index} is {a.dtype}{list(a.shape)}, expected {e.dtype}{list(e.shape)}"
        wrong = _wrong(a, e.contiguous(), tolerance).flatten()
        if wrong.any():
            at = wrong.nonzero()[:8].flatten()
            return (
                f"result {index} ({e.dtype}{list(e.shape)}) differs in {int(wrong.sum())} places; at flat "
                f"positions {at.tolist()} got {a.flatten()[at].tolist()}, expected {e.flatten()[at].tolist()}"
            )
    return None


def _wrong(a: torch.Tensor, e: torch.Tensor, tolerance: Tolerance) -> torch.Tensor:
    if not e.dtype.is_floating_point:
        return a != e
    both_nan = a.isnan() & e.isnan()
    if isinstance(tolerance, Mapping):
        tolerance = tolerance.get(e.dtype)
    if tolerance is None:
        return ((a != e) | (a.signbit() != e.signbit())) & ~both_nan
    # float64 differences: a half type's own difference may overflow.
    a64, e64 = a.double(), e.double()
    close = (a64 - e64).abs() <= tolerance * (1 + e64.abs())
    return ~((close & e64.isfinite()) | (a64 == e64) | both_nan)


def _describe(one: Call) -> str:
    def text(arg: Any) -> str:
        if not isinstance(arg, torch.Tensor):
            return repr(arg)
        values = f" {arg.tolist()}" if arg.numel() <= 12 else ""
        return f"{str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}{values}"

    op, args, kwargs = one
    parts = [text(arg) for arg in args] + [f"{name}={text(arg)}" for name, arg in kwargs.items()]
    return f"{op}({', '.join(parts)})"


def edges(dtype: torch.dtype) -> torch.Tensor:
    """A vector of values that kernels get wrong: zeros of both signs, extremes, NaN, halves."""
    if dtype is torch.bool:
        return torch.tensor([False, True])
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        values = [0, 1, 2, 3, 7, 100, info.max, info.max - 1, info.min, info.min + 1]
        if dtype.is_signed:
            values += [-1, -2, -3, -7, -100]
        return torch.tensor(values, dtype=dtype)
    info = torch.finfo(dtype)
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 0.1, 0.7, 7.25, 20.0, 88.0, 1000.0]
    values += [info.tiny, info.eps, info.max, float("inf")]
    return torch.tensor([*values, *(-v for v in values), float("nan")], dtype=dtype)


def samples(dtype: torch.dtype) -> list[torch.Tensor]:
    """Edge values, and random ones of several ranks: [2, 3, 5], 0-d and with a zero-size dim."""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        random = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64).mul(2).to(dtype)
    elif dtype is torch.bool:
        random = torch.randint(0, 2, (2, 3, 5), generator=generator).bool()
    else:
        low = -10 if dtype.is_signed else 0
        random = torch.randint(low, 11, (2, 3, 5), generator=generator).to(dtype)
    return [edges(dtype), random, random[0, 0, 0].clone(), random[:, :0]]


def random(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of *shape*, always the same one; small whole numbers for integers."""
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    return torch.randint(-100 if dtype.is_signed else 0, 100, tuple(shape), generator=generator).to(dtype)
