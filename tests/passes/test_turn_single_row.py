"""`turn_single_row`: products of one row with a turned matrix, and those that stay."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.passes import canonicalize, turn_single_row
from fxpasses.testing import assert_equivalent
from tests.passes.helpers import aten, program_of


def product(x, y):
    return x @ y.transpose(-1, -2)


def turned(source, *args, **options):
    before = canonicalize(program_of(source, *args, **options))
    after = turn_single_row(before)
    assert_equivalent(before, after, args)
    return [str(node.target) for node in after.graph.nodes if node.op == "call_function"], after


def test_a_row_becomes_a_column():
    targets, after = turned(product, torch.randn(1, 5), torch.randn(7, 5))
    (mm,) = [node for node in after.graph.nodes if node.target is aten.mm.default]
    assert [tuple(arg.meta["val"].shape) for arg in mm.args] == [(7, 5), (5, 1)]
    assert "aten.permute.default" not in targets


def test_the_rows_of_a_batch_become_columns():
    targets, after = turned(product, torch.randn(3, 1, 5), torch.randn(3, 7, 5))
    (bmm,) = [node for node in after.graph.nodes if node.target is aten.bmm.default]
    assert [tuple(arg.meta["val"].shape) for arg in bmm.args] == [(3, 7, 5), (3, 5, 1)]
    assert "aten.permute.default" not in targets


def of_another_axis(x, y):
    return x @ y.permute(1, 2, 0)


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (product, ((2, 5), (7, 5))),
        (torch.matmul, ((1, 5), (5, 7))),
        (product, ((3, 2, 5), (3, 7, 5))),
        (torch.matmul, ((3, 1, 5), (3, 5, 7))),
        (of_another_axis, ((3, 1, 5), (7, 3, 5))),
    ],
    ids=["rows", "plain", "rows of a batch", "plain batch", "batch inside"],
)
def test_what_stays(function, sizes):
    program = canonicalize(program_of(function, *map(torch.randn, sizes)))
    assert fxp.fingerprint(turn_single_row(program)) == fxp.fingerprint(program)


@pytest.mark.parametrize("batch", [(), (3,)], ids=["matrix", "batch"])
def test_sizes_known_at_run_time(batch):
    rank = len(batch)
    sizes = ({rank + 1: Dim.AUTO}, {rank: Dim.AUTO, rank + 1: Dim.AUTO})
    compiled = fxp.compile(
        lambda x, y: torch.relu(product(x, y) + 1),
        (torch.randn(*batch, 1, 40), torch.randn(*batch, 30, 40)),
        dynamic_shapes=sizes,
    )
    for inner in (2, 5, 16, 17, 97):
        for columns in (2, 3, 16, 33, 1009):
            x, y = torch.randn(*batch, 1, inner), torch.randn(*batch, columns, inner)
            y[..., 0, 0], y[..., 1, -1] = float("nan"), float("inf")
            want = torch.relu(product(x, y) + 1)
            torch.testing.assert_close(compiled(x, y), want, rtol=1e-4, atol=1e-4, equal_nan=True)
