"""Losses whose kernels look at values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fxpasses.errors import RunError
from tests.codegen.helpers import compiled_of

REDUCTIONS = ["none", "mean", "sum"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "options", [{}, {"p": 2, "margin": 0.3}, {"weight": torch.tensor([0.5, 2.0, 1.0])}], ids=str
)
def test_a_margin_that_is_no_number_is_not_counted(reduction, options):
    scores = torch.tensor([[0.1, math.nan, 0.4], [math.nan, 0.2, 0.9], [0.3, 0.1, math.inf], [0.5, 0.7, 0.6]])
    targets = torch.tensor([0, 0, 2, 1])

    def model(scores, targets):
        return F.multi_margin_loss(scores, targets, reduction=reduction, **options)

    compiled = compiled_of(model, scores, targets)
    for args in ((scores, targets), (scores.flip(0), targets.flip(0)), (scores * 2, 2 - targets)):
        torch.testing.assert_close(compiled(*args), model(*args), equal_nan=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_probabilities_have_to_be_some(reduction):
    def model(given, target):
        return F.binary_cross_entropy(given, target, reduction=reduction)

    given, target = torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0.5, 1.0, 0.0])
    compiled = compiled_of(model, given, target)
    torch.testing.assert_close(compiled(given, target), model(given, target))
    for wrong in (1.5, -0.25, math.nan):
        bad = torch.tensor([0.5, wrong, 0.5])
        for args, name in (((bad, target), "input"), ((given, bad), "target")):
            message = f"all elements of {name} should be between 0 and 1"
            with pytest.raises(RuntimeError, match=message):
                model(*args)
            with pytest.raises(RunError, match=message):
                compiled(*args)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_weight_of_an_absolute_error_is_kept(reduction):
    def model(x, y, weight):
        return F.l1_loss(x, y, weight=weight, reduction=reduction)

    args = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]]), torch.tensor([[0.1, 4.0]])
    torch.testing.assert_close(compiled_of(model, *args)(*args), model(*args))
    unweighted = (*args[:2], None)
    torch.testing.assert_close(compiled_of(model, *unweighted)(*unweighted), model(*unweighted))
