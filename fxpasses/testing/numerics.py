"""What a computation is worth: its result in float64, and how far rounding moves it.

Two dispatch modes run any PyTorch code, be it a `Program`, a module or a function:

- `Float64` computes in double precision what the code computes in a narrower
  one. Its result is the *oracle*.
- `RoundingNoise` disturbs the operands and results of every operator that
  rounds by a few units in the last place. Where the outcome of the disturbed
  runs differs from the plain one, and by how much, is the code's own *noise*:
  no two honest implementations need to agree better than that. An integer or
  a truth value that noise can flip (``floor`` of a sum that comes out at 3.0)
  is at an edge, and says nothing about an implementation.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxpasses.errors import FxpassesError
from fxpasses.schema import bind, draws_random
from fxpasses.tracing.modes import bodies_in

__all__ = ["HALF", "Float64", "NoOracle", "RoundingNoise", "is_exact", "widened"]

RESULT_ULPS = 2.0
"""By how many units in the last place `RoundingNoise` moves a result, at most."""

OPERAND_ULPS = 0.5
"""The same for an operand: a correctly rounded value may be half a unit off."""

HALF = (torch.float16, torch.bfloat16)
"""Dtypes that are computed in float32: results are rounded once, and are moved by half of `RESULT_ULPS`."""

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}

_EXACT = frozenset(
    """
    _conj _pad_circular _reshape_alias _to_copy _unsafe_view abs alias amax amin aminmax arange argmax argmin argsort
    as_strided broadcast_tensors cat ceil chunk clamp clamp_max clamp_min clone complex conj_physical
    constant_pad_nd contiguous copy copysign cummax cummin detach diag diag_embed diagonal diagonal_copy
    diagonal_scatter embedding empty empty_like empty_permuted empty_strided expand expand_as expand_copy
    eye fill flatten flip floor fmax fmin fmod frac frexp full full_like gather hardtanh heaviside imag
    index index_copy index_fill index_put index_select kthvalue lift_fresh lift_fresh_copy masked_fill
    masked_scatter masked_select max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum median min minimum moveaxis movedim nan_to_num narrow neg new_empty
    new_full new_ones new_zeros nextafter nonzero one_hot ones ones_like pad permute permute_copy
    pixel_shuffle pixel_unshuffle positive real reflection_pad1d reflection_pad2d reflection_pad3d relu
    relu6 repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape
    resolve_conj resolve_neg roll rot90 round scalar_tensor scatter select select_copy select_scatter sgn
    sign slice slice_copy slice_scatter sort split split_copy split_with_sizes split_with_sizes_copy
    squeeze squeeze_copy stack t t_copy take take_along_dim threshold tile to topk transpose
    transpose_copy tril triu trunc type_as unbind unbind_copy unflatten unfold unfold_copy unsqueeze
    unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d view view_as view_as_complex
    view_as_real view_copy where zero zeros zeros_like
    """.split()  # noqa: SIM905
)
"""Operators whose result holds values of their operands, or numbers that no
implementation may round differently. ``round`` is here without ``decimals`` only."""

_ORDERING = frozenset({"topk", "sort", "argsort", "kthvalue", "median", "mode", "nanmedian"})
"""Operators that return positions and leave the order of equal values open."""


_SAMPLES = frozenset(
    {
        *("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
    }
)
_CUBIC = 2


class NoOracle(FxpassesError):
    """The computation cannot be followed in float64; the message says why."""


def is_exact(op: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> bool:
    """Whether *op* only moves or selects values, so that all implementations agree to the bit."""
    if not isinstance(op, OpOverload):
        return not isinstance(op, HigherOrderOperator)
    kwargs = kwargs or {}
    if op.namespace != "aten":
        return False
    name = op._schema.name.split("::")[1]
    if name == "round" and op._overloadname == "decimals":
        return False
    if name == "_to_copy" or name == "copy" or name == "copy_":
        return True
    if name in ("scatter", "index_put", "scatter_") and ("reduce" in kwargs or "reduce" in op._overloadname):
        return False
    if name == "index_put" and (kwargs.get("accumulate") or (len(args) > 3 and args[3])):
        return False
    return name in _EXACT or (name.endswith("_") and name[:-1] in _EXACT)


class Float64(TorchDispatchMode):
    """Runs every operator on double precision tensors.

    Operators that draw random numbers run as they are and are widened
    afterwards, so that they draw the same numbers.

    Raises:
        NoOracle: code that writes into narrower tensors that it brought along,
            or reads the bits of a tensor.
    """

    supports_higher_order_operators = True

    def __init__(self, default: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.default = default
        """The default dtype of the code, in which it draws random numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return func(*bodies_in(self, args), **bodies_in(self, kwargs))
        if func is torch.ops.aten.view.dtype:
            raise NoOracle("the bits of a tensor are read in another dtype")
        if draws_random(func, args, kwargs):
            with _default_dtype(self.default):
                return pytree.tree_map(_widen_value, func(*args, **kwargs))
        if func._schema.is_mutable:
            for argument, value in _written(func, args, kwargs):
                if isinstance(value, torch.Tensor) and value.dtype in _WIDE:
                    raise NoOracle(f"{func} writes into argument {argument!r} of {value.dtype}")
        args, kwargs = pytree.tree_map(_widen_value, (args, kwargs))
        result = func(*args, **kwargs)
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype in _WIDE for leaf in pytree.tree_leaves(result)):
            raise NoOracle(f"{func} gives a narrow result for double precision operands")
        return result


