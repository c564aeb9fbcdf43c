"""Bags of rows against eager."""

import itertools

import pytest
import torch

import fxpasses as fxp
from fxpasses.benchmark.threads import torch_threads
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


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sizes_that_are_not_known(mode, dtype):
    def function(i, w, o):
        return torch.nn.functional.embedding_bag(i, w, o, mode=mode)

    n, rows, width, bags = (torch.export.Dim(name, min=1) for name in ("n", "rows", "width", "bags"))
    args = torch.tensor([1, 0, 2]), torch.randn(3, 4).to(dtype), torch.tensor([0, 1])
    sizes = {0: n}, {0: rows, 1: width}, {0: bags}
    compiled = fxp.compile(function, args, strict=True, dynamic_shapes=sizes)
    for used, (count, size) in itertools.product((1, 2), ((1, 1), (17, 3), (1000, 130))):
        table = torch.randn(11, size).to(dtype)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.randint(0, count, (9,)).sort()[0]])
        indices = torch.randint(0, 11, (count,))
        tolerance = 3e-2 if dtype is torch.bfloat16 else 1e-4
        with torch_threads(used):
            got, want = (f(indices, table, offsets) for f in (compiled, function))
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("padding", [None, 3])
def test_the_last_offset_counts_where_eager_reads_it(mode, dtype, padding):
    def function(w, i, o):
        return torch.nn.functional.embedding_bag(
            i, w, o, mode=mode, padding_idx=padding, include_last_offset=True
        )

    args = torch.randn(5, 2).to(dtype), torch.tensor([1, 3, 4, 0]), torch.tensor([0, 1, 2])
    torch.testing.assert_close(fxp.compile(function, args, strict=True)(*args), function(*args))
