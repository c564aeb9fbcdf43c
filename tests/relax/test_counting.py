"""Results whose size depends on values, compiled, against eager."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.benchmark.profile import Recorder
from fxpasses.codegen.artifact import load
from fxpasses.codegen.callbacks import REQUIRE
from fxpasses.errors import IndexRangeError, LoweringError, RunError
from tests.codegen.helpers import compiled_of

NAN = float("nan")


def agree(model, *calls, dynamic_shapes=None):
    """Compile with the first call's arguments, without islands, and compare all calls with eager."""
    compiled = compiled_of(model, *calls[0], dynamic_shapes=dynamic_shapes)
    assert compiled.islands is None
    for args in calls:
        got, want = compiled(*args), model(*args)
        for a, b in zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    return compiled


ROWS = ({0: Dim.DYNAMIC},)


def signs(rows):
    torch.manual_seed(rows)
    return torch.randint(-1, 2, (rows, 4)).float()


@pytest.mark.parametrize("dynamic_shapes", [None, ROWS], ids=["static", "dynamic"])
def test_nonzero_and_masks(dynamic_shapes):
    def model(x):
        found = x.nonzero()
        return found, torch.masked_select(x, x[:, :1] > 0), x[x > 0] * 2, x[(x < 0).any(1)].sum(0)

    calls = [(signs(5),), (torch.zeros(5, 4),), (torch.full((5, 4), NAN),)]
    if dynamic_shapes:
        calls += [(signs(rows),) for rows in (2, 9)]
    agree(model, *calls, dynamic_shapes=dynamic_shapes)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_nonzero_of_each_dtype(dtype):
    agree(
        lambda x: (x.nonzero(), *torch.nonzero(x[0], as_tuple=True)),
        (signs(3).to(dtype),),
        (signs(3).abs().to(dtype),),
    )


def test_nonzero_of_a_tensor_without_dims():
    def model(x):
        return torch.nonzero(x)

    compiled = compiled_of(model, torch.tensor(3.0))
    for value in (0.0, 2.0):
        got, want = compiled(torch.tensor(value)), model(torch.tensor(value))
        assert got.shape == want.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_unique_values(dtype):
    def model(x):
        return (
            *torch.unique(x, return_inverse=True, return_counts=True),
            *torch.unique_consecutive(x, return_inverse=True, return_counts=True),
            torch.unique(x[0]),
        )

    agree(model, (signs(3).to(dtype),), (signs(4)[1:].to(dtype),), (torch.zeros(3, 4, dtype=dtype),))


def test_each_nan_is_unique():
    x = torch.tensor([1.0, NAN, -0.0, 0.0, NAN, 1.0, float("inf"), float("-inf")])
    agree(lambda x: torch.unique(x, return_inverse=True, return_counts=True), (x,), (x.flip(0),))


def test_repeats():
    def model(x, times):
        return (
            torch.repeat_interleave(x, times, dim=0),
            torch.repeat_interleave(x, times[:4], dim=-1).sum(0),
            torch.repeat_interleave(times),
            torch.repeat_interleave(x, times.sum()[None]),
        )

    x = signs(5)
    calls = [(x, torch.tensor(t)) for t in ([1, 0, 2, 3, 1], [0, 0, 0, 0, 0], [7, 0, 0, 0, 1])]
    compiled = agree(model, *calls)
    with pytest.raises(RunError):
        compiled(x, torch.tensor([-4, 0, 0, 0, 1]))
    with pytest.raises(IndexRangeError, match="'times'.*-1.*repeat_interleave"):
        compiled(x, torch.tensor([1, 2, 3, -1, 4]))


@pytest.mark.parametrize("dynamic_shapes", [None, (*ROWS, *ROWS)], ids=["static", "dynamic"])
def test_occurrences_of_numbers(dynamic_shapes):
    def model(x, weights):
        return (
            torch.bincount(x),
            torch.bincount(x.to(torch.uint8), minlength=5),
            torch.bincount(x.int(), minlength=x.shape[0]) * 2,
            torch.bincount(x, weights),
            torch.bincount(x, weights.half(), minlength=30),
            torch.bincount(x, x, 3),
        )

    torch.manual_seed(0)
    calls = [(torch.randint(0, most, (300,)), torch.randn(300)) for most in (20, 1, 7)]
    if dynamic_shapes:
        calls += [(torch.randint(0, 9, (n,)), torch.randn(n)) for n in (1, 10)]
    compiled = agree(model, *calls, dynamic_shapes=dynamic_shapes)
    x, weights = calls[0]
    with pytest.raises(IndexRangeError, match="'x'.*-3.*bincount"):
        compiled(x.index_fill(0, torch.tensor([7]), -3), weights)


