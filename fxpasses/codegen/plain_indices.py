"""`plain_indices`: the index of a loop over several axes is that of the memory they run through.

A loop that was made of axes of lengths b and c has ``f // (b * c)``, ``f % (b * c) // c`` and ``f % c``
for places along them. TVM 0.27 sees that ``(f // (b * c) * b + f % (b * c) // c) * c + f % c`` is ``f``
where the lengths are numbers; where they are known only at run time, it does so for two axes. Here an
index is written out as a polynomial of variables and quotients, with

- ``x % n`` as ``x - x // n * n``,
- ``x % (b * c) // c`` as ``x // c - x // (b * c) * b``.

What is left of the variable of the loop is then a multiple of it, or the index stays as it is.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import at_place, uses
from fxpasses.codegen.schedules.expressions import int_value, returning_none
from fxpasses.relax import tvm_api as T

__all__ = ["plain_indices"]

Polynomial = dict[tuple[int, ...], int]
"""The factor of each product of atoms, which stand in it by their numbers, sorted."""


def plain_indices() -> Any:
    """The pass, for indices of flat buffers."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        kinds = [
            (T.ir.TensorLoad, lambda load: _rewritten(load, T.tirx.BufferLoad, load.source)),
            (
                T.tirx.BufferStore,
                lambda store: _rewritten(
                    store, lambda buffer, at: T.tirx.BufferStore(buffer, store.value, at), store.buffer
                ),
            ),
        ]
        return T.tvm_ffi.structural_map(function, kinds)

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.plain_indices")


def _rewritten(access: Any, made: Any, buffer: Any) -> Any:
    if len(access.indices) != 1:
        return access
    (index,) = access.indices
    plain = _plain(index)
    return access if plain is index else made(buffer, [plain])


def _plain(index: Any) -> Any:
    """*index* with one multiple of each variable that it divides by sizes, where that is what it comes to."""
    for var in _divided(index):
        step = _Terms().step(index, var)
        if step is not None:
            start = T.Analyzer().simplify(at_place(index, {var: T.tirx.const(0, var.ty.dtype)}))
            index = start + var * step
    return index


def _divided(index: Any) -> list[Any]:
    """The variables that are divided by what is no number, in *index*, and are in no divisor."""
    tirx = T.tirx
    divisions: list[Any] = []
    T.tvm_ffi.structural_walk(
        index, [(kind, returning_none(divisions.append)) for kind in (tirx.FloorDiv, tirx.FloorMod)]
    )
    found: list[Any] = []
    for division in divisions:
        if int_value(division.b) is None:
            T.tvm_ffi.structural_walk(division.a, (tirx.Var, returning_none(found.append)))
    return [
        var
        for at, var in enumerate(found)
        if not any(var.same_as(other) for other in found[:at])
        and not any(uses(division.b, [var]) for division in divisions)
    ]


class _Terms:
    """Polynomials whose atoms are variables, quotients, and whatever else is no sum and no product."""

    def __init__(self) -> None:
        self.atoms: list[Any] = []
        """An expression, or the two polynomials of a quotient."""

    def step(self, index: Any, var: Any) -> int | None:
        """How far apart neighbours along *var* lie; None where that is not one number."""
        own = self.number_of(var)
        terms = {atoms: factor for atoms, factor in self.of(index).items() if self.has(atoms, var)}
        return terms.get((own,), 0) if terms.keys() <= {(own,)} else None

    def has(self, atoms: tuple[int, ...], var: Any) -> bool:
        for number in atoms:
            atom = self.atoms[number]
            if isinstance(atom, tuple):
                if any(self.has(product, var) for polynomial in atom for product in polynomial):
                    return True
            elif uses(atom, [var]):
                return True
        return False

    def of(self, value: Any) -> Polynomial:
        """The polynomial of an integer expression."""
        tirx = T.tirx
        if isinstance(value, tirx.IntImm):
            return {(): int(value)} if int(value) else {}
        if isinstance(value, tirx.Add):
            return _sum(self.of(value.a), self.of(value.b))
        if isinstance(value, tirx.Sub):
            return _sum(self.of(value.a), self.of(value.b), -1)
        if isinstance(value, tirx.Mul):
            return _product(self.of(value.a), self.of(value.b))
        if isinstance(value, tirx.FloorMod):
            n = self.of(value.b)
            return _sum(self.of(value.a), _product(self.quotient(value.a, n), n), -1)
        if isinstance(value, tirx.FloorDiv):
            return self.quotient(value.a, self.of(value.b))
        return {(self.number_of(value),): 1}

    def quotient(self, value: Any, divisor: Polynomial) -> Polynomial:
        """``value // divisor``."""
        if isinstance(value, T.tirx.FloorMod):
            whole = self.of(value.b)
            times = _divided_by(whole, divisor)
            if times is not None:
                return _sum(
                    self.quotient(value.a, divisor), _product(self.quotient(value.a, whole), times), -1
                )
        return {(self.number_of((self.of(value), divisor)),): 1}

    def number_of(self, atom: Any) -> int:
        for number, other in enumerate(self.atoms):
            if isinstance(atom, tuple) or isinstance(other, tuple):
                if atom == other:
                    return number
            elif T.tvm_ffi.structural_equal(atom, other):
                return number
        self.atoms.append(atom)
        return len(self.atoms) - 1


def _sum(one: Polynomial, other: Polynomial, sign: int = 1) -> Polynomial:
    made = dict(one)
    for atoms, factor in other.items():
        made[atoms] = made.get(atoms, 0) + sign * factor
    return {atoms: factor for atoms, factor in made.items() if factor}


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    made: Polynomial = {}
    for atoms, factor in one.items():
        made = _sum(made, {tuple(sorted(atoms + more)): factor * by for more, by in other.items()})
    return made


def _divided_by(whole: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """The polynomial whose product with *divisor* is *whole*, if there is one."""
    result: Polynomial = {}
    while whole and divisor:
        (lead, factor), (other, by) = (max(p.items(), key=_order) for p in (whole, divisor))
        rest = list(lead)
        if factor % by or not all(_removed(rest, atom) for atom in other):
            return None
        term = {tuple(rest): factor // by}
        result = _sum(result, term)
        whole = _sum(whole, _product(term, divisor), -1)
    return result if divisor else None


def _order(term: tuple[tuple[int, ...], int]) -> tuple[int, tuple[int, ...]]:
    """By degree, then by the atoms: an order that stays where both sides are multiplied."""
    atoms, _ = term
    return len(atoms), atoms


def _removed(atoms: list[int], atom: int) -> bool:
    if atom not in atoms:
        return False
    atoms.remove(atom)
    return True
