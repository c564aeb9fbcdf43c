"""Text tables: aligned columns, nothing that is empty, totals."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from fxpasses.pipeline import History, Step
from fxpasses.verify import Report, Violation
from fxpasses.view.tables import byte_text, history_text, report_text, table_text

STEPS = (
    Step("normalize", 1.25, 100, 100, 0, 0, False),
    Step("decompose_everything", 30.0, 100, 250, 170, 20, True),
    Step("fold", 2.5, 250, 240, 1, 11, True),
)


def test_table_aligns_columns() -> None:
    text = table_text([("name", "n"), ("a", "1"), ("long name", "100")], right=[1])
    assert text.splitlines() == [
        "name         n",
        "--------------",
        "a            1",
        "long name  100",
    ]


def test_history() -> None:
    assert history_text(History(STEPS)).splitlines() == [
        "pass                    ms       nodes  added  removed  modified",
        "----------------------------------------------------------------",
        "normalize              1.2         100",
        "decompose_everything  30.0  100 -> 250   +170      -20  yes",
        "fold                   2.5  250 -> 240     +1      -11  yes",
        "----------------------------------------------------------------",
        "total                 33.8  100 -> 240",
    ]


def test_history_shows_the_largest_difference() -> None:
    measured = (
        Step("first", 1.0, 10, 10, 0, 0, False, difference=0.0),
        Step("second", 1.0, 10, 9, 0, 1, True, difference=2.5e-7),
        Step("third", 1.0, 9, 9, 0, 0, False),
    )
    lines = history_text(History(measured)).splitlines()
    assert lines[0].endswith("difference")
    assert lines[2].endswith("  0")
    assert lines[3].endswith("  2.5e-07")
    assert lines[-1].endswith("  2.5e-07")


def test_history_prints_itself() -> None:
    history = History(STEPS)
    assert str(history) == repr(history) == history_text(history)
    assert history_text(History(())) == "no passes were run"


def test_report() -> None:
    node = fx.Graph().placeholder("x")
    source = "/home/me/model.py:12 in forward, code: return x"
    violations = [
        Violation("values", node, "has no meta['val']", "x", source),
        Violation("tensors", None, "no placeholder stands for 'w'"),
    ]
    assert report_text(Report(violations, "canonical", ())).splitlines() == [
        "canonical: 2 violations of 2 rules",
        "rule     node       problem                        source",
        "-" * 73,
        "values   x          has no meta['val']             model.py:12 in forward",
        "tensors  (program)  no placeholder stands for 'w'",
    ]
    assert report_text(Report([], "well-formed", ())) == "well-formed: 0 rules hold"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 40, "5120.0 GiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert byte_text(count) == text


def test_real_history() -> None:
    from fxpasses.passes import canonicalize
    from fxpasses.program import Program

    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()).eval()
    exported = torch.export.export(model, (torch.randn(1, 3),))
    _, history = canonicalize.run(Program.from_exported_program(exported))
    lines = str(history).splitlines()
    assert len(lines) == len(history) + 4
    assert [line.split()[0] for line in lines[2:-2]] == [step.name for step in history]