class RoundingNoise(TorchDispatchMode):
    """Disturbs operands and results of operators that round; the same *seed* gives the same noise.

    Without *operands*, results alone: for code whose operands are known to the bit.
    """

    supports_higher_order_operators = True

    def __init__(self, seed: int, operands: bool = True) -> None:
        super().__init__()
        self.operands = operands
        # Numbers drawn with neighbouring seeds, which differ in few bits, are alike.
        self.generator = torch.Generator().manual_seed(random.Random(seed).getrandbits(63))
        self.calls = 0
        """How many operators were met; none where the code runs outside of PyTorch."""

    def again(self) -> RoundingNoise:
        """This noise, which goes on from where it stopped."""
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        if isinstance(func, HigherOrderOperator):
            return func(*bodies_in(self, args), **bodies_in(self, kwargs))
        name = func._schema.name.split("::")[-1]
        if name in _ORDERING and not kwargs.get("stable") and func.namespace == "aten":
            return self._order(func, args, kwargs)
        if name in ("_to_copy", "copy_", "copy") and _narrows(func, args, kwargs):
            return self._move(func(*args, **kwargs), RESULT_ULPS / 2, func._schema.is_mutable)
        if is_exact(func, args, kwargs) or draws_random(func, args, kwargs):
            return func(*args, **kwargs)
        written = (
            {id(value) for _, value in _written(func, args, kwargs)} if func._schema.is_mutable else set()
        )

        pointwise = torch.Tag.pointwise in func.tags

        def operand(value: Any) -> Any:
            if id(value) in written or (pointwise and getattr(value, "dtype", None) in HALF):
                return value  # one of a few numbers is exact in float32
            return self._move(value, OPERAND_ULPS, False)

        call = self._sampled if name in _SAMPLES else self._gelu if name == "gelu" else _call
        if self.operands and _gives_floats(func, args, kwargs):
            try:
                result = call(func, *pytree.tree_map(operand, (args, kwargs)))
            except RuntimeError:  # such as a probability that is now above 1
                result = call(func, args, kwargs)
        else:
            result = call(func, args, kwargs)
        return pytree.tree_map(lambda value: self._move(value, RESULT_ULPS, func._schema.is_mutable), result)

    def _sampled(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Samples of an image between its pixels, whose weights are differences of numbers around 1.

        So they are rounded by what 1 is, however small they are. The places of
        `grid_sample` begin at the middle, -1 is at one edge and 1 at the other: 1 is
        added to them.
        """
        image, rest = args[0], args[1:]
        if func._schema.name.startswith("aten::grid_sampler"):
            places, mode, *rest = rest
            result = func(image, places + self._around_zero(places, OPERAND_ULPS), mode, *rest, **kwargs)
            if mode != _CUBIC:
                return result
        else:
            result = func(image, *rest, **kwargs)
        if not image.numel() or not image.is_floating_point():
            return result
        return result + self._around_zero(result, RESULT_ULPS) * image.where(image.isfinite(), 0).abs().max()

    def _gelu(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Half of the operand times ``1 + erf`` or ``1 + tanh``, which cancels, and is rounded by what 1 is."""
        operand, result = args[0], func(*args, **kwargs)
        wide = result.float() if result.dtype in HALF else result
        return (wide + self._around_zero(wide, RESULT_ULPS) * operand.where(operand.isfinite(), 0) / 2).to(
            result.dtype
        )

    def _around_zero(self, like: torch.Tensor, ulps: float) -> torch.Tensor:
        """Numbers by which 1 may be off."""
        return self._move(torch.ones_like(like), ulps, False) - 1

    def _move(self, value: Any, ulps: float, in_place: bool) -> Any:
        if not isinstance(value, torch.Tensor) or not value.numel():
            return value
        if value.is_complex():
            moved = torch.view_as_complex(self._move(_plain_parts(value), ulps, False))
            return value.copy_(moved) if in_place else moved
        if not value.is_floating_point():
            return value
        if value.dtype in HALF and ulps == RESULT_ULPS:
            ulps /= 2
        wide = value.double()
        # A sum: a factor next to 1 would itself be rounded, to 1, in double precision.
        shift = wide.where(wide.isfinite(), 0) * (
            ulps * torch.finfo(value.dtype).eps * self._signs(value.shape)
        )
        moved = (wide + shift).to(value.dtype)
        # Half a unit may be lost in rounding; then it is a whole one, every other time.
        lost = (moved == value) & (shift != 0) & (self._signs(value.shape) > 0)
        towards = (shift.sign() * torch.inf).to(value.dtype)  # the shift itself may be no number of the dtype
        moved = torch.where(lost, torch.nextafter(value, towards), moved)
        return value.copy_(moved) if in_place else moved

    def _signs(self, shape: Any) -> torch.Tensor:
        """Uniform in [-1, -0.5] or [0.5, 1]: no disturbance is lost, none cancels another exactly."""
        draw = 2 * torch.rand(shape, generator=self.generator, dtype=torch.float64) - 1
        return draw / 2 + torch.where(draw < 0, -0.5, 0.5)

    def _order(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Let the order of equal values be any: the positions may change, the values may not."""
        exact = func(*args, **kwargs)
        if func._schema.name in ("aten::mode", "aten::nanmedian") and isinstance(exact, tuple):
            return exact[0], self._place(func, *bind(func, args, kwargs)[0])
        if not isinstance(exact, tuple):
            return exact if func._schema.name.endswith("median") else self._positions(func, args, kwargs)
        return (exact[0], self._positions(func, args, kwargs)[1])

    def _place(self, func: Any, operand: Any, dim: Any, keepdim: Any) -> Any:
        """A place among those that hold the value: the first of another order."""
        if not operand.dim():
            return func(operand, dim, keepdim)[1]
        order = torch.randperm(operand.shape[dim], generator=self.generator)
        return order[func(operand.index_select(dim, order), dim, keepdim)[1]]

    def _positions(self, func: Any, args: Any, kwargs: Any) -> Any:
        key = args[0].double()
        ranks = torch.unique(key, return_inverse=True)[1].double()
        # A NaN is the largest of all, and as large as another; a median is one wherever there is one.
        largest = key if func._schema.name == "aten::median" else torch.tensor(key.numel(), dtype=key.dtype)
        ranks = torch.where(key.isnan(), largest, ranks)
        return func(ranks + 0.4 * self._signs(key.shape), *args[1:], **kwargs)


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Run in float64: `Float64` with a default dtype to match (``int / int`` is a double then)."""
    mode = Float64(torch.get_default_dtype())
    with _default_dtype(torch.float64), mode:
        yield


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _plain_parts(value: torch.Tensor) -> torch.Tensor:
    """The parts of a complex tensor in memory of their own."""
    return torch.view_as_real(value.resolve_conj()).clone(memory_format=torch.contiguous_format)


def _widen_value(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _WIDE.get(value, value)
    if isinstance(value, torch.Tensor) and value.dtype in _WIDE:
        return value.to(_WIDE[value.dtype])
    return value


def _written(func: OpOverload, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
    found = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            found += [(argument.name, leaf) for leaf in pytree.tree_leaves(value)]
    return found


def _call(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _narrows(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a copy goes from one floating dtype to another, where it may round."""
    dtype = kwargs.get("dtype")
    if func._schema.name != "aten::_to_copy":
        dtype, args = args[0].dtype, args[1:]
    source = args[0]
    return (
        dtype is not None
        and dtype.is_floating_point
        and isinstance(source, torch.Tensor)
        and source.dtype != dtype
        and not _fits(source.dtype, dtype)
    )


def _fits(source: torch.dtype, dtype: torch.dtype) -> bool:
    return source == torch.bool or (torch.promote_types(source, dtype) == dtype and source.is_floating_point)


def _gives_floats(func: OpOverload, args: Any, kwargs: Any) -> bool:
    """Whether the result of *func* can be floating point: comparisons and the like are not disturbed."""
    return func._schema.name.split("::")[-1].rstrip("_") not in _TRUTH


_TRUTH = frozenset(
    """
    all allclose any bitwise_and bitwise_not bitwise_or bitwise_xor bucketize count_nonzero eq equal
    ge gt is_nonzero isfinite isin isinf isnan isneginf isposinf le logical_and logical_not
    logical_or logical_xor lt ne searchsorted signbit
    """.split()  # noqa: SIM905
)