def test_occurrences_among_no_numbers():
    none = torch.empty(0, dtype=torch.int64)
    agree(lambda x: (torch.bincount(x), torch.bincount(x, minlength=4), torch.repeat_interleave(x)), (none,))

    def weighted(x):
        found = x.nonzero()[:, 0]
        return torch.bincount(found, found.float(), 3)

    compiled = agree(weighted, (signs(4)[:, 0],), (torch.ones(4),))
    assert torch.bincount(none, none.float(), 3).dtype == torch.int64  # not what its fake tensor says
    with pytest.raises(RunError):
        compiled(torch.zeros(4))
    with pytest.raises(LoweringError, match="no weights"):
        compiled_of(lambda x: torch.bincount(x, x.float()), none)


def test_sizes_that_depend_on_values_flow_on_and_are_returned(tmp_path):
    class Model(torch.nn.Module):
        def forward(self, x):
            found = x.nonzero()
            count = found.shape[0]
            rows = (x > 0).sum().item()
            torch._check(rows >= 0)
            torch._check(rows <= x.numel())
            padded = torch.cat([found, torch.zeros(rows, 2, dtype=torch.int64)])
            return padded, count, count + rows, torch.arange(count) * count, x * rows, rows > 3

    model = Model()
    compiled = compiled_of(model, signs(4), dynamic_shapes=ROWS)
    compiled.save(tmp_path / "model.fxp")
    for program in (compiled, load(tmp_path / "model.fxp")):
        assert program.islands is None
        for rows in (3, 8):
            for got, want in zip(program(signs(rows)), model(signs(rows)), strict=True):
                assert type(got) is type(want)
                assert torch.equal(torch.as_tensor(got), torch.as_tensor(want))


# name: (model of rows and a number, numbers within, numbers without)
READS = {
    "slice": (lambda x, n: x[: _within(n.item(), x)], [0, 2, 5], [-1, 6, 300]),
    "narrow": (lambda x, n: x.narrow(0, _within(n.item(), x, 1), 1), [0, 4], [-1, 5, 300]),
    "select": (lambda x, n: x[n.item()], [0, 4, -5], [5, -6, 300]),
    "select_scatter": (lambda x, n: torch.select_scatter(x, x[0] * 0, 0, n.item()), [0, 4, -5], [5, -6]),
}


def _within(n, x, less=0):
    torch._check(n >= 0)
    torch._check(n <= x.shape[0] - less)
    return n


