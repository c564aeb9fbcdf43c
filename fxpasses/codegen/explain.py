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
from fxpasses.relax.emit import lower, unsupported
from fxpasses.view.tables import table_text

__all__ = ["Explanation", "Row", "explain"]


@dataclass(frozen=True)
class Row:
    """One operator of a program.

    `kind` is ``native`` (TVM code), ``island`` (runs in PyTorch) or
    ``unsupported`` (cannot be compiled); `reason` and `source`, the line of its
    first call, are told for the latter two.
    """

    op: str
    count: int
    kind: Literal["native", "island", "unsupported"]
    reason: str = ""
    source: str = ""


@dataclass(frozen=True)
class Explanation:
    """The operators of a program, those that are not native first."""

    rows: tuple[Row, ...]

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
        return f"{sum(counts.values())} calls: {', '.join(told)}"

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        return f"{self.headline}\n{table_text(self._cells(), right=(1,))}"

    __repr__ = __str__

    def _cells(self) -> list[tuple[str, ...]]:
        header = ("operator", "calls", "kind", "reason", "source")
        return [header, *((row.op, str(row.count), row.kind, row.reason, row.source) for row in self.rows)]

    def _repr_html_(self) -> str:
        from fxpasses.view.html import explanation_html

        return explanation_html(self)


def explain(
    model_or_program: Any,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Explanation:
    """What `fxpasses.compile` would do with each operator of a model.

    The arguments are those of `fxpasses.compile`; nothing is built.
    """
    from fxpasses.codegen.compile import to_canonical, to_program

    return explain_canonical(to_canonical(to_program(model_or_program, args, kwargs, dynamic_shapes)))


def explain_canonical(program: Program) -> Explanation:
    """`explain` for a program that is canonical already."""
    refused = {
        node: reason
        for nodes in unsupported(program).values()
        for node in nodes
        if (reason := Islands.refusal(node)) is not None
    }
    reasons: dict[fx.Node, str] = {}
    if refused:
        for nodes in unsupported(program).values():
            reasons.update((node, "it has no lowering") for node in nodes if node not in refused)
    else:
        islands = Islands()
        lower(program, islands=islands)
        reasons = islands.reasons
    rows: dict[tuple[str, str, str], list[fx.Node]] = {}
    for node in program.nodes():
        if node.op != "call_function":
            continue
        kind = "unsupported" if node in refused else "island" if node in reasons else "native"
        reason = refused.get(node) or reasons.get(node, "")
        rows.setdefault((kind, target_name(node.target), reason), []).append(node)
    order = ("unsupported", "island", "native")
    return Explanation(
        tuple(
            Row(op, len(nodes), kind, reason, "" if kind == "native" else source_line(nodes[0]) or "")  # type: ignore[arg-type]
            for (kind, op, reason), nodes in sorted(
                rows.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]), item[0][1])
            )
        )
    )
