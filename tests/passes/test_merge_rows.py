"""`merge_rows`: the views behind products that move, and those that stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from fxpasses.passes import canonicalize, merge_rows
from fxpasses.testing import assert_equivalent
from tests.passes.helpers import apply, aten, program_of


def check(source, *args, exact=True, **options):
    before = canonicalize(program_of(source, *args, **options))
    after = apply(merge_rows, before, *args, exact=exact)
    assert_equivalent(before, after, args)
    return after


def reshapes(program):
    return [
        tuple(node.meta["val"].shape) for node in program.graph.nodes if node.target is aten.reshape.default
    ]


class Block(nn.Module):
    """The second half of a layer of a transformer."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = self.up(x)[..., :8] * 0.5
        return x + self.down(F.gelu(self.up(self.norm(x))))


def test_views_go_between_products():
    after = check(Block(), torch.randn(2, 3, 8), exact=False)
    assert reshapes(after) == [(6, 8), (2, 3, 8)]
    assert str(list(after.graph.nodes)[-2].target) == "aten.reshape.default"


def test_rows_of_any_number():
    dims = {"x": {0: Dim("batch", max=9), 1: Dim("length", max=9)}}
    before = canonicalize(program_of(Block(), torch.randn(2, 3, 8), dynamic_shapes=dims))
    after = apply(merge_rows, before, torch.randn(2, 3, 8), exact=False)
    assert len(reshapes(after)) == 2
    for sizes in ((1, 1), (4, 1), (3, 7)):
        x = torch.randn(*sizes, 8)
        torch.testing.assert_close(after.run(x), before.run(x))


def view(x, matrix):
    return torch.mm(x, matrix).reshape(2, 3, 4)


X, MATRIX = torch.randn(6, 5), torch.randn(5, 4)


@pytest.mark.parametrize("function", [
    lambda x, m: view(x, m).relu(),
    lambda x, m: view(x, m) + torch.arange(4.0),
    lambda x, m: view(x, m) + torch.arange(4.0).reshape(1, 1, 4),
    lambda x, m: view(x, m) * torch.tensor(2.0),
    lambda x, m: torch.where(view(x, m) > 0, view(x, m), 1.0),
    lambda x, m: view(x, m) + torch.arange(24.0).reshape(2, 3, 4),
    lambda x, m: view(x, m) * torch.arange(6.0).reshape(2, 3, 1),
    lambda x, m: view(x, m).softmax(-1),
    lambda x, m: view(x, m).log_softmax(2),
    lambda x, m: view(x, m).mean(-1, keepdim=True),
    lambda x, m: view(x, m)[:, :, 1:3],
    lambda x, m: F.layer_norm(view(x, m), (4,)),
    lambda x, m: F.rms_norm(view(x, m), (4,)),
], ids=["unary", "vector", "vector of three dims", "scalar", "where", "whole", "column", "softmax",
        "log softmax", "mean", "slice", "layer norm", "rms norm"])  # fmt: skip
def test_moved_behind(function):
    after = check(function, X, MATRIX, exact=False)
    *_, last, _ = after.graph.nodes
    assert last.target is aten.reshape.default
    calls = [node for node in after.graph.nodes if node.op == "call_function" and node is not last]
    assert all(val.dim() <= 2 for node in calls for val in pytree.tree_leaves(node.meta["val"]))


@pytest.mark.parametrize("function", [
    lambda x, m: view(x, m).softmax(1),
    lambda x, m: view(x, m).mean(-1),
    lambda x, m: view(x, m).mean((1, 2), keepdim=True),
    lambda x, m: view(x, m)[:, 1:],
    lambda x, m: F.layer_norm(view(x, m), (3, 4)),
    lambda x, m: view(x, m) + torch.arange(12.0).reshape(1, 3, 4),
    lambda x, m: view(x, m) + torch.arange(3.0).reshape(3, 1),
    lambda x, m: view(x, m).reshape(2, 3, 1, 4) * torch.arange(48.0).reshape(2, 3, 2, 4),
    lambda x, m: torch.mm(x, m).reshape(2, 2, 6).relu(),
], ids=["softmax", "mean", "two dims", "slice", "norm of two dims", "rows that repeat", "another column",
        "expanded", "another width"])  # fmt: skip
def test_left_where_rows_differ(function):
    before = canonicalize(program_of(function, X, MATRIX))
    assert str(apply(merge_rows, before, X, MATRIX)) == str(before)


def test_statistics_of_a_norm_keep_their_shape():
    def function(x, matrix):
        return torch.native_layer_norm(view(x, matrix), (4,), None, None, 1e-5)

    before = canonicalize(program_of(function, X, MATRIX))
    assert str(merge_rows(before)) == str(before)
