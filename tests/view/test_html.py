"""HTML for notebooks: well formed, complete, escaped, and no larger than a notebook bears."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn

from fxpasses.passes import canonicalize
from fxpasses.pipeline import History, Step
from fxpasses.program import Program
from fxpasses.verify import Report, Violation, verify
from fxpasses.view.html import history_html, program_html, report_html

VOID = {"br"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers the text of table cells by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag != "script"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor, flags: Any) -> dict[str, Any]:
        self.count.add_(1)
        y = torch.cond(x.sum() > 0, torch.sin, torch.cos, (self.linear(x),))
        return {"y": y, "none": None, "top": y.max(0)[0]}


@pytest.fixture(scope="module")
def program() -> Program:
    batch = torch.export.Dim("batch", max=64)
    exported = torch.export.export(
        Model().eval(), (torch.randn(3, 4), None), dynamic_shapes=({0: batch}, None)
    )
    return canonicalize(Program.from_exported_program(exported))


def deep(count: int) -> Program:
    def sines(x: torch.Tensor) -> torch.Tensor:
        for _ in range(count):
            x = x.sin()
        return x

    class Sines(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sines(x)

    return Program.from_exported_program(torch.export.export(Sines(), (torch.randn(2),)))


def test_program_shows_everything(program: Program) -> None:
    page = Page(program._repr_html_())
    cells = {cell.strip() for row in page.rows for cell in row}
    assert {node.name for node in program.nodes() if node.op == "call_function"} <= cells
    assert {node.name for node in program.placeholders} <= cells
    assert {"x", "flags", "linear.weight", "linear.bias", "count"} <= cells
    assert ["new value of buffer count", "add", "i64[]"] in page.rows
    assert "s0 in [0, 64]" in page.text
    assert program.fingerprint[:12] in page.text
    addmm = next(row for row in page.rows if row[0] == "addmm")
    assert addmm[1] == "f32[s0, 4]"
    assert addmm[2].startswith("aten.addmm.default(tensor")
    assert addmm[3].startswith("test_html.py:") or "linear.py:" in addmm[3]


def test_bodies_are_indented_under_their_name(program: Program) -> None:
    page = Page(program_html(program))
    rows = [row[0].strip() for row in page.rows]
    start = rows.index("def body")
    assert rows[start : start + 3] == ["def body", "sin", "return"]


def test_a_reference_tells_its_type_on_hovering(program: Program) -> None:
    assert "f32[s0, 4]" in Page(program_html(program)).titles


def test_several_results_are_shortened(program: Program) -> None:
    page = Page(program_html(program))
    assert next(row[1] for row in page.rows if row[0] == "max_1") == "(f32[4], …1 more)"
    assert "(f32[4], i64[4])" in page.titles


def test_names_are_escaped() -> None:
    exported = torch.export.export(deep(1).to_module(), (torch.randn(2),))
    program = Program.from_exported_program(exported)
    node = program.inputs[0]
    node.meta["role"] = type(node.meta["role"])("user", "a<b>['&']")
    page = Page(program_html(program))
    assert any("a<b>['&']" in row for row in page.rows)
    assert "<b>['" not in program_html(program)


def test_a_big_program_is_shortened_and_says_how_to_see_all() -> None:
    program = deep(1200)
    html = program_html(program)
    page = Page(html)
    assert len(html) < 200_000
    assert "900 lines are left out" in page.text
    assert "limit=None" in page.text
    shown = [row[0] for row in page.rows]
    assert "sin" in shown
    assert program.output.args[0][0].name in shown
    whole = Page(program_html(program, limit=None))
    assert "left out" not in whole.text
    assert sum(row[0].startswith("sin") for row in whole.rows) == 1200


def test_styles_stay_inside(program: Program) -> None:
    style = re.search(r"<style>(.*?)</style>", program_html(program), re.S)
    assert style is not None
    selectors = re.findall(r"(?:^|})([^{}@]+){", re.sub(r"@media[^{]*{", "", style.group(1)))
    assert len(selectors) > 15
    assert all(".fxp" in part for selector in selectors for part in selector.split(","))


def test_history() -> None:
    steps = (
        Step("normalize", 1.0, 10, 10, 0, 0, False, difference=0.0),
        Step("decompose<x>", 4.0, 10, 14, 5, 1, True, difference=1e-6),
    )
    page = Page(history_html(History(steps)))
    assert page.rows[0] == ["pass", "ms", "nodes", "added", "removed", "modified", "difference"]
    row = [cell.strip() for cell in page.rows[2]]
    assert row == ["decompose<x>", "4.0", "10 → 14", "+5", "-1", "✓", "1.0e-06"]
    assert page.rows[-1][0] == "total"
    assert "width:60.0px" in history_html(History(steps))
    assert "no passes were run" in Page(history_html(History(()))).text
    assert History(steps)._repr_html_() == history_html(History(steps))


def test_report(program: Program) -> None:
    source = "/a/model.py:3 in forward, code: x < 'y'"
    violation = Violation("layout", program.output, "a<b", "output", source)
    report = Report([violation, Violation("tensors", None, "lost")], "canonical", verify(program).rules)
    page = Page(report_html(report))
    assert ["layout", "output", "a<b", "model.py:3 in forward"] in page.rows
    assert ["tensors", "program", "lost", ""] in page.rows
    assert source in page.titles
    good = Page(report_html(verify(program)))
    assert "rules hold" in good.text
    assert any(row[:2] == ["graph", "well-formed"] for row in good.rows)
