"""Histories and reports as aligned text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fxpasses.view.text import short_source

if TYPE_CHECKING:
    from fxpasses.pipeline import History, Step
    from fxpasses.verify import Report

__all__ = ["byte_text", "history_rows", "history_text", "report_rows", "report_text", "table_text"]


def table_text(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of cells, the first of which is the header, in columns two spaces apart.

    *right* lists the columns that are aligned to the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def byte_text(count: int) -> str:
    """``1536`` as ``1.5 KiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


# -- histories -----------------------------------------------------------------------

HISTORY_HEADER = ("pass", "ms", "nodes", "added", "removed", "modified", "difference")


def history_text(history: History) -> str:
    """One line a pass: time, nodes before and after, calls made and gone, difference."""
    if not len(history):
        return "no passes were run"
    rows = history_rows(history)
    empty = [i for i in range(len(rows[0])) if i > 4 and not any(row[i] for row in rows[1:])]
    rows = [tuple(cell for i, cell in enumerate(row) if i not in empty) for row in rows]
    lines = table_text(rows, right=range(1, 5)).splitlines()
    lines.insert(-1, lines[1])  # a rule above the total
    return "\n".join(lines)


def history_rows(history: History) -> list[tuple[str, ...]]:
    """Header, a row for each step, and a row for all of them together."""
    before, after = history[0].nodes_before, history[-1].nodes_after
    differences = [step.difference for step in history if step.difference is not None]
    total = (
        "total",
        _milliseconds(history.milliseconds),
        _change(before, after),
        "",
        "",
        "",
        _difference(max(differences)) if differences else "",
    )
    return [HISTORY_HEADER, *map(_history_row, history), total]


def _history_row(step: Step) -> tuple[str, ...]:
    return (
        step.name,
        _milliseconds(step.milliseconds),
        _change(step.nodes_before, step.nodes_after),
        f"+{step.added}" if step.added else "",
        f"-{step.removed}" if step.removed else "",
        "yes" if step.modified else "",
        _difference(step.difference) if step.difference is not None else "",
    )


def _milliseconds(value: float) -> str:
    return f"{value:.1f}"


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> {after}"


def _difference(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


# -- reports -------------------------------------------------------------------------

REPORT_HEADER = ("rule", "node", "problem", "source")


def report_text(report: Report) -> str:
    """A headline, and a line for each violation with rule, node, problem and source line."""
    headline = report_headline(report)
    if not report:
        return headline
    header, *rows = report_rows(report)
    rows = [(*row[:-1], short_source(row[-1])) if row[-1] else row for row in rows]
    return f"{headline}\n{table_text([header, *rows])}"


def report_headline(report: Report) -> str:
    """What was checked, and what came of it."""
    if not report:
        return f"{report.level}: {len(report.rules)} rules hold"
    broken = len({violation.rule for violation in report})
    return (
        f"{report.level}: {len(report)} violation{'s' if len(report) > 1 else ''} of "
        f"{broken} rule{'s' if broken > 1 else ''}"
    )


def report_rows(report: Report) -> list[tuple[str, ...]]:
    """Header and a row for each violation."""
    rows = [(v.rule, v.place or "(program)", v.message, v.source or "") for v in report]
    return [REPORT_HEADER, *rows]
