"""The rule that says how far two results may lie apart.

Nothing is guessed from the size of a model. One of the two sides, the
*reference*, is run three more ways (see `fxpasses.testing.numerics`): once in
float64, which gives the *oracle*, and several times with rounding noise. Its
own error against the oracle, and how far the noise moves it, say for each
element how well the computation determines that element at all; where one seems
wrong, more noise tells whether the first runs moved it little by chance. Then:

- **floating point**: the other side's error against the oracle may be at most
  `FACTOR` times the reference's own (the larger of its error against the oracle
  and of its movement under noise), plus `FLOOR` units in the last place;
- **exact results** are compared exactly: integers, truth values, and floating
  point results that come about by data movement and selection alone (neither
  noise nor float64 changes anything in them);
- **edges** are left out: an integer, a truth value, a NaN or an infinity that
  noise flips (``floor`` of a sum that comes out at 3.0) says nothing;
- NaN must agree with NaN and an infinity with the same infinity, unless the
  reference overflowed on the way to a number and the other side is next to the
  oracle; dtype and shape must be the same.

Where the reference cannot be followed (both sides are compiled, or run in
float64 is impossible), the oracle is the reference itself, and without noise
the tolerance is `OPAQUE` units in the last place of the largest element.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["FACTOR", "FLOOR", "OPAQUE", "Difference", "Reference", "compare_tensors", "largest_difference"]

FACTOR = 4.0
FLOOR = 8.0
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
    value, center, allowed, edge = _bounds(reference, rtol, atol)
    candidate = _wide(other)
    same_kind = _kind(value) == _kind(candidate)
    error = torch.where(_kind(value) == 0, (candidate - center).abs(), torch.zeros_like(value))
    wrong = ((error > allowed) | ~same_kind | error.isnan()) & ~edge & ~_escaped(reference, value, candidate)
    if not bool(wrong.any()):
        return None
    excess = torch.where(
        same_kind & ~error.isnan(), error / (allowed + torch.finfo(torch.float64).tiny), torch.inf
    )
    worst = int(torch.where(wrong, excess, -1.0).argmax())
    index = (
        tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), wrong.shape)) if wrong.dim() else ()
    )
    oracle = reference.oracle
    exact = not bool(allowed.any())
    return Difference(
        count=int(wrong.sum()),
        total=wrong.numel(),
        index=index[: reference.value.dim()],
        reference=reference.value.flatten()[worst // _parts(value, reference.value)].item(),
        other=other.flatten()[worst // _parts(value, reference.value)].item(),
        oracle=None if oracle is None else oracle.flatten()[worst // _parts(value, reference.value)].item(),
        error=float(error.flatten()[worst]),
        allowed=float(allowed.flatten()[worst]),
        rule=_rule(reference, exact, rtol, atol),
    )


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference of two tensors of one shape; infinite where NaN or infinity disagree."""
    a, b = _wide(a), _wide(b)
    if not a.numel():
        return 0.0
    if not bool((_kind(a) == _kind(b)).all()):
        return float("inf")
    return float(torch.where(_kind(a) == 0, (a - b).abs(), torch.zeros_like(a)).max())


def _bounds(
    reference: Reference, rtol: float | None, atol: float | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The reference's values, the center, the allowed distance from it, and the edges."""
    value = _wide(reference.value)
    edge = torch.zeros_like(value, dtype=torch.bool)
    if rtol is not None or atol is not None:
        return value, value, (atol or 0.0) + (rtol or 0.0) * value.abs(), edge
    floats = reference.value.is_floating_point() or reference.value.is_complex()
    center = value
    noise = torch.zeros_like(value)
    if reference.oracle is not None:
        oracle = _wide(reference.oracle)
        if floats:
            center = torch.where(_kind(oracle) == 0, oracle, value)
            noise = torch.where(_kind(value) == 0, (value - center).abs(), noise)
        else:
            edge |= oracle != value
    for run in map(_wide, reference.noisy):
        edge |= (_kind(run) != _kind(value)) if floats else (run != value)
        noise = torch.where(_kind(run) == 0, torch.maximum(noise, (run - value).abs()), noise)
    size = center.abs().nan_to_num(0.0, 0.0, 0.0)
    if reference.value.is_complex():
        noise, size = (
            parts.amax(-1, keepdim=True).expand_as(value) for parts in (noise.nan_to_num(0.0), size)
        )
    if not floats:
        return value, value, torch.zeros_like(value), edge
    info = torch.finfo(reference.value.dtype)
    if not reference.followed:
        scale = value[_kind(value) == 0].abs()
        largest = float(scale.max()) if scale.numel() else 0.0
        return value, value, torch.full_like(value, OPAQUE * info.eps * largest + info.tiny), edge
    noise = noise.nan_to_num(0.0)
    if not bool(noise.any()):
        return value, value, noise, edge
    allowed = FACTOR * noise + FLOOR * info.eps * size + info.tiny
    return value, center, allowed, edge


def _escaped(reference: Reference, value: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """Where the reference overflows on the way to a number that its dtype has, and the other side finds it."""
    escaped = torch.zeros_like(value, dtype=torch.bool)
    if reference.oracle is None or not (reference.value.is_floating_point() or reference.value.is_complex()):
        return escaped
    oracle, info = _wide(reference.oracle), torch.finfo(reference.value.dtype)
    near = (candidate - oracle).abs() <= FLOOR * info.eps * oracle.abs() + info.tiny
    return (_kind(value) != 0) & (oracle.abs() <= info.max) & near


def _rule(reference: Reference, exact: bool, rtol: float | None, atol: float | None) -> str:
    if rtol is not None or atol is not None:
        return f"atol={atol or 0.0:g} + rtol={rtol or 0.0:g} * |a|"
    if not (reference.value.is_floating_point() or reference.value.is_complex()):
        return "integers and truth values must be equal"
    if exact:
        return "results of data movement must be equal"
    if not reference.followed:
        return f"{OPAQUE:g} ulp of the largest element: neither side can be followed in float64"
    return f"{FACTOR:g} times the error that the reference itself has, plus {FLOOR:g} ulp"


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """*tensor* for arithmetic: float64, int64; complex numbers with a last dim of two."""
    tensor = tensor.detach()
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex128).resolve_conj())
    return tensor.to(torch.float64)


def _parts(wide: torch.Tensor, tensor: torch.Tensor) -> int:
    return 2 if tensor.is_complex() else 1


def _kind(value: torch.Tensor) -> torch.Tensor:
    """0 for finite numbers, 1 and -1 for infinities, 2 for NaN."""
    kind = torch.where(value.isinf(), value.sign(), torch.zeros_like(value))
    return torch.where(value.isnan(), torch.full_like(value, 2.0), kind)