@pytest.mark.parametrize("dynamic_shapes", [None, (*ROWS, None)], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", READS)
def test_a_number_read_from_a_tensor_never_reaches_for_other_memory(name, dynamic_shapes):
    model, good, bad = READS[name]
    x = signs(5)
    compiled = agree(model, *((x, torch.tensor(n)) for n in good), dynamic_shapes=dynamic_shapes)
    for number in bad:
        with pytest.raises((RuntimeError, IndexError)) as eager:
            model(x, torch.tensor(number))
        with pytest.raises(RunError, match=rf"= {number}\b.*test_counting.py") as caught:
            compiled(x, torch.tensor(number))
        assert isinstance(caught.value, eager.type)


def test_assertions_of_several_numbers():
    def model(x, n):
        first, second = n[0].item(), n[1].item()
        torch._check(first >= 0)
        torch._check(second >= 0)
        torch._check(first + second <= x.shape[0])
        return x[first : first + second]

    x = signs(6)
    compiled = agree(model, *((x, torch.tensor(n)) for n in ([1, 3], [0, 6], [6, 0], [2, 2])))
    for numbers in ([3, 4], [7, 0], [-1, 3]):
        with pytest.raises(RuntimeError):
            model(x, torch.tensor(numbers))
        with pytest.raises(RunError):
            compiled(x, torch.tensor(numbers))


class Router(torch.nn.Module):
    """Each row goes to two of four layers, some of which may get none."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(4, 4)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2, -1)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(chosen == number)
            result = result.index_add(0, row, expert(x[row]) * weights[row, place, None])
        return result


def test_a_mixture_of_experts_is_native():
    torch.manual_seed(0)
    model = Router().eval()
    with torch.no_grad():
        compiled = compiled_of(model, torch.randn(5, 4), dynamic_shapes=ROWS)
        assert compiled.islands is None
        for rows in (1, 2, 3, 9):
            x = torch.randn(rows, 4)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_sizes_that_depend_on_values_in_a_branch():
    def model(x):
        found = x[(x > 0).any(1)]
        inside = torch.cond(
            x.sum() > 0, lambda x: x[(x > 0).all(1)].sum(0), lambda x: x.sum(0) * (x > 0).sum().item(), (x,)
        )
        outside = torch.cond(x.sum() > 0, lambda y: y.sum(0), lambda y: y.sum(0) * 2, (found,))
        return inside, outside

    agree(
        model,
        *((signs(rows),) for rows in (5, 2, 9)),
        (signs(4).abs(),),
        (-signs(4).abs(),),
        dynamic_shapes=ROWS,
    )


def test_a_count_that_the_model_asserts():
    def model(x):
        places = x.nonzero()
        torch._check(places.shape[0] == 4)
        return places + x.shape[0], x[:4] * places[:, 0]

    x = torch.tensor([0.0, 1.0, 2.0, 0.0, 3.0, 4.0])
    compiled = compiled_of(model, x)
    torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(RunError, match=r"nonzero_size = 6 .*places = x\.nonzero\(\)"):
        compiled(torch.ones(6))


# name: (a model of a tensor and a number in one, numbers that it takes, others that Python raises an error for)
NUMBERS = {
    "product": (lambda x, n: x * (2 * n.item() + 1) - n.item(), [1.5, -2.0, 1e30], []),
    "quotient": (lambda x, n: x / (1 - 1 / n.item()), [4.0, -0.5], [0.0, -0.0]),
    "root": (lambda x, n: x * (n.item() + 1) ** 0.5, [3.0, 0.0, -1.0], []),
    "power": (lambda x, n: x + n.item() ** 2, [3.0, -3.0], [1e300]),
    "inverse": (lambda x, n: x + n.item() ** -1, [4.0, -0.5], [0.0]),
    "comparison": (lambda x, n: (x > n.item() / 3, x.eq(-n.item())), [0.5, -3.0], []),
    "filled": (lambda x, n: torch.full((2, 3), n.item() * 3), [0.1, 7.0], []),
    "larger": (lambda x, n: x / max(n.item(), 0.5) + min(n.item(), 0.25), [0.1, 7.0], []),
    "computed": (lambda x, n: (x - x.mean().item()) / (x.std().item() + n.item()), [0.1, 7.0], []),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NUMBERS)
def test_arithmetic_with_numbers_of_tensors_is_native(name, dtype):
    model, good, bad = NUMBERS[name]
    x = torch.tensor([[-1.5, 2.0], [0.25, 3.0]])
    compiled = fxp.compile(model, (x, torch.tensor(good[0], dtype=dtype)), strict=True)
    for value in good:
        number = torch.tensor(value, dtype=dtype)
        torch.testing.assert_close(compiled(x, number), model(x, number))
    for value in bad:
        number = torch.tensor(value, dtype=torch.float64)
        if dtype == torch.float64:
            with pytest.raises((ArithmeticError, TypeError, RuntimeError)):
                model(x, number)
            with pytest.raises(RunError):
                compiled(x, number)


@pytest.mark.parametrize(("minlength", "asked"), [(8, False), (3, True)])
def test_what_is_known_of_a_size_is_not_asked_at_run_time(minlength, asked):
    def model(x):
        counts = torch.bincount(x, minlength=minlength)
        torch._check(counts.shape[0] >= 8)
        return counts * 2

    x = torch.arange(20) % 8
    compiled = agree(model, (x,), (x | 4,))
    recorder = Recorder()
    with compiled.instrumented(recorder):
        calls = recorder.during(lambda: compiled(x))
    assert (REQUIRE in {call.name for call in calls}) == asked
