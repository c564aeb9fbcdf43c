"""`explain`: what of a model runs as TVM code, what as an island, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx

from fxpasses.codegen.island import Islands
from fxpasses.errors import source_line
from fxpasses.fingerprint import target_name
from fxpasses.program import Program
from fxpasses.relax.control import compiled_bodies
from fxpasses.relax.emit import lower, outside
from fxpasses.view.tables import table_text

__all__ = ["Crossing", "Explanation", "Row", "explain"]


@dataclass(frozen=True)
class Row:
    """One operator of a program.

    `kind` is ``native`` (TVM code), ``island`` (runs in PyTorch) or
    ``unsupported`` (cannot be compiled); `reason` and `source`, the line of its
    first call, are told for the latter two, and `islands` tells which islands (counted
    from 1) the calls are in.
    """

    op: str
    count: int
    kind: Literal["native", "island", "unsupported"]
    reason: str = ""
    source: str = ""
    islands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Crossing:
    """One island: how many calls it makes, and how many bytes of tensors it shares with TVM code.

    The bytes are handed over without a copy; they are text where they depend on sizes.
    """

    calls: int
    bytes: int | str


@dataclass(frozen=True)
class Explanation:
    """The operators of a program, those that are not native first, and its islands."""

    rows: tuple[Row, ...]
    crossings: tuple[Crossing, ...] = ()

    @property
    def native(self) -> bool:
        """Whether all of the program is TVM code."""
        return all(row.kind == "native" for row in self.rows)

    @property
    def headline(self) -> str:
        """How many calls of each kind there are."""
        counts = dict.fromkeys(("native", "island", "unsupported"), 0)
        for row in self.rows:
            counts[row.kind] += row.count
        told = [f"{count} {kind}" for kind, count in counts.items() if count or kind == "native"]
        text = f"{sum(counts.values())} calls: {', '.join(told)}"
        if not self.crossings:
            return text
        sizes = [crossing.bytes for crossing in self.crossings]
        known = sum(size for size in sizes if isinstance(size, int))
        total = " + ".join([f"{known:,}", *(str(size) for size in sizes if not isinstance(size, int))])
        plural = "s" if len(sizes) > 1 else ""
        return f"{text}; {len(sizes)} crossing{plural} into PyTorch, {total} bytes shared"

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        return f"{self.headline}\n{table_text(self._cells(), right=(1,))}"

    __repr__ = __str__

    def _cells(self) -> list[tuple[str, ...]]:
        header = ("operator", "calls", "kind", "island", "reason", "source")
        return [
            header,
            *(
                (row.op, str(row.count), row.kind, ", ".join(map(str, row.islands)), row.reason, row.source)
                for row in self.rows
            ),
        ]

    def _repr_html_(self) -> str:
        from fxpasses.view.html import explanation_html

        return explanation_html(self)


def explain(
    model_or_program: Any,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    allow_random: bool = False,
) -> Explanation:
    """What `fxpasses.compile` would do with each operator of a model.

    The arguments are those of `fxpasses.compile`; nothing is built.
    """
    from fxpasses.codegen.compile import to_canonical, to_program

    program = to_program(model_or_program, args, kwargs, dynamic_shapes, allow_random)
    return explain_canonical(to_canonical(program))


def explain_canonical(program: Program) -> Explanation:
    """`explain` for a program that is canonical already."""
    reasons = outside(program)
    refused = {node: reason for node in reasons if (reason := Islands.refusal(node)) is not None}
    islands = Islands()
    if not refused:
        lower(program, islands=islands)
        reasons = islands.reasons
    island = {node: i for i, nodes in enumerate(islands.members, 1) for node in nodes}
    rows: dict[tuple[str, str, str], list[fx.Node]] = {}
    for module in compiled_bodies(program.graph_module, reasons):
        for node in module.graph.nodes:
            if node.op == "call_function":
                kind = "unsupported" if node in refused else "island" if node in reasons else "native"
                reason = refused.get(node) or reasons.get(node, "")
                rows.setdefault((kind, target_name(node.target), reason), []).append(node)
    order = ("unsupported", "island", "native")
    return Explanation(
        tuple(
            Row(
                op,
                len(nodes),
                kind,  # type: ignore[arg-type]
                reason,
                "" if kind == "native" else source_line(nodes[0]) or "",
                tuple(sorted({island[node] for node in nodes if kind == "island" and node in island})),
            )
            for (kind, op, reason), nodes in sorted(
                rows.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]), item[0][1])
            )
        ),
        tuple(Crossing(len(row.steps), row.bytes) for row in islands.rows),
    )
