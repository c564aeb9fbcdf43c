"""The compiled callable: arguments in, outputs out, state, threads."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.benchmark.threads import torch_threads
from fxpasses.codegen.runtime import ALIGNMENT, overlap
from fxpasses.errors import InputError, LoweringError
from tests.codegen.helpers import compiled_of


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(16, 4))

    def forward(self, x):
        return x @ self.weight


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    model = Linear()
    return model, compiled_of(model, torch.randn(8, 16), dynamic_shapes=({0: Dim.DYNAMIC},))


VIEWS = {
    "transposed": lambda: torch.randn(16, 8).t(),
    "misaligned": lambda: torch.randn(1 + 8 * 16)[1:].view(8, 16),
    "offset rows": lambda: torch.randn(11, 16)[3:],
    "strided": lambda: torch.randn(16, 32)[::2, ::2],
    "expanded": lambda: torch.randn(1, 16).expand(8, 16),
    "flipped sign": lambda: torch._neg_view(torch.randn(8, 16)),
    "with gradient": lambda: torch.randn(8, 16, requires_grad=True),
    "computed with gradient": lambda: torch.randn(8, 16, requires_grad=True) * 2,
    "parameter": lambda: torch.nn.Parameter(torch.randn(8, 16)),
    "one row of many": lambda: torch.randn(4, 5, 16)[:, 2:3][0],
    "no rows": lambda: torch.randn(0, 16),
    "inference tensor": lambda: torch.inference_mode()(torch.randn)(8, 16),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_any_view_is_accepted_and_left_alone(linear, kind):
    model, compiled = linear
    x = VIEWS[kind]()
    before = x.detach().clone()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    assert torch.equal(x, before)


def test_a_misaligned_view_is_misaligned():
    assert VIEWS["misaligned"]().data_ptr() % ALIGNMENT


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32,
        torch.int64, torch.uint8, torch.bool,
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (3, 5)])
def test_dtypes_and_shapes_pass_through(dtype, shape):
    x = (torch.randn(shape) * 3).to(dtype)
    compiled = compiled_of(lambda x: (x.repeat(2, 1, 1), x.reshape(-1)), x)
    repeated, flat = compiled(x)
    assert repeated.dtype == flat.dtype == dtype
    assert torch.equal(repeated, x.repeat(2, 1, 1))
    assert torch.equal(flat, x.reshape(-1))


def test_outputs_are_never_overwritten_by_later_calls(linear):
    _, compiled = linear
    xs = [torch.randn(8, 16) for _ in range(20)]
    results = [compiled(x) for x in xs]
    expected = [compiled(x).clone() for x in xs]
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    results[0].zero_()
    assert torch.equal(compiled(xs[0]), expected[0])


def test_outputs_carry_no_gradient(linear):
    _, compiled = linear
    assert not compiled(torch.randn(8, 16, requires_grad=True)).requires_grad


def test_output_structure_constants_and_sizes():
    def model(x, scale, flag=None):
        return {"y": x * scale, "none": None, "rows": x.shape[0]}, [x.shape[0] / 4, x.shape[0] > 3], "text"

    compiled = compiled_of(
        model, torch.randn(4, 3), 2.0, flag=None, dynamic_shapes=({0: Dim.DYNAMIC}, None, None)
    )
    x = torch.randn(6, 3)
    got, (quarter, large), text = compiled(x, 2.0, flag=None)
    torch.testing.assert_close(got["y"], x * 2)
    assert got["none"] is None
    assert got["rows"] == 6
    assert isinstance(got["rows"], int)
    assert quarter == 1.5
    assert large is True
    assert text == "text"
    with pytest.raises(InputError, match=r"'scale'.*constant 2\.0, got 3\.0"):
        compiled(x, 3.0, flag=None)


def test_sizes_as_arguments_and_derived_sizes():
    half = Dim("half", min=1, max=50)
    compiled = compiled_of(
        lambda x, n: (x.reshape(-1, 2), x.shape[0] * n),
        torch.randn(8, 3),
        3,
        dynamic_shapes=({0: 2 * half}, Dim.DYNAMIC),
    )
    x = torch.randn(14, 3)
    y, product = compiled(x, 5)
    assert torch.equal(y, x.reshape(-1, 2))
    assert product == 70
    with pytest.raises(InputError, match=r"'x': dim 0 is 7, which is not 2\*"):
        compiled(torch.randn(7, 3), 5)
    with pytest.raises(InputError, match=r"'x'.*outside the range"):
        compiled(torch.randn(102, 3), 5)


def test_an_input_returned_is_the_same_object_and_weights_are_copies():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3))

        def forward(self, x):
            y = x * self.weight
            return x, self.weight, y, y

    model = Model()
    compiled = compiled_of(model, torch.randn(3))
    x = torch.randn(3)
    same, weight, first, second = compiled(x)
    assert same is x
    assert first is second
    weight.zero_()
    torch.testing.assert_close(compiled(x)[2], (x * model.weight).detach())


def test_results_share_no_memory_with_arguments_weights_or_each_other():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(4, 16))

        def forward(self, x):
            return x.reshape(-1), self.weight.reshape(-1), x.reshape(16, 4)

    model = Model()
    compiled = compiled_of(model, torch.randn(4, 16))
    x = torch.randn(4, 16)
    before = x.clone()
    for result in compiled(x):
        result.zero_()
    assert torch.equal(x, before)
    flat, weight, square = compiled(x)
    assert torch.equal(weight, model.weight.reshape(-1))
    flat.zero_()
    assert torch.equal(square, x.reshape(16, 4))


def test_weights_are_a_snapshot():
    model = Linear()
    x = torch.randn(2, 16)
    compiled = compiled_of(model, x)
    expected = model(x).detach()
    with torch.no_grad():
        model.weight.zero_()
    torch.testing.assert_close(compiled(x), expected)


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros(3), persistent=False)

    def forward(self, x):
        self.count += 1
        self.total += x
        return self.total * self.count


def test_buffers_belong_to_the_compiled_program():
    model, eager = Counter(), Counter()
    compiled = compiled_of(model, torch.ones(3))
    for _ in range(3):
        x = torch.randn(3)
        torch.testing.assert_close(compiled(x), eager(x))
        assert compiled.state.keys() == {"count", "total"}
        for name, value in compiled.state.items():
            torch.testing.assert_close(value, dict(eager.named_buffers())[name])
    assert model.count == 0
    compiled.state["count"].zero_()
    compiled(torch.randn(3))
    assert compiled.state["count"] == 1


def test_swapped_buffers_are_read_before_they_are_written():
    class Swap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.zeros(2))
            self.register_buffer("b", torch.ones(2))

        def forward(self, x):
            a = self.a.clone()
            self.a.copy_(self.b)
            self.b.copy_(a)
            return x + a

    compiled, eager = compiled_of(Swap(), torch.zeros(2)), Swap()
    for _ in range(3):
        x = torch.randn(2)
        torch.testing.assert_close(compiled(x), eager(x))
        assert torch.equal(compiled.state["a"], eager.a)
        assert torch.equal(compiled.state["b"], eager.b)


def in_place(x, y):
    before = x * 1
    x.mul_(2).add_(y)
    return before + x


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "misaligned"])
def test_input_mutation_is_written_back(layout):
    def make():
        return {
            "contiguous": lambda: torch.randn(4, 4),
            "transposed": lambda: torch.randn(4, 4).t(),
            "strided": lambda: torch.randn(8, 8)[::2, ::2],
            "misaligned": lambda: torch.randn(17)[1:].view(4, 4),
        }[layout]()

    compiled = compiled_of(in_place, torch.randn(4, 4), torch.randn(4, 4))
    x, y = make(), torch.randn(4, 4)
    expected = x.clone()
    want = in_place(expected, y)
    torch.testing.assert_close(compiled(x, y), want)
    torch.testing.assert_close(x, expected)


def test_an_input_returned_as_it_was_before_its_change():
    def model(x):
        before = x.clone()
        x.add_(1)
        return before

    compiled = compiled_of(model, torch.zeros(3))
    x = torch.zeros(3)
    assert torch.equal(compiled(x), torch.zeros(3))
    assert torch.equal(x, torch.ones(3))


def test_a_changed_argument_may_not_share_memory_with_another():
    compiled = compiled_of(in_place, torch.randn(4, 4), torch.randn(4, 4))
    base = torch.randn(8, 4)
    with pytest.raises(InputError, match=r"'x' and 'y' share memory.*clone"):
        compiled(base[:4], base[1:5])
    compiled(base[:4], base[4:])
    assert not overlap(torch.zeros(0), torch.zeros(0))


def test_a_user_argument_and_a_buffer_of_one_name():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("x", torch.zeros(3))

        def forward(self, x):
            self.x.add_(x)
            x.mul_(2)
            return x + self.x

    compiled, eager = compiled_of(Model(), torch.ones(3)), Model()
    for _ in range(2):
        a = torch.randn(3)
        b = a.clone()
        torch.testing.assert_close(compiled(a), eager(b))
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(compiled.state["x"], eager.x)


def test_a_buffer_may_not_change_its_type():
    from fxpasses.codegen.plan import CallPlan
    from tests.codegen.helpers import program_of

    program = program_of(Counter(), torch.ones(3))
    g = program.edit()
    roles = g.graph.output_node().meta["roles"]
    values = list(g.graph.output_node().args[0])
    values[[role.target for role in roles].index("count")] = values[-1]
    g.graph.output_node().args = (tuple(values),)
    with pytest.raises(LoweringError, match="'count' would change its type"):
        CallPlan.of(g.finish())


BAD_CALLS = {
    "too few": (lambda x: ((), {}), "missing argument 'x'"),
    "too many": (lambda x: ((x, x), {}), "2 positional arguments given, 1 expected"),
    "no tensor": (lambda x: ((3.0,), {}), r"'x': a tensor float32.* expected, got 3\.0"),
    "dtype": (lambda x: ((x.double(),), {}), r"'x': expected float32.*got float64.*\.to\(torch\.float32\)"),
    "rank": (lambda x: ((x[0],), {}), "'x': expected 2 dims"),
    "size": (lambda x: ((x[:, :5],), {}), "'x': dim 1 is 5, expected 16"),
    "meta": (lambda x: ((x.to("meta"),), {}), r"'x': a CPU tensor expected.*meta"),
    "sparse": (lambda x: ((x.to_sparse(),), {}), r"'x': a dense tensor expected.*to_dense"),
    "keyword": (lambda x: ((x,), {"y": x}), "unexpected argument 'y'"),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_a_bad_call_names_the_argument(linear, kind):
    make, message = BAD_CALLS[kind]
    args, kwargs = make(torch.randn(8, 16))
    with pytest.raises(InputError, match=message):
        linear[1](*args, **kwargs)


def test_a_model_without_memory_is_refused():
    model = torch.nn.Linear(3, 2, device="meta")
    with pytest.raises(InputError, match="tensor 'weight' of the model is on the device meta"):
        fxp.compile(model, (torch.randn(4, 3, device="meta"),))


def test_indices_out_of_range_are_refused():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(10, 4)

        def forward(self, ids, rows, where):
            table = self.table(ids.unsqueeze(0))
            return table[0][rows.to(torch.int64)], torch.gather(table[0], 0, where)

    model = Model()
    good = (torch.tensor([0, 9, 3]), torch.tensor([-3, 2], dtype=torch.int32), torch.tensor([[0, 2, 1, 0]]))
    compiled = compiled_of(model, *good, dynamic_shapes=({0: Dim.DYNAMIC}, None, None))
    for a, b in zip(compiled(*good), model(*good), strict=True):
        torch.testing.assert_close(a, b.detach())
    ids, rows, where = good
    for bad in (-1, 10):
        with pytest.raises(InputError, match=rf"'ids'.*index {bad}.*embedding.*0 to 9"):
            compiled(torch.tensor([0, bad, 1]), rows, where)
    for bad in (-4, 3):
        with pytest.raises(InputError, match=rf"'rows'.*index {bad}.*-3 to 2"):
            compiled(ids, torch.tensor([0, bad], dtype=torch.int32), where)
    with pytest.raises(InputError, match=r"'where'.*index 3.*0 to 2"):
        compiled(ids, rows, torch.tensor([[0, 2, 1, 3]]))
    with pytest.raises(InputError, match=r"'rows'.*index -3.*-2 to 1"):
        compiled(ids[:2], rows, where.clamp(max=1))


def test_no_range_is_demanded_of_an_index_that_the_program_computes():
    compiled = compiled_of(lambda x, i: x[i.clamp(0, 2)], torch.randn(3), torch.tensor([0, 1]))
    x = torch.randn(3)
    assert torch.equal(compiled(x, torch.tensor([-7, 100])), x[[0, 2]])


def test_calls_from_many_threads(linear):
    model, compiled = linear
    failures = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for rows in range(1, 40):
            x = torch.randn(rows, 16, generator=generator)
            if not torch.allclose(compiled(x), model(x).detach(), atol=1e-5):
                failures.append((seed, rows))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_compilations_in_many_threads():
    """As other code may compile with dynamo at the same time."""
    models = [torch.nn.Sequential(torch.nn.Linear(n, n), torch.nn.Dropout()).eval() for n in range(2, 8)]
    compiled = {n: torch.compile(models[n - 2], backend="fxpasses") for n in (2, 5)}

    def work(model):
        n = model[0].in_features
        x = torch.zeros(1, n)
        if n in compiled:
            compiled[n](x)
        else:
            compiled[n] = fxp.compile(model, (x,))

    with ThreadPoolExecutor(len(models)) as threads:
        list(threads.map(work, models))  # raises what one of them has raised
    for model in models:
        x = torch.randn(1, model[0].in_features)
        torch.testing.assert_close(compiled[x.shape[1]](x), model(x))


def test_updates_of_buffers_from_many_threads_are_not_lost():
    compiled = compiled_of(Counter(), torch.ones(3))

    def work():
        for _ in range(25):
            compiled(torch.ones(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiled.state["count"] == 100
    assert torch.equal(compiled.state["total"], torch.full((3,), 100.0))


def test_a_program_without_computation_and_one_without_arguments():
    x = torch.randn(3)
    assert compiled_of(lambda x: x, x)(x) is x
    compiled = compiled_of(lambda: torch.arange(4) * 2)
    assert torch.equal(compiled(), torch.arange(4) * 2)
    compiled().zero_()
    assert torch.equal(compiled(), torch.arange(4) * 2)


def test_the_number_of_threads_follows_torch(linear):
    model, compiled = linear
    x = torch.randn(64, 16)
    for count in (2, 1):
        with torch_threads(count):
            torch.testing.assert_close(compiled(x), model(x).detach())


def test_a_deep_copy_has_buffers_of_its_own():
    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x * self.count

    x = torch.ones(2)
    first = fxp.compile(Counter(), (x,))
    first(x)
    second = copy.deepcopy(first)
    torch.testing.assert_close(second(x), 2 * x)
    torch.testing.assert_close(second(x), 3 * x)
    torch.testing.assert_close(first(x), 2 * x)
    with pytest.raises(TypeError, match="write it with save"):
        pickle.dumps(first)
