"""`programs`: a hypothesis strategy of random well-typed programs, and of arguments for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch._ops import OpOverload

from fxpasses.errors import FxpassesError
from fxpasses.program import Program
from fxpasses.testing.drawers import ALL, Motif, Row, guess_row
from fxpasses.testing.growth import Growth
from fxpasses.testing.harvest import harvest
from fxpasses.testing.rows import FAMILIES
from fxpasses.testing.values import Inputs, sample_inputs

__all__ = ["inputs_for", "programs"]


def programs(
    *,
    ops: Iterable[Row | Motif | OpOverload] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    max_nodes: int = 8,
    mutation: bool = True,
    dynamic: bool = False,
) -> st.SearchStrategy[Program]:
    """Random programs, of the kind that capture gives: well formed, not canonical.

    They have parameters, buffers, constants and one or several outputs in a
    structure, among them now and then None, a number, an input, or a value
    returned twice. They shrink to few calls, small shapes and float32.

    Args:
        ops: which operators to use: rows of `fxpasses.testing.rows`, or
            overloads, for which all their rows are taken (a row is guessed from
            the schema where there is none). All rows if None.
        dtypes: of inputs and of results that an argument chooses; all if None.
        max_nodes: greatest number of steps; a step is a call, or the few calls
            of a motif.
        mutation: whether programs may change buffers and inputs.
        dynamic: give inputs a symbolic first dim now and then.
    """
    table = _table(ops)
    allowed = tuple(dtypes) if dtypes is not None else ALL
    if not allowed or not set(allowed) <= set(ALL):
        raise FxpassesError(f"dtypes must be some of {', '.join(map(str, ALL))}, got {dtypes!r}")
    if max_nodes < 1:
        raise FxpassesError(f"max_nodes must be at least 1, got {max_nodes}")

    return _Programs(table, allowed, max_nodes, mutation, dynamic)


def inputs_for(program: Program, *, special: bool = False) -> st.SearchStrategy[Inputs]:
    """Arguments for *program*, as `sample_inputs` makes them from a seed.

    ``program.run(*inputs, **inputs.kwargs)`` runs it.
    """
    return st.integers(0, 2**16).map(lambda seed: sample_inputs(program, seed, special=special))


def _table(ops: Iterable[Row | Motif | OpOverload] | None) -> list[list[Row | Motif]]:
    if ops is None:
        return list(FAMILIES.values())
    chosen = list(ops)
    overloads = {op for op in chosen if isinstance(op, OpOverload)}
    table = []
    for rows in FAMILIES.values():
        family = [row for row in rows if row in chosen or (isinstance(row, Row) and row.op in overloads)]
        if family:
            table.append(family)
    known = {row.op for rows in FAMILIES.values() for row in rows if isinstance(row, Row)}
    everything = [row for rows in FAMILIES.values() for row in rows]
    own: list[Row | Motif] = [
        row for row in chosen if not isinstance(row, OpOverload) and row not in everything
    ]
    own += [guess_row(op) for op in chosen if isinstance(op, OpOverload) and op not in known]
    table += [own] if own else []
    if not table:
        raise FxpassesError("ops is empty: no operator to build programs from")
    return table


class _Programs(SearchStrategy[Program]):
    """Draws plain integers, and each step as an example with a label of its own.

    Hypothesis spends five of six examples on copying one part of an example
    over another with the same label. For programs that makes few new ones out
    of many tries, so no two parts share a label.
    """

    def __init__(
        self,
        table: list[list[Row | Motif]],
        dtypes: Sequence[torch.dtype],
        max_nodes: int,
        mutation: bool,
        dynamic: bool,
    ) -> None:
        super().__init__()
        self.table, self.dtypes, self.max_nodes = table, dtypes, max_nodes
        self.mutation, self.dynamic = mutation, dynamic

    def __repr__(self) -> str:
        return "programs()"

    def do_draw(self, data: Any) -> Program:
        growth = Growth(data.draw_integer, self.dtypes, self.dynamic)
        step = _Step(growth, self.table)
        for number in range(data.draw_integer(1, self.max_nodes)):
            data.draw(step, label=_LABEL + number)
        return harvest(growth, mutation=self.mutation)


class _Step(SearchStrategy[None]):
    """One step; its first choice shrinks to doing nothing."""

    def __init__(self, growth: Growth, table: list[list[Row | Motif]]) -> None:
        super().__init__()
        self.growth, self.table = growth, table

    def do_draw(self, data: Any) -> None:
        growth = self.growth
        if growth.integer(0, 19) == 0:
            return
        growth.attempt(growth.choose(growth.choose(self.table)))


_LABEL = 0x6678
