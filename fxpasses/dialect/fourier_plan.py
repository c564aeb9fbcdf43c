"""How Fourier transforms are divided, and the numbers that they are made with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch

__all__ = [
    "Plan",
    "column_tables",
    "convolution_plan",
    "halves",
    "is_smooth",
    "plan",
    "root",
    "rounds",
    "row_tables",
    "split",
    "unit",
]

FORMULA = 32
"""The longest transform that is written out."""

_NEAR = 256
"""Of more elements than these, vectors of complex numbers do not fit into the nearest cache."""


@dataclass(frozen=True)
class Plan:
    """How complex elements side by side are transformed.

    Attributes:
        columns: the lengths of the columns of both rounds.
        lanes: elements in a vector.
    """

    columns: tuple[int, int]
    lanes: int

    @property
    def size(self) -> int:
        """How many elements there are."""
        return self.columns[0] * self.columns[1]


@cache
def plan(size: int, lanes: int) -> Plan | None:
    """The cheapest plan for vectors of up to so many *lanes*; None, for any number of them, where there is none."""
    if not is_smooth(size):
        return None
    found = []
    for a in range(4, min(size // 4, FORMULA**3) + 1):
        if size % a:
            continue
        b, width = size // a, lanes
        while width > min(a, b):
            width //= 2
        operations = _column_cost(a) * -(-b // width) + _column_cost(b) * -(-a // width)
        cost = operations * (0.3 + 0.7 * width / lanes)
        found.append((_odd_end(a, b), cost, Plan((a, b), width)))
    return min(found, key=lambda each: each[:2])[-1] if found else None


def convolution_plan(size: int, lanes: int) -> Plan:
    """That of the transforms which one of any *size* is made with, as a convolution."""
    least = 2 * size - 1
    lengths = {max(odd << max(-(-least // odd) - 1, 0).bit_length(), 64) for odd in (1, 3, 5, 9, 15)}
    found = plan(min(lengths), lanes)
    assert found is not None
    return found


@cache
def is_smooth(size: int) -> bool:
    """Whether no prime factor is longer than a formula."""
    smallest = next((d for d in range(2, min(size, FORMULA) + 1) if size % d == 0), None)
    return size == 1 or (smallest is not None and is_smooth(size // smallest))


@cache
def rounds(size: int) -> tuple[int, int]:
    """The length of the formulas that a column begins with, and that of the columns which follow."""
    if size <= FORMULA:
        return size, 1
    found = [(r, size // r) for r in range(2, FORMULA + 1) if size % r == 0]
    return min(found, key=lambda pair: (_odd_end(*pair), sum(_column_cost(r) / r for r in pair), pair))


@cache
def split(size: int) -> tuple[int, int]:
    """The lengths of both rounds of a formula, as near to each other as can be; (size, 1) for a prime."""
    found = [(first, size // first) for first in range(2, size) if size % first == 0]
    return min(found, key=lambda pair: (_odd_end(*pair), max(pair)), default=(size, 1))


def _odd_end(first: int, second: int) -> bool:
    """Whether a second round lacks half or quarter turns, which the first would do.

    These need no rounding. Where they come last, the sums of whole numbers that only they make are exact.
    """
    return math.gcd(second, 4) < math.gcd(first * second, 4)


@cache
def _formula_cost(size: int) -> float:
    """About the number of operations on vectors."""
    inner, outer = split(size)
    if outer == 1:
        return {1: 0, 2: 4}.get(size, size * size + 3 * size)
    turned = (inner - 1) * (outer - 1) * (0 if size == 4 else 4)
    return outer * _formula_cost(inner) + inner * _formula_cost(outer) + turned


@cache
def _column_cost(size: int) -> float:
    """The operations of a column, and its loads and stores."""
    first, second = rounds(size)
    cost = second * _formula_cost(first) + (8 if size <= _NEAR else 28) * size
    return cost if second == 1 else cost + first * _column_cost(second) + 4 * size


# -- constants, in float64 -----------------------------------------------------------------


def unit(turns: torch.Tensor, size: int, forward: bool = True) -> torch.Tensor:
    """``exp(-2 pi i turns / size)`` (or plus) in float64, as pairs.

    Whole quarters of a circle are turned without rounding, so that cosine and
    sine are asked for angles of an eighth at most, where they are right to the last place.
    """
    quarter = (4 * turns + size // 2).div(size, rounding_mode="floor")
    angle = (4 * turns - quarter * size).double() * (math.pi / (2 * size))
    cosine, sine = angle.cos(), angle.sin()
    quarter = quarter % 4
    swapped = quarter % 2 == 1
    real = torch.where(swapped, sine, cosine) * torch.where((quarter == 1) | (quarter == 2), -1.0, 1.0)
    imaginary = torch.where(swapped, cosine, sine) * torch.where(quarter >= 2, -1.0, 1.0)
    return torch.stack([real, -imaginary if forward else imaginary], -1) + 0.0


@cache
def root(turns: int, size: int) -> tuple[float, float]:
    """The parts of ``exp(-2 pi i turns / size)``."""
    real, imaginary = unit(torch.tensor(turns), size).tolist()
    return real, imaginary


def column_tables(size: int) -> dict[str, torch.Tensor]:
    """``turns of n`` for each column of several rounds: the roots of unity after the first, as pairs."""
    first, second = rounds(size)
    if second == 1:
        return {}
    turns = torch.arange(second)[:, None] * torch.arange(first)[None, :]
    return {f"turns of {size}": unit(turns, size).flatten(), **column_tables(second)}


def row_tables(size: int, plan: Plan, scale: float) -> dict[str, torch.Tensor]:
    """The constants of rows of *size* elements that are made with *plan*, with a factor *scale* among them.

    ``roots`` are the roots of unity between the two rounds. For a convolution there are ``squares`` and
    ``distances``: as ``2 j k = j ** 2 + k ** 2 - (k - j) ** 2``, element k of the transform is the sum of the
    elements j, each turned by ``j ** 2`` and back by the square of the distance, and turned by ``k ** 2``
    itself. The latter are given as their spectrum. All real parts come first, then all imaginary ones.
    """
    a, b = plan.columns
    roots = unit(torch.arange(a)[:, None] * torch.arange(b)[None, :], plan.size)
    columns = {**column_tables(a), **column_tables(b)}
    if size == plan.size:
        return {"roots": _planes(roots * scale), **columns}
    place = torch.arange(size)
    squares = unit(place * place % (2 * size), 2 * size)
    distances = torch.zeros(plan.size, dtype=torch.complex128)
    distances[:size] = torch.view_as_complex(squares).conj()
    distances[plan.size - size + 1 :] = distances[1:size].flip(0)
    spectrum = torch.view_as_real(torch.fft.fft(distances) * (scale / plan.size))
    return {
        "roots": _planes(roots),
        "squares": _planes(squares),
        "distances": _planes(spectrum),
        **columns,
    }


def halves(size: int, *, back: bool) -> dict[str, torch.Tensor]:
    """``halves``: what tells *size* real values with even places from those with odd ones (or mixes them again)."""
    pairs = unit(torch.arange(size // 2 + 1), size, not back)
    if back:  # times i
        pairs = torch.stack([-pairs[:, 1], pairs[:, 0]], -1)
    return {"halves": _planes(pairs)}


def _planes(pairs: torch.Tensor) -> torch.Tensor:
    return torch.stack(pairs.reshape(-1, 2).unbind(-1)).flatten()
