"""Tables for the terminal."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from torch import nn

import fxpasses as fxp
from fxpasses.view import console


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.add(self.linear(x), 1, alpha=2)


def lines(table: object) -> list[list[str]]:
    """The cells of a printed table, row by row, borders left out."""
    printer = Console(width=200, no_color=True)
    with printer.capture() as capture:
        printer.print(table)
    text = capture.get().replace("┃", "│")
    return [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line
    ]


@pytest.fixture(scope="module")
def program() -> fxp.Program:
    return fxp.capture(Net().eval(), (torch.randn(2, 4),))


def test_history(program: fxp.Program) -> None:
    after, history = fxp.canonicalize.run(program)
    header, *rows, total = lines(console.history_table(history))
    assert header[:3] == ["pass", "ms", "nodes"]
    assert [row[0] for row in rows] == [step.name for step in history]
    calls = [sum(node.op == "call_function" for node in p.nodes()) for p in (program, after)]
    assert total[0] == "total"
    assert total[2] == (f"{calls[0]} -> {calls[1]}" if calls[0] != calls[1] else str(calls[0]))


def test_history_shows_differences_where_passes_were_compared(program: fxp.Program) -> None:
    assert "difference" not in lines(console.history_table(fxp.canonicalize.run(program)[1]))[0]
    pipeline = fxp.Pipeline(fxp.passes.remove_noops, hook=lambda before, pass_, after: 0.125)
    header, row, _ = lines(console.history_table(pipeline.run(program)[1]))
    assert row[header.index("difference")] == "1.2e-01"


def test_summary(program: fxp.Program) -> None:
    found = {row[0]: row[1] for row in lines(console.summary_table(program, "net"))}
    assert found["parameters"] == "2 (160 B)"
    assert found["buffers"] == "1 (8 B)"
    assert found["fingerprint"] == program.fingerprint[:16]


def test_summary_names_dynamic_sizes() -> None:
    batch = torch.export.Dim("batch", min=2, max=9)
    program = fxp.capture(nn.ReLU(), (torch.randn(4, 3),), dynamic_shapes=({0: batch},))
    found = {row[0]: row[1] for row in lines(console.summary_table(program, "relu"))}
    assert found["dynamic size"] == "s0 in [2, 9]"


def test_arguments(program: fxp.Program) -> None:
    rows = lines(console.arguments_table(program))[1:]
    assert ["input", "x", "f32[2, 4]"] in rows
    assert ["output", "0", "f32[2, 8]"] in rows
    assert ["buffer mutation", "calls", "i64[]"] in rows


def test_operators(program: fxp.Program) -> None:
    header, *rows = lines(console.operators_table(fxp.canonicalize(program)))
    assert header == ["operator", "calls", "lowering"]
    assert ["aten.addmm.default", "1", "yes"] in rows


def test_report(program: fxp.Program) -> None:
    header, *rows = lines(console.report_table(fxp.verify(program, "canonical")))
    assert header == ["rule", "node", "problem", "source"]
    assert any("alpha" in row[2] for row in rows)
