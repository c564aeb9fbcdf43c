"""A small, fixed part of the sweep, and that its judge can tell right from wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fxpasses.support import FAILURES, OUTCOMES, matrix
from tests.sweep import dynamic
from tests.sweep.__main__ import app
from tests.sweep.edges import Variant, variants
from tests.sweep.judge import judge
from tests.sweep.samples import operator_of, reach, units
from tests.sweep.systems import Answer, System, dynamic_answers, fxpasses_answers

aten = torch.ops.aten

SAMPLED = 12
SAMPLED_AT_EDGES = 5
FOR_ANY_SIZES = (
    *("diagonal complex64", "nn.functional.avg_pool2d float32", "nn.functional.layer_norm float16"),
    *("roll int64", "take_along_dim bool"),
)
COUNT = 2


@pytest.mark.parametrize("number", range(SAMPLED))
def test_samples_of_torch(number):
    """One operator in so many, in turn with another dtype each; `-rP` prints which."""
    unit = sampled(number, SAMPLED)
    reached = reach(unit, COUNT)
    assert reached.calls or reached.refused or reached.left_out
    assert not failures(map(Variant, reached.calls))


@pytest.mark.parametrize("number", range(SAMPLED_AT_EDGES))
def test_edges(number):
    """The same with variants of the calls."""
    found = list(variants(reach(sampled(number, SAMPLED_AT_EDGES), COUNT).calls))
    assert found
    assert not failures(found)


@pytest.mark.parametrize("unit", FOR_ANY_SIZES)
def test_any_sizes(unit):
    """Samples captured for any sizes, and called with others."""
    calls = dynamic.reach(unit, COUNT).calls
    assert len(calls) > 4
    assert not failures([Variant(call, may_raise=True) for call in calls], dynamic_answers)


def sampled(number: int, total: int) -> str:
    names = list(dict.fromkeys(map(operator_of, units())))
    name = names[number * len(names) // total]
    found = [unit for unit in units() if operator_of(unit) == name]
    print(found[number % len(found)])
    return found[number % len(found)]


def failures(found: Iterable[Variant], system: System = fxpasses_answers) -> str:
    outcomes = judge(list(found), system)
    return "\n".join(str(o) for o in outcomes if o is not None and o.kind not in OUTCOMES)


X = torch.linspace(-2, 2, 12).reshape(3, 4)
EXP = (aten.exp.default, (X,), {})


@pytest.mark.parametrize(
    ("got", "kind"),
    [
        (X.exp(), "exact"),
        (X.exp() * (1 + 2e-7), "close"),
        (X.exp() + 1e-3, "wrong"),
        (X.exp().double(), "wrong"),
        (X.exp()[:2], "wrong"),
        (torch.where(X > 1, torch.nan, X.exp()), "wrong"),
    ],
)
def test_the_judge(got, kind):
    assert judge([Variant(EXP)], lambda calls: [Answer([got])])[0].kind == kind


def test_a_call_without_a_row_is_an_island_with_its_reason():
    (outcome,) = judge([Variant((aten.linalg_qr.default, (X,), {}))])
    assert (outcome.kind, outcome.detail) == ("island", "aten.linalg_qr.default: it has no lowering")


def test_a_result_that_was_not_asked_for_does_not_end_the_process():
    """A tuple with nothing in it is a segmentation fault of TVM's."""
    (outcome,) = judge([Variant((aten._unique2.default, (torch.tensor(0.0), False), {}))])
    assert outcome.kind in OUTCOMES


def at(edge: str, *call: Any) -> str:
    """The outcome of a call's variant, and what was asked for."""
    (variant,) = [v for v in variants([(call[0], call[1:], {})]) if v.edge == edge]
    (outcome,) = judge([variant])
    return outcome.kind


HALVES = torch.arange(12.0).reshape(3, 4) / 2


@pytest.mark.parametrize(
    ("edge", "call"),
    [
        ("empty first dim", (aten.upsample_nearest1d.vec, HALVES[None], [7], None)),
        ("empty last dim", (aten.group_norm.default, HALVES[None], 3)),
        ("strided", (aten.view_copy.default, HALVES[None], [6, 2])),
        ("strided", (aten.histogramdd.default, HALVES[:, :2], [2, 3])),
        ("expanded", (aten.unique_consecutive.default, HALVES, True, True, -1)),
        ("strided", (aten.tensor_split.tensor_indices_or_sections, HALVES, torch.tensor([1, 2]))),
    ],
)
def test_calls_whose_shapes_torch_tells_wrongly_or_not_at_all(edge, call):
    assert at(edge, *call) in ("exact", "close", "island")


def test_results_that_are_memory_as_it_was_are_not_compared():
    scores, targets = HALVES.reshape(4, 1, 3).log_softmax(-1), torch.tensor([[1, 2]])
    (outcome,) = judge([Variant((aten._ctc_loss.default, (scores, targets, [4], [1]), {}))])
    assert outcome.kind == "island"


def test_what_eager_raises_has_to_be_raised():
    indices = torch.tensor([0, 2])
    assert at("far integers", aten.index_select.default, X, 0, indices) == "raises"
    assert at("far dims", aten.sum.dim_IntList, X, [1]) == "raises"
    logspace = aten.logspace.Tensor_Scalar
    (outcome,) = judge([Variant((logspace, (torch.tensor(1000), 4, 2), {"dtype": torch.uint8}), "", True)])
    assert outcome.kind == "raises"
    (outcome,) = judge([Variant((logspace, (torch.tensor(-1), 4, 2), {"dtype": torch.uint8}), "", True)])
    assert outcome.kind == "exact"
    assert at("far position", aten.select.int, X, 0, 1) == "raises"
    answer = judge([Variant((aten.select.int, (X, 0, 5), {}), "", True)], lambda calls: [Answer([X[0]])])
    assert answer[0].kind == "wrong"


def test_values_at_edges_are_compared():
    assert at("NaN", aten.relu.default, X) == "exact"
    assert at("empty first dim", aten.relu.default, X) == "exact"
    assert at("negative integers", aten.index.Tensor, X, [torch.tensor([0, 2])]) == "exact"


def test_no_matrix_without_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["write", "--to", "matrix.json"])
    assert result.exit_code == 1
    assert "sweep-tvm.jsonl" in result.output
    assert not (tmp_path / "matrix.json").exists()


def test_the_matrix_of_the_package():
    """Written by ``python -m tests.sweep write``, which refuses to write failures."""
    data = matrix()
    counted = {
        outcome for by_dtype in data["calls"].values() for counts in by_dtype.values() for outcome in counts
    }
    assert counted <= set(OUTCOMES)
    excepted = {
        op
        for op, by_dtype in data["calls"].items()
        if any({"island", "refused"} & c.keys() for c in by_dtype.values())
    }
    assert set(data["reasons"]) == excepted
    assert re.match(r"\d+\.\d+", data["torch"])
    assert set(data["systems"]) == {"fxpasses", "tvm"}
    assert not set(data["systems"]["fxpasses"]) & set(FAILURES)
