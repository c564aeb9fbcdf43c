"""Bags of rows against eager."""

import pytest
import torch

import fxpasses as fxp
from tests.relax.helpers import ULPS, call, check_calls, random

aten = torch.ops.aten

INDICES = torch.tensor([0, 2, 4, 2, 1, 1, 3])
SUM, MEAN, MAX = range(3)


@pytest.mark.parametrize("mode", [SUM, MEAN, MAX])
@pytest.mark.parametrize("op", [aten._embedding_bag.default, aten._embedding_bag_forward_only.default])
def test_bags(op, mode):
    factors = random((7,)) if mode == SUM else None
    calls = [
        call(op, random((5, 3)), INDICES, torch.tensor(offsets), False, mode, False, factors, last, padding)
        for padding in (-1, 2)
        for offsets, last in (([0, 2, 2, 5], False), ([0, 2, 2, 5, 7], True))
    ]
    check_calls(calls, tolerance=ULPS, results=[0])


def test_the_layer_is_native():
    bag = torch.nn.EmbeddingBag(10, 4, mode="mean", padding_idx=3).eval()
    indices = torch.tensor([[1, 2, 3], [4, 9, 9]])
    compiled = fxp.compile(bag, (indices,), strict=True)
    torch.testing.assert_close(compiled(indices), bag(indices))
