"""Programs, histories and findings as rich tables for the terminal."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fxpasses.fingerprint import SymbolNames, target_name
from fxpasses.view.tables import byte_text, history_rows, report_headline, report_rows

if TYPE_CHECKING:
    from fxpasses.pipeline import History
    from fxpasses.program import Program
    from fxpasses.verify import Report, Rule

__all__ = [
    "arguments_table",
    "core_table",
    "history_table",
    "open_console",
    "operators_table",
    "outcomes_table",
    "plain_table",
    "report_table",
    "rules_table",
    "summary_table",
    "support_table",
    "systems_table",
]


def open_console(*, stderr: bool = False) -> Console:
    """A console without guesses about colours of values; wide tables stay whole in files and logs."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    return console


def plain_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table whose columns that end in a number sign are right-aligned: ``"ms #"``."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        number = column.endswith(" #")
        table.add_column(column.removesuffix(" #"), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def history_table(history: History, title: str = "Passes") -> Table:
    """One row a pass: time, nodes before and after, calls added and removed; dim if nothing changed."""
    header, *rows, total = history_rows(history)
    shown = [
        i for i in range(len(header)) if i < 3 or (header[i] != "modified" and any(row[i] for row in rows))
    ]
    numbers = ("ms", "nodes", "added", "removed", "difference")
    columns = [f"{header[i]} #" if header[i] in numbers else header[i] for i in shown]
    styled = [
        [Text(row[i], style="" if step.modified else "dim") for i in shown]
        for step, row in zip(history, rows, strict=True)
    ]
    table = plain_table(title, columns, styled)
    table.add_section()
    table.add_row(*(total[i] for i in shown), style="bold")
    return table


def report_table(report: Report) -> Table:
    """One row for each violation: rule, node, problem, source line."""
    header, *rows = report_rows(report)
    return plain_table(report_headline(report), header, rows)


def rules_table(rules: Iterable[Rule]) -> Table:
    """One row for each rule: name, level, what holds."""
    return plain_table("Rules", ["rule", "level", "what holds"], [(r.name, r.level, r.doc) for r in rules])


def summary_table(program: Program, title: str) -> Table:
    """Counts of calls, parameters and buffers, dynamic sizes, door of capture, fingerprint."""
    symbols = SymbolNames()
    sizes: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for node in program.placeholders:
        role = node.meta["role"]
        if role.kind != "user":
            tensor = program.tensors[role.target]
            counts[role.kind] += 1
            sizes[role.kind] = sizes.get(role.kind, 0) + tensor.numel() * tensor.element_size()
    rows = [("calls", str(sum(node.op == "call_function" for node in program.nodes())))]
    rows += [
        (plural, f"{counts[kind]} ({byte_text(sizes[kind])})")
        for kind, plural in (("param", "parameters"), ("buffer", "buffers"), ("constant", "constants"))
        if counts[kind]
    ]
    rows += [
        ("dynamic size", f"{symbols.text(symbol)} in [{bounds.lower}, {bounds.upper}]")
        for symbol, bounds in program.ranges.items()
    ]
    if "via" in program.notes:
        rows.append(("captured by", str(program.notes["via"])))
        rows += [(f"not by {door}", reason) for door, reason in program.notes.get("skipped", {}).items()]
    rows.append(("fingerprint", program.fingerprint[:16]))
    return plain_table(title, ["", ""], rows)


def arguments_table(program: Program) -> Table:
    """Inputs, outputs and mutations with their types."""
    symbols = SymbolNames()
    rows = [
        ("input", node.meta["role"].target, symbols.type_text(node.meta.get("val")))
        for node in program.inputs
    ]
    places = itertools.count()
    for role, value in program.outputs:
        val = value.meta.get("val") if isinstance(value, torch.fx.Node) else value
        name = str(next(places)) if role.target is None else role.target
        rows.append((role.kind.replace("user", "output").replace("_", " "), name, symbols.type_text(val)))
    return plain_table("Inputs and outputs", ["", "name", "type"], rows)


def operators_table(program: Program) -> Table:
    """How often each operator is called, and whether it has a lowering."""
    from fxpasses.relax.emit import unsupported

    lacking = unsupported(program)
    counts = Counter(node.target for node in program.nodes() if node.op == "call_function")
    rows = [
        (target_name(target), str(count), "no" if target in lacking else "yes")
        for target, count in sorted(counts.items(), key=lambda item: (-item[1], target_name(item[0])))
    ]
    return plain_table("Operators", ["operator", "calls #", "lowering"], rows)


# -- the support matrix ----------------------------------------------------------------


def core_table() -> Table:
    """How many core overloads of the installed torch take which road, and why some run in PyTorch."""
    from fxpasses.schema import inference_overloads
    from fxpasses.support import route

    routes = {op: route(op) for op in inference_overloads()}
    kinds = Counter(found.kind for found in routes.values())
    rows: list[tuple[str, ...]] = [
        (kind, str(count), "") for kind, count in kinds.most_common() if kind != "island"
    ]
    for op in sorted(routes, key=str):
        if routes[op].kind == "island":
            rows.append(("island", "1", f"{op}: {routes[op].reason}"))
    return plain_table(f"Core overloads of torch {torch.__version__}", ["road", "overloads #", ""], rows)


def outcomes_table(matrix: Mapping[str, Any]) -> Table:
    """Measured calls by dtype and outcome."""
    from fxpasses.support import OUTCOMES

    counts: dict[str, Counter[str]] = {}
    for by_dtype in matrix["calls"].values():
        for dtype, outcomes in by_dtype.items():
            counts.setdefault(dtype, Counter()).update(outcomes)
    rows = [
        (dtype, str(counts[dtype].total()), *(str(counts[dtype][outcome]) for outcome in OUTCOMES))
        for dtype in sorted(counts)
    ]
    title = f"Calls from the operator samples of torch {matrix['torch']}: {len(matrix['calls'])} overloads"
    return plain_table(title, ["dtype", "calls #", *(f"{outcome} #" for outcome in OUTCOMES)], rows)


def systems_table(matrix: Mapping[str, Any]) -> Table:
    """The same calls answered by fxpasses and by TVM's own importer."""
    from fxpasses.support import FAILURES, OUTCOMES

    kinds = [*OUTCOMES, *FAILURES]
    rows = []
    for name, counts in matrix["systems"].items():
        numbers = [counts.get(kind, 0) for kind in kinds]
        rows.append((name, str(counts["units"]), str(sum(numbers)), *map(str, numbers)))
    columns = ["system", "units #", "calls #", *(f"{kind} #" for kind in kinds)]
    return plain_table("Beside TVM's own importer, on the units that both have worked through", columns, rows)


def support_table(matrix: Mapping[str, Any], names: Sequence[str]) -> Table:
    """One row for each overload and dtype, with the reasons of islands and refusals."""
    from fxpasses.support import OUTCOMES

    rows = []
    for name in names:
        reasons = "; ".join(matrix["reasons"].get(name, ()))
        for dtype, outcomes in matrix["calls"][name].items():
            excepted = outcomes.keys() & {"island", "refused"}
            counts = (str(outcomes.get(outcome, "")) for outcome in OUTCOMES)
            rows.append((name, dtype, *counts, reasons if excepted else ""))
    columns = ["overload", "dtype", *(f"{outcome} #" for outcome in OUTCOMES), "reason"]
    return plain_table("Calls compared with eager PyTorch", columns, rows)
