"""The operator table of random programs: rows of an operator and how to draw its arguments.

A row gives each argument, by its name in the operator's schema, a drawer (see
`fxpasses.testing.drawers`), or it has one function that draws them together. A
motif makes several calls, for patterns that chance would hardly bring about.
Each family has a file; in it, what models use often stands first.

Own operators are added as ``programs(ops=[*OPS, Row(mylib.foo.default, {"x": tensor(FLOAT)})])``,
or as the bare overload, whose drawers are then guessed from its schema.
"""

from __future__ import annotations

from fxpasses.testing.drawers import Motif, Row
from fxpasses.testing.rows.binary import BINARY
from fxpasses.testing.rows.creation import CREATION
from fxpasses.testing.rows.indexing import INDEXING
from fxpasses.testing.rows.layer import LAYER
from fxpasses.testing.rows.matmul import MATMUL
from fxpasses.testing.rows.motif import MOTIFS
from fxpasses.testing.rows.movement import MOVEMENT
from fxpasses.testing.rows.pointwise import POINTWISE
from fxpasses.testing.rows.reduction import REDUCTION
from fxpasses.testing.rows.selection import SELECTION
from fxpasses.testing.rows.sorting import SORTING
from fxpasses.testing.rows.view import VIEW

__all__ = ["FAMILIES", "OPS"]

FAMILIES: dict[str, list[Row | Motif]] = {
    "pointwise": POINTWISE,
    "binary": BINARY,
    "view": VIEW,
    "reduction": REDUCTION,
    "movement": MOVEMENT,
    "matmul": MATMUL,
    "selection": SELECTION,
    "indexing": INDEXING,
    "layer": LAYER,
    "creation": CREATION,
    "sorting": SORTING,
    "motif": MOTIFS,
}
"""The table, by family; a family is chosen first, then a row in it."""

OPS: list[Row | Motif] = [row for rows in FAMILIES.values() for row in rows]
"""All rows."""
