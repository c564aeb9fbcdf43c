"""Attention as one kernel, compiled, beside PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

import fxpasses as fxp
import fxpasses.dialect  # (registers the operators)


class Attention(torch.nn.Module):
    def __init__(self, *options):
        super().__init__()
        self.options = options

    def forward(self, query, key, value, mask=None):
        return torch.ops.fxpasses.attention(query, key, value, mask, *self.options)


def compiled(module, operands, dynamic=None):
    program = fxp.Program.from_exported_program(torch.export.export(module, operands, dynamic_shapes=dynamic))
    return fxp.compile(program, strict=True)


def draw(batch, heads, groups, queries, keys, width, out_width, last=(True,) * 4, dtype=torch.float32):
    sizes = [(heads, queries, width), (groups, keys, width), (groups, keys, out_width)]
    return tuple(
        torch.randn(batch, *((n, h, e) if is_last else (h, n, e)), dtype=dtype)
        for (h, n, e), is_last in zip(sizes, last, strict=False)
    )


def check(operands, is_causal=False, last=(True,) * 4, lanes=16, registers=32, scale=0.3):
    module = Attention(is_causal, scale, list(last), lanes, registers)
    got, want = compiled(module, operands)(*operands), module(*operands)
    exact = {"rtol": 1e-4, "atol": 1e-5} if want.dtype is torch.float32 else {}
    torch.testing.assert_close(got, want, equal_nan=True, **exact)
    return got


SIZES = [
    # batch, heads, groups, queries, keys, width, out_width
    (1, 1, 1, 1, 1, 1, 1),
    (2, 4, 2, 1, 150, 33, 37),
    (1, 2, 2, 1, 3, 64, 64),
    (2, 3, 3, 5, 7, 4, 8),
    (1, 2, 2, 13, 13, 32, 32),
    (1, 2, 1, 49, 64, 16, 24),
    (2, 4, 2, 70, 131, 33, 37),
    (1, 1, 1, 100, 3, 8, 80),
    (1, 2, 2, 67, 197, 64, 64),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_sizes(sizes, is_causal):
    torch.manual_seed(0)
    check(draw(*sizes), is_causal)


@pytest.mark.parametrize("last", [(False,) * 4, (True, False, True, False), (False, True, False, True)])
def test_layouts(last):
    torch.manual_seed(0)
    check(draw(2, 4, 2, 9, 21, 8, 16, last), last=last)


@pytest.mark.parametrize(("lanes", "registers"), [(8, 16), (4, 16), (4, 32), (16, 16)])
def test_other_targets(lanes, registers):
    torch.manual_seed(0)
    check(draw(1, 2, 2, 37, 50, 20, 28), lanes=lanes, registers=registers)


def test_float64():
    torch.manual_seed(0)
    check(draw(1, 2, 2, 37, 50, 20, 28, dtype=torch.float64), lanes=8)


@pytest.mark.parametrize(
    "sizes", [(1, 1, 30, 20), (2, 3, 30, 20), (2, 1, 30, 1), (30, 20), (3, 30, 1), (1, 1)], ids=str
)
@pytest.mark.parametrize("kind", ["sum", "choice"])
def test_masks(sizes, kind):
    torch.manual_seed(0)
    mask = torch.randn(sizes) if kind == "sum" else torch.rand(sizes) > 0.5
    check((*draw(2, 3, 3, 20, 30, 8, 8), mask))
    check((*draw(2, 3, 3, 1, 30, 8, 8), mask[..., :1]))


@pytest.mark.parametrize("queries", [15, 16, 49, 67, 97])
@pytest.mark.parametrize("kind", ["sum", "choice"])
def test_masks_of_queries_that_fill_no_vectors(queries, kind):
    """The mask ends with its memory: nothing may be read behind the last query."""
    torch.manual_seed(0)
    mask = torch.randn(1, 2, 23, queries) if kind == "sum" else torch.rand(1, 2, 23, queries) > 0.3
    check((*draw(1, 2, 2, queries, 23, 33, 16), mask))


@pytest.mark.parametrize("width", [15, 16, 17, 31, 48, 72])
def test_queries_of_any_width(width):
    torch.manual_seed(0)
    check(draw(2, 3, 3, 21, 19, width, 8))
    check(draw(2, 3, 3, 21, 19, width, 8, dtype=torch.float64), lanes=8)


@pytest.mark.parametrize("kind", ["sum", "choice"])
def test_what_sees_no_key_is_zero(kind):
    """A query without keys, and one whose keys come late, behind blocks that admit nothing."""
    torch.manual_seed(0)
    admitted = torch.ones(1, 1, 200, 20, dtype=torch.bool)
    admitted[..., 3] = False
    admitted[:, :, :190, 5] = False
    mask = admitted if kind == "choice" else torch.where(admitted, 0.0, -torch.inf)
    got = check((*draw(1, 2, 2, 20, 200, 8, 8), mask))
    assert got[0, 3].eq(0).all()
    assert not got[0, 5].eq(0).any()
    assert check((*draw(1, 2, 2, 1, 200, 8, 8), mask[..., 3:4])).eq(0).all()
    assert not check((*draw(1, 2, 2, 1, 200, 8, 8), mask[..., 5:6])).eq(0).any()


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_no_query_sees_may_still_make_a_nan(queries, value):
    """Zero times it is NaN, in eager PyTorch as well."""
    torch.manual_seed(0)
    admitted = torch.ones(1, 1, 200, queries, dtype=torch.bool)
    admitted[..., 0] = False
    admitted[:, :, 150:] = False
    operands = draw(1, 2, 2, queries, 200, 8, 8)
    operands[2][0, 170, 1, 5] = value
    got = check((*operands, admitted))
    assert got[0, :, 1, 5].isnan().all()
    assert got.isnan().sum() == queries
    assert got[0, 0, 0].eq(0).all()


def test_one_query_takes_a_nan_from_the_values_behind_it():
    torch.manual_seed(0)
    operands = draw(1, 2, 2, 1, 600, 8, 8)
    operands[2][0, 500, 0, 2] = torch.nan
    operands[2][0, 550, 1, 2] = torch.nan
    assert check(operands, is_causal=True).isnan().nonzero().tolist() == [[0, 0, 0, 2]]


def test_no_query_takes_from_another():
    torch.manual_seed(0)
    query, key, value = draw(1, 2, 2, 20, 30, 8, 8)
    query[0, 4, 1] = torch.nan
    query[0, 19, 0, 3] = torch.inf
    got = check((query, key, value))
    bad = got.isnan().any(-1)[0]
    assert bad.nonzero().tolist() == [[4, 1], [19, 0]]


def test_no_key_at_all():
    operands = draw(1, 2, 2, 5, 3, 8, 8)
    module = Attention(False, 1.0, [True] * 4, 16, 32)
    keys = Dim("keys", min=0, max=64)
    function = compiled(module, operands, (None, {1: keys}, {1: keys}))
    empty = draw(1, 2, 2, 5, 0, 8, 8)
    assert function(*empty).eq(0).all()
    torch.testing.assert_close(function(*operands), module(*operands))


def test_one_query_and_any_number_of_keys():
    torch.manual_seed(0)
    module = Attention(False, 0.25, [False] * 4, 16, 32)
    keys = Dim("keys", min=0, max=300)
    operands = draw(1, 4, 2, 1, 9, 32, 32, (False,) * 4)
    function = compiled(module, operands, (None, {2: keys}, {2: keys}))
    for count in (0, 1, 63, 64, 65, 300):
        operands = draw(1, 4, 2, 1, count, 32, 32, (False,) * 4)
        torch.testing.assert_close(function(*operands), module(*operands), rtol=1e-4, atol=1e-5)


def test_any_batch_and_length():
    torch.manual_seed(0)
    module = Attention(False, 0.25, [True, True, False, True], 16, 32)
    batch, queries, keys = Dim("batch", max=4), Dim("queries", max=200), Dim("keys", max=300)
    shapes = ({0: batch, 1: queries}, {0: batch, 1: keys}, {0: batch, 2: keys}, {2: keys, 3: queries})
    last = (True, True, False)

    def draw_all(n, length, past):
        return (*draw(n, 4, 2, length, past, 8, 24, last), torch.randn(1, 1, past, length))

    function = compiled(module, draw_all(2, 5, 9), shapes)
    for sizes in ((1, 1, 1), (2, 7, 90), (3, 48, 65), (1, 113, 64), (4, 16, 300)):
        operands = draw_all(*sizes)
        torch.testing.assert_close(function(*operands), module(*operands), rtol=1e-4, atol=1e-5)


class Layer(torch.nn.Module):
    def __init__(self, is_causal=False):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.is_causal = is_causal

    def forward(self, x, mask=None):
        heads = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.inner(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(*heads, attn_mask=mask, is_causal=self.is_causal)
        return self.outer(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_layer_of_any_length(is_causal):
    torch.manual_seed(0)
    model = Layer(is_causal).eval()
    shapes = ({0: Dim("batch", max=4), 1: Dim("length", max=100)},)
    function = fxp.compile(model, (torch.randn(2, 7, 32),), dynamic_shapes=shapes, strict=True)
    for sizes in ((2, 7), (1, 1), (3, 65)):
        x = torch.randn(*sizes, 32)
        torch.testing.assert_close(function(x), model(x).detach(), rtol=1e-4, atol=1e-5)
