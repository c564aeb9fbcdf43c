"""What eager PyTorch refuses because of values, a compiled program refuses too."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.export import Dim

from fxpasses.codegen.artifact import load
from fxpasses.codegen.compile import compile
from fxpasses.errors import DivisionError, IndexRangeError, InputError, IslandWarning, RunError
from tests.codegen.helpers import compiled_of

TABLE = torch.arange(12.0).view(6, 2)

# name: (model of data and index, an index within range, one without)
INDEXING = {
    "index": (lambda x, i: x[i + 1], [0, 4, -7], [5]),
    "index of two": (lambda x, i: x[i * 2, i], [0, 1], [2]),
    "index_select": (lambda x, i: x.index_select(0, i + 1), [0, 4], [-2]),
    "gather": (lambda x, i: x.gather(0, (i * 2)[:, None]), [0, 2], [3]),
    "take": (lambda x, i: x.take(i * 3), [0, 3, -4], [4]),
    "embedding": (lambda x, i: torch.nn.functional.embedding(i * 5, x), [0, 1], [2]),
    "offsets of bags": (
        lambda x, i: torch.nn.functional.embedding_bag(torch.tensor([1, 4, 2]), x, i),
        [0, 3],
        [4],
    ),
    "last offset": (
        lambda x, i: torch.nn.functional.embedding_bag(torch.tensor([1, 4]), x, i, include_last_offset=True),
        [0, 0, 2],
        [3],
    ),
    "index_put": (lambda x, i: x.index_put((i + 1,), torch.ones(2)), [0, 4, -7], [5]),
    "index_add": (lambda x, i: x.index_add(0, i + 1, torch.ones(len(i), 2)), [0, 4], [5]),
    "scatter": (lambda x, i: x.scatter(0, (i + 1)[:, None], 3.0), [0, 4], [5]),
    "scatter_add": (lambda x, i: x.scatter_add(0, (i + 1)[:, None], torch.ones(len(i), 1)), [0, 4], [-2]),
    "scatter_reduce": (
        lambda x, i: x.scatter_reduce(0, (i + 1)[:, None], torch.ones(len(i), 1), "amax"),
        [0, 4],
        [5],
    ),
}


@pytest.mark.parametrize("name", INDEXING)
def test_a_computed_index_out_of_range_raises_as_in_eager(name):
    model, good, bad = INDEXING[name]
    good, bad = torch.tensor(good), torch.tensor(good[:-1] + bad)
    compiled = compiled_of(model, TABLE, good)
    torch.testing.assert_close(compiled(TABLE, good), model(TABLE, good))
    with pytest.raises((IndexError, RuntimeError)) as eager:
        model(TABLE, bad)
    with pytest.raises(IndexRangeError, match=r"aten\.\w+.*test_run_checks.py") as caught:
        compiled(TABLE, bad)
    assert isinstance(caught.value, eager.type)
    torch.testing.assert_close(compiled(TABLE, good), model(TABLE, good))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [True, False])
def test_bags_begin_at_the_first_index_and_are_in_order(mode, last):
    def model(indices, offsets):
        bag = torch.nn.functional.embedding_bag
        return bag(indices, TABLE, offsets, mode=mode, include_last_offset=last)

    indices = torch.tensor([1, 2, 3, 4, 5])
    compiled = compiled_of(model, indices, torch.tensor([0, 2, 5]))
    for good in ([0, 2, 5], [0, 0, 5], [0, 5, 5]):
        offsets = torch.tensor(good)
        torch.testing.assert_close(compiled(indices, offsets), model(indices, offsets))
    with pytest.raises(RuntimeError, match="has to be 0"):
        model(indices, torch.tensor([1, 2, 5]))
    for bad in ([1, 2, 5], [0, 3, 2]):  # eager PyTorch reads other memory for the second
        with pytest.raises(
            RunError, match=r"offsets that begin with 0 and do not descend \(.*test_run_checks.py"
        ):
            compiled(indices, torch.tensor(bad))


DIVISIONS = {
    "//": lambda x, y: x // y,
    "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "%": lambda x, y: x % y,
    "fmod": lambda x, y: torch.fmod(x, y),
    "number % tensor": lambda x, y: 7 % (y * x.abs()),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("name", DIVISIONS)
def test_an_integer_division_by_zero_raises_as_in_eager(name, dtype):
    model = DIVISIONS[name]
    x, y = torch.tensor([[7], [8]], dtype=dtype), torch.tensor([2, 3, 5], dtype=dtype)
    compiled = compiled_of(model, x, y, dynamic_shapes=({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}))
    assert torch.equal(compiled(x, y), model(x, y))
    zero = torch.tensor([3, 0], dtype=dtype)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        model(x, zero)
    with pytest.raises(DivisionError, match=r"divides an integer by zero \(.*test_run_checks.py") as caught:
        compiled(x, zero)
    assert isinstance(caught.value, RuntimeError | ZeroDivisionError)
    assert torch.equal(compiled(x[:0], zero), model(x[:0], zero))


@pytest.mark.parametrize("name", [name for name in DIVISIONS if name != "number % tensor"])
def test_a_division_by_the_number_zero_raises_too(name):
    x = torch.tensor([[7], [8]])

    def model(x):
        return DIVISIONS[name](x, 0)

    compiled = compiled_of(model, x, dynamic_shapes=({0: Dim.DYNAMIC},))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        model(x)
    with pytest.raises(DivisionError, match=r"divides an integer by zero \(.*test_run_checks.py"):
        compiled(x)
    assert torch.equal(compiled(x[:0]), model(x[:0]))
    floats = x.float()
    torch.testing.assert_close(compiled_of(model, floats)(floats), model(floats), equal_nan=True)


def test_what_a_model_asserts_of_a_tensor_has_to_hold():
    def model(x):
        torch._assert_async(x.min() > 0, "all must be positive")
        torch._assert_async(x.sum() - 99)
        return x + 1

    x = torch.ones(3)
    compiled = compiled_of(model, x)
    assert torch.equal(compiled(x), model(x))
    for bad, message in ((-x, "all must be positive"), (x * 33, "an assertion of the model does not hold")):
        with pytest.raises(RuntimeError):
            model(bad)
        with pytest.raises(RunError, match=rf"{message} \(.*test_run_checks.py"):
            compiled(bad)
    assert torch.equal(compiled(x), model(x))


def test_an_assertion_about_what_an_island_computes(tmp_path):
    def model(x):
        torch._assert_async(torch.linalg.det(x) != 0, "singular")
        return x * 2

    x = torch.eye(3)
    compiled_of(model, x).save(tmp_path / "asserting.fxp")
    with pytest.warns(IslandWarning):
        loaded = load(tmp_path / "asserting.fxp")
    assert torch.equal(loaded(x), x * 2)
    with pytest.raises(RunError, match="singular"):
        loaded(torch.ones(3, 3))


def test_indices_and_divisors_may_be_none_at_all():
    compiled = compiled_of(
        lambda x, i: x[i + 1], TABLE, torch.tensor([0, 1]), dynamic_shapes=(None, {0: Dim.DYNAMIC})
    )
    for _ in range(3):
        assert compiled(TABLE, torch.zeros(0, dtype=torch.int64)).shape == (0, 2)
    with pytest.raises(IndexRangeError):
        compiled(TABLE, torch.tensor([5]))


def test_unchecked_programs_stay_inside_memory():
    def model(table, index, x, y):
        return table[index], table.gather(0, index[:, None]), x // y, x % y

    table, index = torch.randn(5, 3), torch.tensor([0, 4, 2])
    x, y = torch.tensor([7, -(2**63)]), torch.tensor([2, 3])
    checked = compile(model, (table, index, x, y))
    unchecked = compile(model, (table, index, x, y), checked=False)
    for got, want in zip(unchecked(table, index, x, y), model(table, index, x, y), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    wrong = (table, index + 2**40, x, torch.tensor([0, -1]))
    assert [result.shape for result in unchecked(*wrong)] == [(3, 3), (3, 1), (2,), (2,)]
    with pytest.raises(RunError):
        checked(*wrong)


def test_division_of_floats_by_zero_is_no_error():
    compiled = compiled_of(lambda x, y: (x // y, x % y), torch.ones(2), torch.ones(2))
    zero = torch.zeros(2)
    for got, want in zip(
        compiled(torch.ones(2), zero), (torch.ones(2) // zero, torch.ones(2) % zero), strict=True
    ):
        assert torch.equal(got.isnan(), want.isnan())


def test_the_first_failure_does_not_change_arguments_or_buffers(tmp_path):
    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x, i):
            self.seen += 1
            x.mul_(2)
            return TABLE[i * 2] // (i + 3)[:, None], self.seen.clone()

    x, i = torch.ones(3), torch.tensor([0, 1])
    compiled = compiled_of(Counter(), x.clone(), i)
    compiled.save(tmp_path / "model.fxp")
    for program in (compiled, load(tmp_path / "model.fxp")):
        with pytest.raises(IndexRangeError):
            program(x, i + 9)
        assert torch.equal(x, torch.ones(3))
        assert program.state["seen"] == 0
        program(x.clone(), i)
        assert program.state["seen"] == 1


def test_several_checks_and_the_size_that_bounds_them():
    def model(x, i, j):
        return x[i * 2] + x[j + 1] // (j - 5)

    x = torch.arange(8)
    compiled = compiled_of(
        model, x, torch.tensor([0, 1]), torch.tensor([2, 3]), dynamic_shapes=({0: Dim.DYNAMIC}, None, None)
    )
    i, j = torch.tensor([0, 2]), torch.tensor([1, 3])
    assert torch.equal(compiled(x, i, j), model(x, i, j))
    assert torch.equal(compiled(x[:5], i, j), model(x[:5], i, j))
    with pytest.raises(IndexRangeError, match="-4 to 3"):
        compiled(x[:4], i, j)
    with pytest.raises(DivisionError):
        compiled(x, i, j + 2)


def test_what_a_program_demands_of_indices_does_not_depend_on_the_thread():
    compiled = compiled_of(lambda x, i: x[i + 1] * 2, TABLE, torch.tensor([0, 1]))
    wrong: list[object] = []

    def call(bad: bool) -> None:
        i = torch.tensor([0, 9 if bad else 2])
        for _ in range(50):
            try:
                result = compiled(TABLE, i)
            except IndexRangeError:
                if not bad:
                    wrong.append("raised")
            else:
                if bad or not torch.equal(result, TABLE[i + 1] * 2):
                    wrong.append(result)

    threads = [threading.Thread(target=call, args=(k % 2 == 0,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tensors_that_have_lost_or_changed_their_memory():
    compiled = compiled_of(lambda x: x * 2, torch.ones(4, 4))
    x = torch.ones(4, 4)
    y = compiled(x)
    x.set_(torch.full((4, 4), 3.0))
    assert torch.equal(compiled(x), torch.full((4, 4), 6.0))
    assert torch.equal(y, torch.full((4, 4), 2.0))
    x.untyped_storage().resize_(0)
    with pytest.raises(InputError, match="'x': its memory was freed"):
        compiled(x)
    with pytest.raises(InputError, match="'x'.*CPU"):
        compiled(torch.ones(4, 4, device="meta"))
    with pytest.raises(InputError, match="'x'"):
        compiled(torch.ones(4, 4).to_sparse())
    x = torch.ones(4, 4)
    del x
    for size in (3, 5):
        with pytest.raises(InputError, match="'x'"):
            compiled(torch.ones(size, 4))
    with pytest.raises(InputError, match="'x'"):
        compiled(torch.ones(4, 4, dtype=torch.float64))


A = Dim.AUTO

SLICES = {
    "index_add": lambda x, i, source: x.index_add(0, i + 1, source),
    "index_copy": lambda x, i, source: x.index_copy(0, i + 1, source),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_that_do_not_fit_are_refused(name):
    """torch.export takes the sizes of what is added for numbers of their own."""
    model = SLICES[name]
    x, i, source = torch.randn(6, 4), torch.tensor([0, 4, 2]), torch.randn(3, 4)
    sizes = ({0: A, 1: A}, {0: A}, {0: A, 1: A})
    compiled = compiled_of(model, x, i, source, dynamic_shapes=sizes)
    for columns in (4, 9, 1):
        args = torch.randn(6, columns), i, torch.randn(3, columns)
        torch.testing.assert_close(compiled(*args), model(*args))
    with pytest.raises((InputError, RunError), match=r"s\d+"):
        compiled(x, i, torch.randn(3, 5))
    with pytest.raises(IndexRangeError, match="allows 0 to 5"):
        compiled(x, i + 1, source)


def test_an_index_that_is_repeated_is_looked_at_once():
    def model(x, i):
        return x.gather(0, i[:, None].expand(len(i), x.shape[1]))

    i, wrong = torch.tensor([0, 5]), torch.tensor([0, 6])
    compiled = compiled_of(model, TABLE, i, dynamic_shapes=({1: A}, {0: A}))
    torch.testing.assert_close(compiled(TABLE, i), model(TABLE, i))
    with pytest.raises(IndexRangeError, match="'i'.*6.*gather"):
        compiled(TABLE, wrong)
    none = torch.ones(6, 0)
    assert compiled(none, wrong).shape == model(none, wrong).shape == (2, 0)  # repeated not once
