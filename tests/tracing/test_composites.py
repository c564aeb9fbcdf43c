"""Operators and functions that torch itself cannot trace, since they look at values."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_impls import op_implementations_dict
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import FxpassesError, RunError
from fxpasses.tracing.composites import COMPOSITES

X = torch.linspace(-2, 3, 21).reshape(3, 7).sin()


@pytest.mark.parametrize(
    "f",
    [
        torch.cov,
        torch.corrcoef,
        lambda x: torch.cov(x[0]),
        lambda x: torch.cov(x, correction=9),
        lambda x: torch.corrcoef(x[0]),
        lambda x: torch.combinations(x[0], 3),
        lambda x: torch.combinations(x[0, :2], 2, with_replacement=True),
        lambda x: torch.combinations(x[0, :1], 2),
    ],
)
def test_native_and_as_in_eager(f):
    def model(x):
        return f(x)

    got, expected = fxp.compile(model, (X,), strict=True)(X), model(X)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("options", [{}, {"batch_first": True, "padding_value": 2.0, "padding_side": "left"}])
def test_any_of_the_sequences_may_be_the_longest(options):
    def model(*sequences):
        return torch.nn.utils.rnn.pad_sequence(sequences, **options)

    def sequences(*lengths):
        return tuple(torch.randn(length, 2) for length in lengths)

    dims = tuple({0: torch.export.Dim(name)} for name in "abc")
    compiled = fxp.compile(model, sequences(3, 4, 6), strict=True, dynamic_shapes=(dims,))
    for lengths in ((3, 4, 6), (9, 4, 5), (2, 7, 2)):
        given = sequences(*lengths)
        torch.testing.assert_close(compiled(*given), model(*given), rtol=0, atol=0)


def test_any_number_of_observations():
    def model(x):
        return torch.cov(x)

    compiled = fxp.compile(model, (X,), strict=True, dynamic_shapes=({1: torch.export.Dim("n", min=2)},))
    for count in (2, 5, 7):
        torch.testing.assert_close(compiled(X[:, :count]), torch.cov(X[:, :count]))


WEIGHTS = torch.tensor([1, 2, 0, 4, 1, 1, 3])
CLASSES = torch.tensor([[1, 3, 2], [0, 0, 2]])

# name: (a function, arguments that it takes, others for which it raises an error)
DEMANDING = {
    "one_hot": (F.one_hot, (CLASSES,), (-CLASSES,)),
    "one_hot of five": (lambda x: F.one_hot(x, 5), (CLASSES,), (CLASSES + 2,)),
    "narrow": (lambda x, start: x.narrow(1, start, 2), (X, torch.tensor(-3)), (X, torch.tensor(6))),
    "narrow to nothing": (lambda x, n: torch.narrow(x, 0, n, 0), (X, torch.tensor(3)), (X, torch.tensor(4))),
    "cov by frequency": (lambda x, w: torch.cov(x, fweights=w), (X, WEIGHTS), (X, -WEIGHTS)),
    "cov by weight": (lambda x, w: torch.cov(x, aweights=w.abs()), (X, X[0]), (X, 0 * X[0])),
    "cov by both": (
        lambda x, w: torch.cov(x, correction=2, fweights=w, aweights=w * 0.5),
        (X, WEIGHTS),
        (X, 0 * WEIGHTS),
    ),
    "gaussian_nll_loss": (F.gaussian_nll_loss, (X, X + 1, X.square()), (X, X + 1, X)),
    "multilabel_margin_loss": (
        F.multilabel_margin_loss,
        (X[:, :3], CLASSES[[0, 1, 1]] - 1),
        (X[:, :3], CLASSES[[0, 1, 1]]),
    ),
    "a number that is read": (lambda x: _positive(x[0, 0].item()) * x, (X + 3,), (X,)),
}


def _positive(number):
    torch._check(number > 0)
    return number


@pytest.mark.parametrize("name", DEMANDING)
def test_what_they_demand_of_values_is_asserted(name):
    function, good, bad = DEMANDING[name]

    def model(*args):
        return function(*args)

    compiled = fxp.compile(model, good, strict=True)
    torch.testing.assert_close(compiled(*good), model(*good))
    with pytest.raises((RuntimeError, ValueError, IndexError)) as eager:
        model(*bad)
    with pytest.raises(RunError) as caught:
        compiled(*bad)
    assert isinstance(caught.value, eager.type) or eager.type is ValueError
    torch.testing.assert_close(compiled(*good), model(*good))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(3, 7), (3, 1), (3,), ()])
def test_gaussian_nll_loss(shape, reduction, full):
    var = torch.rand(shape) if shape else 0.3

    def model(x, var):
        return F.gaussian_nll_loss(x, x * 2, var, full=full, reduction=reduction)

    compiled = fxp.compile(model, (X, var), strict=True)
    torch.testing.assert_close(compiled(X, var), model(X, var))


def test_gaussian_nll_loss_of_other_shapes():
    for arguments in ((X, X, X[:, :2]), (X, X, X, False, 1e-6, "some")):
        with pytest.raises(FxpassesError):
            fxp.compile(lambda *args, given=arguments: F.gaussian_nll_loss(*args, *given[3:]), arguments[:3])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("tensors", [False, True])
def test_ctc_loss_is_one_island(tensors, reduction):
    scores, targets = torch.randn(6, 2, 4).log_softmax(-1), torch.tensor([[1, 2, 2], [2, 3, 0]])
    lengths = ([6, 5], [3, 2])
    if tensors:
        lengths = tuple(map(torch.tensor, lengths))

    def model(scores, targets):
        return F.ctc_loss(scores, targets, *lengths, reduction=reduction, zero_infinity=True)

    args = scores, targets
    compiled = fxp.compile(model, args)
    assert [row.op for row in fxp.explain(model, args).rows if row.kind == "island"] == [
        f"aten._ctc_loss.{'Tensor' if tensors else 'default'}"
    ]
    torch.testing.assert_close(compiled(*args), model(*args))


@pytest.mark.parametrize("by", [fxp.compile, lambda model, args: torch.compile(model, backend="fxpasses")])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_multilabel_margin_loss_stops_at_the_end_of_the_targets(reduction, by):
    """Torch's own trace goes on with class 0, and gives one row's loss the shape [1]."""
    targets = torch.tensor([[5, 1, 1, -1, 0, 0, 0], [2, 1, 0, 3, 4, 5, 6], [-1, 2, 2, 2, 2, 2, 2]])

    def model(x, targets):
        return F.multilabel_margin_loss(x, targets, reduction=reduction)

    for args in ((X, targets), (X[0], targets[0])):
        torch._dynamo.reset()
        got, want = by(model, args)(*args), model(*args)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("driver", ["gels", "gelsy", "gelsd", "gelss"])
@pytest.mark.parametrize("shapes", [((5, 3), (5, 2)), ((3, 5), (3,)), ((5, 3), (5,)), ((2, 3, 5), (2, 3))])
def test_lstsq_has_residuals_by_driver_and_rank(shapes, driver):
    def model(a, b):
        return torch.linalg.lstsq(a, b, driver=driver)

    a, b = (torch.randn(shape) for shape in shapes)
    compiled = fxp.compile(model, (a, b))
    for matrix in (a, a if driver == "gels" else a * 0):
        for got, want in zip(compiled(matrix, b), model(matrix, b), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("shapes", "ends"),
    [
        (((10, 16), (3, 16, 32)), [3, 3, 10]),  # groups of rows, one of which is empty
        (((3, 16, 8), (8, 32)), [8, 16, 32]),  # of columns
        (((16, 16), (16, 32)), [8, 16]),  # of sums
        (((3, 16, 8), (3, 8, 32)), None),
    ],
)
def test_a_product_for_each_group(shapes, ends, dtype):
    args = tuple(torch.randn(shape, dtype=dtype) for shape in shapes)
    ends = None if ends is None else torch.tensor(ends, dtype=torch.int32)

    def model(a, b):
        return F.grouped_mm(a, b, offs=ends) + 1

    torch.testing.assert_close(fxp.compile(model, args)(*args), model(*args))


STEPS, ZEROS = torch.linspace(0.01, 0.3, 7), torch.arange(7, dtype=torch.int32)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 255),
        lambda x: torch.fake_quantize_per_tensor_affine(x, STEPS[2], ZEROS[3], 0, 255),
        lambda x: torch.fake_quantize_per_channel_affine(x, STEPS, ZEROS, 1, -128, 127),
    ],
)
def test_quantized_numbers_of_sizes_that_vary(model):
    compiled = fxp.compile(model, (X,), dynamic_shapes=({0: Dim("rows")},), strict=True)
    for rows in (0, 1, 3, 40):
        x = torch.randn(rows, 7) * 20
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("example", [3, 40])
def test_distances_of_any_number_of_vectors(example):
    """Eager PyTorch goes another way for more than 25."""
    shapes = ({0: Dim("rows")}, {0: Dim("columns")})
    compiled = fxp.compile(torch.cdist, (torch.randn(example, 2), torch.randn(4, 2)), dynamic_shapes=shapes)
    for rows, columns in ((0, 3), (1, 1), (25, 26), (26, 2), (70, 30)):
        a, b = torch.randn(rows, 2, dtype=torch.float64), torch.randn(columns, 2, dtype=torch.float64)
        torch.testing.assert_close(compiled(a.float(), b.float()), torch.cdist(a, b).float())


def test_a_diagonal_is_filled_at_every_size():
    def function(x):
        y = x.clone()
        y.fill_diagonal_(7)
        return y

    compiled = torch.compile(function, backend="fxpasses", dynamic=True)
    shapes = ({0: Dim("rows"), 1: Dim("columns")},)
    exported = fxp.compile(fxp.capture(function, (torch.randn(4, 6),), dynamic_shapes=shapes))
    for shape in ((4, 6), (5, 3), (2, 2)):
        x = torch.randn(shape)
        assert torch.equal(compiled(x), function(x))
        assert torch.equal(exported(x), function(x))


def test_torch_is_left_as_it_was():
    before = {op: dict(op.py_kernels) for op in COMPOSITES}
    shapes = dict(op_implementations_dict)
    fxp.capture(torch.cov, (X,))
    assert shapes == op_implementations_dict
    assert before == {op: dict(op.py_kernels) for op in COMPOSITES}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("size", [(), (1,)])
def test_multi_margin_loss_of_one_row(size, reduction):
    args = torch.randn(5), torch.tensor(2).reshape(size)

    def loss(x, target):
        return F.multi_margin_loss(x, target, p=2, margin=0.7, reduction=reduction)

    got = fxp.compile(loss, args, strict=True)(*args)
    torch.testing.assert_close(got, loss(*args))
