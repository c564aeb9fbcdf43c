"""Sizes that torch's shape rules take on trust: they are asserted, and a call with others is refused."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import InputError, PassError, RunError
from fxpasses.passes import assert_sizes
from fxpasses.schema import checks_values
from tests.passes.helpers import apply, body, program_of

aten = torch.ops.aten
A = Dim.AUTO

X = torch.arange(24.0).reshape(6, 4)
PLACES = torch.tensor([0, 4, 2])
ROWS = -torch.arange(1.0, 13).reshape(3, 4)
MASK = X % 5 == 0


def _set(x, index, values):
    x = x.clone()
    x[index] = values
    return x


# name: (function, arguments, positions and shapes that eager PyTorch refuses)
CALLS = {
    "index_add": (lambda x, i, v: x.index_add(0, i, v), (X, PLACES, ROWS), {2: [(3, 2), (3, 1), (3, 5)], 0: [(6, 5)]}),
    "columns of index_add": (lambda x, i, v: x.index_add(1, i % 4, v), (X, PLACES, X[:, :3]), {2: [(5, 3), (7, 3)]}),
    "index_copy": (lambda x, i, v: x.index_copy(0, i, v), (X, PLACES, ROWS), {2: [(3, 2), (2, 4)]}),
    "index_put": (
        lambda x, i, v: x.index_put((i,), v),
        (X, PLACES, ROWS),
        {0: [(6, 3), (6, 5)], 1: [(2,), (4,)], 2: [(2, 4), (6, 4), (3, 3), (3, 5)]},
    ),
    "accumulated": (lambda x, i, v: x.index_put((i,), v, accumulate=True), (X, PLACES, ROWS), {2: [(3, 5), (2, 4)]}),
    "two indices": (
        lambda x, i, j, v: x.index_put((i, j % 4), v),
        (X, PLACES, PLACES, ROWS[:, 0]),
        {1: [(2,), (4,)], 2: [(4,)], 3: [(2,), (4,)]},
    ),
    "masked rows": (
        lambda x, m, v: _set(x, (slice(None), m), v),
        (X.reshape(3, 2, 4), torch.tensor([True, False]), ROWS[0]),
        {0: [(3, 2, 3), (3, 2, 5)], 2: [(2,), (5,)]},
    ),
    "masked in two dims": (
        lambda x, m, v: x.index_put((m,), v),
        (X.reshape(3, 2, 4), X[:3, :2] > 2, ROWS[0]),
        {0: [(3, 2, 3), (3, 2, 5)], 2: [(2,), (5,)]},
    ),
    "one place": (
        lambda x, v: x.index_put((torch.tensor([1]),), v),
        (X, ROWS[:1]),
        {1: [(0, 4), (2, 4), (9, 4), (1, 3)]},
    ),
    "unsafe": (
        lambda x, i, j: aten._unsafe_index(x, (i, j % 4)),
        (X, PLACES, PLACES),
        {1: [(2,), (4,)], 2: [(2,), (4,)]},
    ),
    "unsafe put": (
        lambda x, i, j, v: aten._unsafe_index_put(x, (i, j % 4), v),
        (X, PLACES, PLACES, ROWS[:, 0]),
        {1: [(2,), (4,)], 3: [(2,), (4,)]},
    ),
    "masked": (
        lambda x, m, i, j, v: aten._unsafe_masked_index_put_accumulate(x, m, (i, j), v),
        (X, MASK[:3, 0], PLACES, PLACES, ROWS[:, 0]),
        {2: [(2,), (4,)], 3: [(2,), (4,)]},
    ),
    "assigned": (_set, (X, PLACES, ROWS), {2: [(2, 4), (3, 5)]}),
    "assigned by a mask": (_set, (X, MASK, torch.ones(1)), {0: [(5, 4), (6, 5)], 1: [(5, 4), (6, 3)]}),
    "slice_scatter": (
        lambda x, v: x.slice_scatter(v, 0, 1, 4),
        (X, ROWS),
        {0: [(6, 3), (6, 5), (1, 4)], 1: [(2, 4), (4, 4), (3, 3), (3, 5)]},
    ),
    "whole slice_scatter": (lambda x, v: x.slice_scatter(v, 0) + 1, (X, -X), {0: [(5, 4)], 1: [(7, 4), (6, 3)]}),
    "select_scatter": (
        lambda x, v: x.select_scatter(v, 0, 1),
        (X, ROWS[0]),
        {0: [(6, 5), (1, 4)], 1: [(3,), (5,)]},
    ),
    "masked_select": (lambda x, m: x.masked_select(m), (X, MASK), {0: [(5, 4), (6, 5)], 1: [(5, 4), (6, 3), (2, 4)]}),
    "diagonal_scatter": (lambda x, v: x.diagonal_scatter(v), (X, ROWS[0]), {0: [(6, 5)], 1: [(3,), (5,)]}),
}  # fmt: skip


def _resized(tensor, shape):
    for dim, size in enumerate(shape):
        tensor = tensor.index_select(dim, torch.arange(size) % tensor.shape[dim])
    return tensor


@pytest.mark.parametrize("name", CALLS)
def test_other_sizes_are_refused_as_in_eager(name):
    model, args, refused = CALLS[name]
    sizes = tuple(dict.fromkeys(range(arg.dim()), A) for arg in args)
    compiled = fxp.compile(model, args, dynamic_shapes=sizes, strict=True)
    for again in range(2):
        assert torch.equal(compiled(*args), model(*args)), again
        for position, shapes in refused.items():
            for shape in shapes:
                wrong = [_resized(arg, shape) if place == position else arg for place, arg in enumerate(args)]
                with pytest.raises((RuntimeError, IndexError)):
                    model(*wrong)
                with pytest.raises((InputError, RunError)) as caught:
                    compiled(*wrong)
                assert not isinstance(caught.value, RunError) or "test_assert_sizes.py" in str(caught.value)


@pytest.mark.parametrize("count", [4, 6])
def test_keys_without_values_are_refused_where_both_are_known(count):
    args = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, count, 4)
    with pytest.raises(PassError, match=f"sizes 5 and {count} are equal .*test_assert_sizes"):
        fxp.compile(lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v), args)


def test_pivots_of_another_size_are_refused():
    """Eager PyTorch reads beyond them."""
    sizes = ({0: A, 1: A, 2: A}, {0: A, 1: A})
    args = torch.linalg.lu_factor(torch.randn(2, 3, 5))
    compiled = fxp.compile(lambda lu, pivots: torch.lu_unpack(lu, pivots), args, dynamic_shapes=sizes)
    for shape in ((2, 3, 5), (4, 6, 2), (2, 5, 5)):
        args = torch.linalg.lu_factor(torch.randn(shape))
        for got, want in zip(compiled(*args), torch.lu_unpack(*args), strict=True):
            assert torch.equal(got, want)
        for pivots in (args[1][:, 1:], args[1].repeat(1, 2)):
            with pytest.raises((InputError, RunError)):
                compiled(args[0], pivots.contiguous())


@pytest.mark.parametrize("masked", [False, True])
def test_keys_without_values_are_refused(masked):
    """Eager PyTorch reads beyond them, where it takes a kernel that does not look."""
    query, key, value = (torch.randn(2, 3, count, 6) for count in (4, 5, 5))
    args = (query, key, value, *([torch.randn(4, 5)] if masked else []))
    sizes = tuple(dict.fromkeys(range(arg.dim()), A) for arg in args)
    model = torch.nn.functional.scaled_dot_product_attention
    compiled = fxp.compile(lambda *args: model(*args), args, dynamic_shapes=(sizes,))
    for count in (1, 5, 9):
        some = [query, key.repeat(1, 1, 2, 1)[:, :, :count], value.repeat(1, 1, 2, 1)[:, :, :count]]
        some += [torch.randn(4, count)] if masked else []
        torch.testing.assert_close(compiled(*some), model(*some))
        for other in (1, 4, 6, 10):
            if other != count:
                values = value.repeat(1, 1, 2, 1)[:, :, :other].contiguous()
                with pytest.raises((InputError, RunError)):
                    compiled(some[0], some[1], values, *some[3:])
                if masked:
                    with pytest.raises((InputError, RunError)):
                        compiled(*some[:3], torch.randn(4, other))


@pytest.mark.parametrize(
    "name", ["index_add", "index_put", "slice_scatter", "select_scatter", "masked_select"]
)
def test_other_sizes_that_fit_each_other(name):
    model, args, _ = CALLS[name]
    sizes = tuple(dict.fromkeys(range(arg.dim()), A) for arg in args)
    compiled = fxp.compile(model, args, dynamic_shapes=sizes, strict=True)
    for columns in (1, 2, 7):
        some = [_resized(arg, (*arg.shape[:-1], columns)) if arg is not PLACES else arg for arg in args]
        assert torch.equal(compiled(*some), model(*some))


def test_what_is_asserted():
    def f(x, v):
        return x.slice_scatter(v, 0, 1, 4)

    columns = {0: A, 1: A}
    program = program_of(f, X, ROWS, dynamic_shapes=(columns, columns))
    after = apply(assert_sizes, program, X, ROWS)
    asserted = [node for node in after.nodes() if node.target is aten._assert_scalar.default]
    assert len(asserted) == 2
    assert all(map(checks_values, asserted))
    canonical = fxp.canonicalize(after)
    assert fxp.canonicalize(canonical).fingerprint == canonical.fingerprint
    for program in (after, canonical):
        assert torch.equal(program.run(X, ROWS)[0], f(X, ROWS))
        with pytest.raises((RuntimeError, InputError)):
            program.run(X, ROWS[:, :2])


def test_sizes_that_are_known_to_be_equal_are_not():
    def f(x, i, v):
        return x.index_add(0, i, v), x.index_put((i,), v[:1]), x.slice_scatter(v, 0, 1, 4)

    program = program_of(f, X, PLACES, ROWS)
    assert assert_sizes(program) is program or "_assert" not in body(assert_sizes(program))
    n = Dim("n", min=1)
    program = program_of(f, X, PLACES, ROWS, dynamic_shapes=({1: n}, {}, {1: n}))
    assert "_assert" not in body(apply(assert_sizes, program, X, PLACES, ROWS))


def test_an_exported_program_whose_sizes_have_names_of_their_own():
    class Model(torch.nn.Module):
        def forward(self, x, i, v):
            return x.index_put((i,), v)

    columns = {0: A, 1: A}
    exported = torch.export.export(Model(), (X, PLACES, ROWS), dynamic_shapes=(columns, {0: A}, columns))
    compiled = fxp.compile(exported, (X, PLACES, ROWS))
    assert torch.equal(compiled(X, PLACES, ROWS), Model()(X, PLACES, ROWS))
    with pytest.raises((InputError, RunError)):
        compiled(X, PLACES, ROWS[:2])


def test_within_a_branch_of_control_flow():
    def f(x, i, v):
        return torch.cond(x.sum() > 0, lambda x, v: x.index_put((i,), v), lambda x, v: x + 1, (x, v))

    def g(x, i, v):
        return f(x, i, v) * 2

    sizes = ({0: A, 1: A}, {0: A}, {0: A, 1: A})
    compiled = fxp.compile(g, (X, PLACES, ROWS), dynamic_shapes=sizes)
    for x in (X, -X):
        assert torch.equal(compiled(x, PLACES, ROWS), g(x, PLACES, ROWS))
    with pytest.raises((InputError, RunError)):
        compiled(X, PLACES, ROWS[:, :3])


MASKED = {
    "masked_scatter": (lambda x, m, v: x.masked_scatter(m, v), True),
    "index_put": (lambda x, m, v: x.index_put((m,), v), False),
    "assigned": (_set, False),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", MASKED)
def test_a_mask_with_more_true_elements_than_values(name, dynamic):
    model, may_have_less = MASKED[name]
    values = -torch.arange(1.0, 6)
    assert MASK.sum() == len(values)
    sizes = ({0: A}, {0: A}, {0: A}) if dynamic else None
    compiled = fxp.compile(model, (X, MASK, values), dynamic_shapes=sizes, strict=True)
    less, more = MASK.clone(), MASK.clone()
    less[0], more[0] = False, True
    assert torch.equal(compiled(X, MASK, values), model(X, MASK, values))
    for mask in [more] if may_have_less else [less, more]:
        with pytest.raises((RuntimeError, IndexError)):
            model(X, mask, values)
        with pytest.raises(RunError, match=r"5 values.*test_assert_sizes\.py"):
            compiled(X, mask, values)
    if may_have_less:
        assert torch.equal(compiled(X, less, values), model(X, less, values))
    if dynamic:
        one = values[:1]  # is put everywhere by the latter
        if may_have_less:
            with pytest.raises(RunError, match=r"puts s?\w+ values"):
                compiled(X, MASK, one)


def test_a_mask_of_rows_and_one_that_is_repeated():
    def f(x, rows, columns, v):
        return x.index_put((rows,), v), x.masked_scatter(columns, v)

    rows, columns = (
        torch.tensor([True, False, True, False, False, True]),
        torch.tensor([True, False, False, True]),
    )
    args = (X, rows, columns, ROWS)
    compiled = fxp.compile(f, args, strict=True)
    for got, expected in zip(compiled(*args), f(*args), strict=True):
        assert torch.equal(got, expected)
    with pytest.raises(RunError, match=r"'rows'.*3 values.*another number"):
        compiled(X, torch.arange(6) > 1, columns, ROWS)
    with pytest.raises(RunError, match=r"'columns'.*12 values.*more of them"):
        compiled(X, rows, torch.ones(4, dtype=torch.bool), ROWS)


def test_a_size_that_has_to_be_one_does_not_vary():
    def f(x, v):
        return x.slice_scatter(v, 1, 0, 1)

    rows = X[:, :1]
    sizes = (None, {1: Dim.DYNAMIC})
    with pytest.raises(PassError, match="test_assert_sizes.*leave it static"):
        fxp.compile(f, (X, rows), dynamic_shapes=sizes)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_scalar_is_selected_once(count):
    def f(x, i):
        return x.index_select(0, i) * 2

    x, one, other = (
        torch.tensor(3.0),
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(count, dtype=torch.int64),
    )
    compiled = fxp.compile(f, (x, one), dynamic_shapes=(None, {0: A}))
    assert torch.equal(compiled(x, one), f(x, one))
    with pytest.raises(RuntimeError, match="Index to scalar"):
        f(x, other)
    with pytest.raises(InputError):
        compiled(x, other)
    for sizes in (None, (None, {0: A})):
        with pytest.raises(PassError, match=r"index_select.*equal.*test_assert_sizes\.py"):
            fxp.compile(f, (x, other), dynamic_shapes=sizes)
