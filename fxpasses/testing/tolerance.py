"""The rule that says how far two results may lie apart.

Nothing is guessed from the size of a model. One of the two sides, the
*reference*, is run three more ways (see `fxpasses.testing.numerics`): once in
float64, which gives the *oracle*, and several times with rounding noise. Its
own error against the oracle, and how far the noise moves it, say for each
element how well the computation determines that element at all; where one seems
wrong, more noise tells whether the first runs moved it little by chance. Then:

- **floating point**: the other side's error against the oracle may be at most
  `FACTOR` times the reference's own (the larger of its error against the oracle
  and of its movement under noise), plus `FLOOR` units in the last place, for the
  half types, which are computed in float32, `FLOOR_OF_HALF`;
- **exact results** are compared exactly: integers, truth values, and floating
  point results that come about by data movement and selection alone (noise
  changes nothing in them);
- **edges** are no free pass: an integer that noise moves (``floor`` of a sum that
  comes out at 3.0) may lie `FACTOR` times as far off, as numbers may; a truth
  value that noise flips may be either;
- NaN must agree with NaN and an infinity with the same infinity. Where noise
  makes another kind of number of the reference, each of these kinds will do, and
  a finite number has to be near the oracle or the runs that are finite;
- what is next to an oracle that the dtype can hold, or nearer to it than the reference
  is, is right, whatever the reference has lost or let overflow on the way;
- dtype and shape must be the same.

Where the reference cannot be followed (both sides are compiled, or run in
float64 is impossible), the oracle is the reference itself, and without noise
the tolerance is `OPAQUE` units in the last place of the largest element.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fxpasses.testing.numerics import HALF

__all__ = ["FACTOR", "FLOOR", "OPAQUE", "Difference", "Reference", "compare_tensors", "largest_difference"]

FACTOR = 4.0
FLOOR = 8.0
FLOOR_OF_HALF = 2.0
"""The same for numbers that are computed in a wider dtype."""

OPAQUE = 256.0


@dataclass
class Reference:
    """A result of the reference and what is known of its worth.

    `oracle` and `noisy` are empty where they could not be had. `followed` says
    whether noise reached the computation.
    """

    value: torch.Tensor
    oracle: torch.Tensor | None = None
    noisy: list[torch.Tensor] = field(default_factory=list)
    followed: bool = False


@dataclass(frozen=True)
class Difference:
    """Elements that disagree, and the worst of them.

    Attributes:
        count, total: how many elements disagree, of how many.
        index: the worst element.
        reference, other: its two values.
        oracle: its value in float64, if that could be computed.
        error: how far `other` lies from the oracle (or the reference).
        allowed: how far it may.
        rule: the rule that was broken, in words.
    """

    count: int
    total: int
    index: tuple[int, ...]
    reference: object
    other: object
    oracle: object
    error: float
    allowed: float
    rule: str


def compare_tensors(
    reference: Reference, other: torch.Tensor, *, rtol: float | None = None, atol: float | None = None
) -> Difference | None:
    """How *other*, of the same dtype and shape, differs from the reference; None if it may."""
    bounds = _bounds(reference, rtol, atol)
    candidate = _wide(other)
    same_kind = (bounds.kinds == _kind(candidate)).any(0)
    error = torch.where(_kind(candidate) == 0, (candidate - bounds.center).abs(), 0.0)
    error = torch.where(same_kind, error, torch.inf)
    if not _is_inexact(other):
        # Large integers differ by less than float64 tells.
        error = torch.where(reference.value != other, error.clamp(min=1.0), error)
    wrong = ~(error <= bounds.allowed) & ~(_is_oracle(reference, candidate) & (bounds.allowed > 0))
    if not bool(wrong.any()):
        return None
    excess = error / (bounds.allowed + torch.finfo(torch.float64).tiny)
    worst = int(torch.where(wrong, excess.nan_to_num(torch.inf), -1.0).argmax())
    index = (
        tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), wrong.shape)) if wrong.dim() else ()
    )
    element = worst // (2 if other.is_complex() else 1)
    oracle = reference.oracle
    return Difference(
        count=int(wrong.sum()),
        total=wrong.numel(),
        index=index[: reference.value.dim()],
        reference=reference.value.flatten()[element].item(),
        other=other.flatten()[element].item(),
        oracle=None if oracle is None else oracle.flatten()[element].item(),
        error=float(error.flatten()[worst]),
        allowed=float(bounds.allowed.flatten()[worst]),
        rule=_rule(reference, not bool(bounds.allowed.any()), rtol, atol),
    )


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of one shape; infinite where NaN or infinity disagree."""
    a, b = _wide(a), _wide(b)
    if not a.numel():
        return 0.0
    if not bool((_kind(a) == _kind(b)).all()):
        return float("inf")
    return float(torch.where(_kind(a) == 0, (a - b).abs(), torch.zeros_like(a)).max())


