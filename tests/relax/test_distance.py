"""Distances of pairs against eager."""

import math

import pytest
import torch

from tests.relax.helpers import ULPS, call, check_calls, random

aten = torch.ops.aten

ORDERS = (0.0, 0.5, 1.0, 2.0, 3.0, math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_pairs(dtype):
    x, y = random((2, 1, 4, 5), dtype), random((3, 6, 5), dtype)
    orders = ORDERS if dtype == torch.float32 else ORDERS[3:4]
    calls = [call(aten._cdist_forward.default, x, y, order, None) for order in orders]
    calls += [call(aten._pdist_forward.default, random((rows, 3), dtype), 2.0) for rows in (2, 7)]
    check_calls(calls, tolerance=ULPS)


def test_vectors_without_elements_have_no_distance():
    check_calls([call(aten._cdist_forward.default, torch.zeros(3, 0), torch.zeros(2, 0), 2.0, None)])


def test_dynamic_sizes():
    check_calls(
        [
            call(aten._cdist_forward.default, random((2, 3, 4)), random((2, 6, 4)), 2.0, None),
            call(aten._pdist_forward.default, random((40, 4)), 1.0),
        ],
        tolerance=ULPS,
        dynamic=True,
    )


@pytest.mark.parametrize("order", ORDERS)
def test_numbers_that_are_not_finite(order):
    x, y = random((5, 4)), random((6, 4))
    x[0, 1] = x[2, 3] = math.nan
    x[1, 2] = y[4, 2] = math.inf
    y[3, 0] = -math.inf
    y[5] = math.nan
    check_calls(
        [
            call(aten._cdist_forward.default, x, y, order, None),
            call(aten._pdist_forward.default, torch.cat([x, y]), order),
        ],
        tolerance=ULPS,
    )
