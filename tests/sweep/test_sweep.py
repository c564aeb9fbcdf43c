"""A small, fixed part of the sweep, and that its judge can tell right from wrong."""

from __future__ import annotations

import re

import pytest
import torch

from fxpasses.support import OUTCOMES, matrix
from tests.sweep import judge as judges
from tests.sweep.judge import judge
from tests.sweep.samples import reach, units

aten = torch.ops.aten

SAMPLED = 12
COUNT = 2


@pytest.mark.parametrize("number", range(SAMPLED))
def test_samples_of_torch(number):
    """One operator in so many, in turn with another dtype each; `-rP` prints which."""
    names = list(dict.fromkeys(unit.split(" ")[0] for unit in units()))
    name = names[number * len(names) // SAMPLED]
    dtypes = [unit.split(" ")[1] for unit in units() if unit.split(" ")[0] == name]
    unit = f"{name} {dtypes[number % len(dtypes)]}"
    print(unit)
    reached = reach(unit, COUNT)
    assert reached.calls or reached.refused
    outcomes = [outcome for group in judge(reached.calls) for outcome in group]
    failures = [outcome for outcome in outcomes if outcome.kind not in OUTCOMES]
    assert not failures, "\n".join(map(str, failures))


X = torch.linspace(-2, 2, 12).reshape(3, 4)


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
    assert judges._compared((aten.exp.default, (X,), {}), got, None).kind == kind


def test_a_call_without_a_row_is_an_island_with_its_reason():
    ((outcome,),) = judge([(aten.linalg_qr.default, (X,), {})])
    assert (outcome.kind, outcome.detail) == ("island", "aten.linalg_qr.default: it has no lowering")


def test_a_result_that_was_not_asked_for_does_not_end_the_process():
    """A tuple with nothing in it is a segmentation fault of TVM's."""
    ((outcome,),) = judge([(aten._unique2.default, (torch.tensor(0.0), False), {})])
    assert outcome.kind in OUTCOMES


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