@dataclass
class _Bounds:
    """For each element: the kinds of number it may be, and where and how far around a finite one may lie."""

    kinds: torch.Tensor
    center: torch.Tensor
    allowed: torch.Tensor


def _bounds(reference: Reference, rtol: float | None, atol: float | None) -> _Bounds:
    value = _wide(reference.value)
    kinds = _kind(value)[None]
    if rtol is not None or atol is not None:
        return _Bounds(kinds, value, (atol or 0.0) + (rtol or 0.0) * value.abs())
    inexact = _is_inexact(reference.value)
    if inexact and not reference.followed:
        info = torch.finfo(reference.value.dtype)
        scale = value[_kind(value) == 0].abs()
        largest = float(scale.max()) if scale.numel() else 0.0
        return _Bounds(
            kinds, value, torch.full_like(value, OPAQUE * info.eps * largest + _smallest(info, OPAQUE))
        )
    runs = [_wide(run) for run in reference.noisy]
    oracle = value if reference.oracle is None else _wide(reference.oracle)
    seen = torch.stack([oracle, value, *runs])
    finite = _kind(seen) == 0
    # The first that is finite: the oracle's, the reference's own, or that of a run.
    first = finite.to(torch.uint8).argmax(0, keepdim=True)
    center = seen.gather(0, first)[0]
    base = torch.where(finite[1], value, center)
    noise = torch.where(finite, (seen - base).abs(), 0.0).amax(0)
    if not inexact:
        return _Bounds(kinds, value, FACTOR * noise)  # int64 is more than float64 holds: see the caller
    info = torch.finfo(reference.value.dtype)
    size = torch.where(finite.any(0), center.abs(), 0.0)
    still = finite[1] & (len(runs) > 0)
    for run in runs:
        still &= run == value
    # The oracle of what noise does not reach can be another number, such as the largest of its own dtype.
    noise = torch.where(still, torch.minimum(noise, OPAQUE * info.eps * value.abs()), noise)
    center = torch.where(still, value, center)
    exact = still & (oracle == value)
    if reference.value.is_complex():
        # Parts are products and sums of parts: each is as exact as the number is long, and moves by itself.
        size = size.amax(-1, keepdim=True).expand_as(value)
        exact = exact.all() & torch.ones_like(exact)
    floor = FLOOR_OF_HALF if reference.value.dtype in HALF else FLOOR
    allowed = FACTOR * noise + floor * info.eps * size + _smallest(info, floor)
    return _Bounds(_kind(seen[1:]), center, torch.where(exact, 0.0, allowed))


def _smallest(info: torch.finfo, units: float) -> float:
    """So many units in the last place of a number that is next to zero."""
    return units * info.smallest_normal * info.eps


def _is_inexact(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_oracle(reference: Reference, candidate: torch.Tensor) -> torch.Tensor:
    """Where the other side is next to the oracle, or nearer to it than the reference, whatever that has lost."""
    if reference.oracle is None or not _is_inexact(reference.value):
        return torch.zeros_like(candidate, dtype=torch.bool)
    oracle, info = _wide(reference.oracle), torch.finfo(reference.value.dtype)
    floor = FLOOR_OF_HALF if reference.value.dtype in HALF else FLOOR
    lost = (_wide(reference.value) - oracle).abs().nan_to_num(0.0, 0.0)
    near = (candidate - oracle).abs() <= lost.maximum(
        floor * info.eps * oracle.abs() + _smallest(info, floor)
    )
    return near & (oracle.abs() <= info.max)


def _rule(reference: Reference, exact: bool, rtol: float | None, atol: float | None) -> str:
    if rtol is not None or atol is not None:
        return f"atol={atol or 0.0:g} + rtol={rtol or 0.0:g} * |a|"
    if not _is_inexact(reference.value):
        return "integers and truth values must be equal"
    if exact:
        return "results of data movement must be equal"
    if not reference.followed:
        return f"{OPAQUE:g} ulp of the largest element: neither side can be followed in float64"
    floor = FLOOR_OF_HALF if reference.value.dtype in HALF else FLOOR
    return f"{FACTOR:g} times the error that the reference itself has, plus {floor:g} ulp"


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """*tensor* for arithmetic: float64; complex numbers with a last dim of two."""
    tensor = tensor.detach()
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex128).resolve_conj())
    return tensor.to(torch.float64)


def _kind(value: torch.Tensor) -> torch.Tensor:
    """0 for finite numbers, 1 and -1 for infinities, 2 for NaN."""
    kind = torch.where(value.isinf(), value.sign(), torch.zeros_like(value))
    return torch.where(value.isnan(), torch.full_like(value, 2.0), kind)
