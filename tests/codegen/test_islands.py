"""Operators without a lowering run in PyTorch inside the compiled program."""

from __future__ import annotations

import gc
import math
import re
import threading
import warnings

import pytest
import torch
from torch.export import Dim

from fxpasses.capture import capture
from fxpasses.codegen.artifact import load
from fxpasses.codegen.compile import compile, explain
from fxpasses.codegen.explain import Crossing
from fxpasses.codegen.island import _ACTIVE, Island, Islands
from fxpasses.codegen.steps import Step
from fxpasses.errors import ArtifactError, IndexRangeError, IslandWarning, RunError, UnsupportedOperatorError
from fxpasses.relax.partition import stages
from tests.codegen.helpers import compiled_of, program_of

library = torch.library.Library("fxptest", "FRAGMENT")
library.define(
    "split_scale(Tensor x, float scale, int[] dims, *, ScalarType? dtype=None) -> (Tensor, Tensor)"
)
library.define("pick(Tensor[] xs, int which) -> Tensor")
library.define("window(Tensor x, SymInt start, SymInt length) -> Tensor")
library.define("fail(Tensor x) -> Tensor")
library.define("accumulate(Tensor(a!) total, Tensor x) -> Tensor")
library.define("pair(Tensor x) -> (Tensor, Tensor)")
library.define("view(Tensor x) -> Tensor")
library.define("nested(Tensor x) -> (Tensor, Tensor[])")
library.define("liar(Tensor x, int length, bool wide) -> (Tensor, Tensor)")


def split_scale(x, scale, dims, *, dtype=None):
    return (x * scale).to(dtype or x.dtype), x.sum(dims)


for key in ("CPU", "Meta"):
    library.impl("split_scale", split_scale, key)
    library.impl("pick", lambda xs, which: xs[which] * 1, key)
    library.impl("window", lambda x, start, length: x.narrow(0, start, length), key)
for key in ("CPU", "Meta"):
    library.impl("accumulate", lambda total, x: total.add_(x).sum(), key)
    library.impl("pair", lambda x: (x * 2, x + 2), key)
    library.impl("nested", lambda x: (x * 2, [x + 1, x + 2]), key)
library.impl("view", lambda x: x * 1, "Meta")
library.impl("view", lambda x: x, "CPU")
library.impl("fail", lambda x: torch.empty_like(x), "Meta")


def _fail(x):
    raise ZeroDivisionError("the island is on fire")


library.impl("fail", _fail, "CPU")
library.impl("liar", lambda x, length, wide: (x * 1, x.new_empty(2, 3)), "Meta")
library.impl(
    "liar",
    lambda x, length, wide: (x * 1, x.new_ones(2, length, dtype=torch.float64 if wide else None)),
    "CPU",
)
ops = torch.ops.fxptest


class Mixed(torch.nn.Module):
    def forward(self, x, y):
        scaled, total = ops.split_scale(x @ y, 0.5, [0], dtype=torch.float64)
        picked = ops.pick([x, x + 1], 1)
        return scaled, total * 2, picked


mixed = Mixed()


def test_several_results_lists_and_keywords():
    x, y = torch.randn(4, 8), torch.randn(8, 3)
    compiled = compiled_of(mixed, x, y, dynamic_shapes=({0: Dim.DYNAMIC}, None))
    assert compiled.islands.ops == ["fxptest::split_scale.default", "fxptest::pick.default"]
    assert len(compiled.islands.rows) == 1
    for rows in (4, 7, 1):
        x = torch.randn(rows, 8)
        for got, want in zip(compiled(x, y), mixed(x, y), strict=True):
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_sizes_are_handed_over_and_views_are_copied():
    def model(x):
        a = x * 2
        window = ops.window(a, 1, x.shape[0] - 1)  # a view of memory that TVM may use again
        b = torch.relu(a[1:] + 1) * 3
        return window, b - 1

    compiled = compiled_of(model, torch.randn(6, 300), dynamic_shapes=({0: Dim.DYNAMIC},))
    for rows in (6, 9):
        x = torch.randn(rows, 300)
        for got, want in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(got, want)


def test_a_failing_island_raises_its_own_error_and_the_program_lives_on():
    compiled = compiled_of(lambda x, y: (ops.fail(x), y @ y), torch.ones(2), torch.ones(2, 2))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="the island is on fire"):
            compiled(torch.ones(2), torch.ones(2, 2))


@pytest.mark.parametrize(("length", "wide", "got"), [(4, False, "float32[2, 4]"), (3, True, "float64[2, 3]")])
def test_a_result_that_the_fake_kernel_did_not_tell_of_is_refused(length, wide, got):
    def model(x):
        return tuple(y * 2 for y in ops.liar(x, length, wide))

    message = f"result 1 of fxptest::liar.default is {got}, but its fake kernel told of float32[2, 3]"
    with pytest.raises(RunError, match=re.escape(message)):
        compiled_of(model, torch.ones(2))(torch.ones(2))
    honest = compiled_of(lambda x: ops.liar(x, 3, False)[1] * 2, torch.ones(2))
    assert honest(torch.ones(2)).tolist() == [[2.0] * 3] * 2


def test_strict_refuses_with_operator_count_and_line():
    program = program_of(mixed, torch.randn(4, 8), torch.randn(8, 3))
    with pytest.raises(UnsupportedOperatorError) as caught:
        compile(program, strict=True)
    message = str(caught.value)
    assert "fxptest.split_scale.default (1 call)" in message
    assert "test_islands.py:" in message
    assert "scaled, total = ops.split_scale" in message


REFUSALS = {
    "it changes its arguments": (torch.ops.aten.relu_.default, torch.ones(2)),
    "a result of it is neither a tensor nor a number": (ops.pick.default, [[torch.ones(2)]]),
    "a Python function is no data that can be kept": (print, None),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_what_cannot_be_an_island_is_refused_even_so(reason, monkeypatch):
    target, val = REFUSALS[reason]
    node = torch.fx.Graph().call_function(target)
    node.meta["val"] = val
    assert Islands.refusal(node) == reason

    program = program_of(mixed, torch.randn(4, 8), torch.randn(8, 3))
    refuse = lambda node: reason if node.target is ops.pick.default else None  # noqa: E731
    monkeypatch.setattr(Islands, "refusal", staticmethod(refuse))
    with pytest.raises(UnsupportedOperatorError, match="fxptest.pick.default"):
        compile(program)
    kinds = {row.op: row for row in explain(program)}
    assert kinds["fxptest.pick.default"].kind == "unsupported"
    assert kinds["fxptest.pick.default"].reason == reason
    assert kinds["fxptest.split_scale.default"].kind == "island"


def test_the_refusal_says_why_there_is_no_island():
    reason = (
        r"fxptest.nested.default \(1 call\); no island, since a result of it is neither a tensor nor a number"
    )
    with pytest.raises(UnsupportedOperatorError, match=reason):
        compile(lambda x: torch.ops.fxptest.nested(x)[0], (torch.ones(3),))


def test_saved_islands_need_their_library(tmp_path):
    x, y = torch.randn(4, 8), torch.randn(8, 3)
    compiled = compiled_of(mixed, x, y)
    path = tmp_path / "model.fxp"
    compiled.save(path)
    loaded = load(path)
    again = load(path)
    assert loaded.islands is again.islands is compiled.islands
    key = compiled.islands.key
    del compiled, loaded
    gc.collect()
    for got, want in zip(again(x, y), mixed(x, y), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    del again
    gc.collect()
    assert key not in _ACTIVE

    import subprocess
    import sys

    script = f"from fxpasses.codegen.artifact import load; load({str(path)!r})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ArtifactError" in result.stderr
    assert "operator fxptest::split_scale.default" in result.stderr
    assert "import the library that defines fxptest::split_scale first" in result.stderr


def test_a_loaded_program_says_what_runs_in_pytorch(tmp_path):
    x, y = torch.randn(4, 8), torch.randn(8, 3)
    compiled_of(mixed, x, y).save(tmp_path / "model.fxp")
    with pytest.warns(
        IslandWarning, match="2 of its operators .*: fxptest::split_scale.default, fxptest::pick"
    ):
        load(tmp_path / "model.fxp")
    compiled_of(lambda x: x + 1, x).save(tmp_path / "native.fxp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path / "native.fxp")


def test_calls_are_grouped_into_as_few_islands_as_the_native_calls_between_them_allow():
    def model(x):
        a, b = ops.pair(x)  # 1
        c = ops.pick([a, x], 0)  # 1: no native call on the way
        native = torch.relu(c) @ x  # between
        d = ops.pick([native, b], 0)  # 2: waits for the native call
        e = ops.pick([x * 3], 0)  # 1: a native call before it waits for nothing
        return d + e, b

    x = torch.randn(4, 4)
    compiled = compiled_of(model, x)
    assert [len(row.steps) for row in compiled.islands.rows] == [3, 1]
    for got, want in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    report = explain(program_of(model, x))
    assert {row.op: row.islands for row in report if row.kind == "island"} == {
        "fxptest.pick.default": (1, 2),
        "fxptest.pair.default": (1,),
    }
    matrix = 4 * 4 * 4
    # into the first: x and x * 3; out of it: b, c, e. Into the second: the product and b; out of it: d.
    assert report.crossings == (Crossing(3, 5 * matrix), Crossing(1, 3 * matrix))
    assert f"2 crossings into PyTorch, {8 * matrix} bytes shared" in report.headline


def test_a_long_chain_is_one_island_and_bytes_may_depend_on_sizes():
    def model(x):
        for _ in range(5):
            x, _ = ops.pair(ops.pick([x, x], 1))
        return x

    x = torch.randn(3)
    program = program_of(model, x, dynamic_shapes=({0: Dim.DYNAMIC},))
    compiled = compile(program)
    assert [len(row.steps) for row in compiled.islands.rows] == [10]
    torch.testing.assert_close(compiled(torch.ones(7)), model(torch.ones(7)))
    (crossing,) = explain(program).crossings
    assert crossing.calls == 10
    assert re.fullmatch(r"8\*s\d+", crossing.bytes)


def test_random_calls_keep_their_order_across_islands():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_function(ops.pick.default, ([x], 0))
    native = graph.call_function(torch.ops.aten.relu.default, (first,))
    drawn = graph.call_function(
        torch.ops.aten.bernoulli.default, (graph.call_function(ops.pick.default, ([native], 0)),)
    )
    early = graph.call_function(torch.ops.aten.bernoulli.default, (x,))
    graph.output((drawn, early))
    outside = {node: "" for node in graph.nodes if node.op == "call_function" and node is not native}
    stage = stages(graph, outside)
    assert stage[first] == 0
    assert stage[drawn] == stage[early] == 1  # alone, the second draw could go first


def test_an_island_reads_and_writes_the_memory_of_tvm_tensors_without_a_copy(monkeypatch):
    seen = []
    original = Islands.run

    def run(self, index, sizes, tensors):
        results = original(self, index, sizes, tensors)
        inputs = [torch.from_dlpack(tensor).data_ptr() for tensor in tensors]
        seen.append((inputs, [torch.from_dlpack(result).data_ptr() for result in results]))
        return results

    monkeypatch.setattr(Islands, "run", run)
    x = torch.empty(64 * 64 + 16)
    x = x[(-x.data_ptr() // 4) % 16 :][: 64 * 64].view(64, 64)  # aligned, so that it is not copied either
    compiled = compiled_of(lambda x: ops.pair(x)[0], x)
    y = compiled(x)
    assert seen == [([x.data_ptr()], [y.data_ptr()])]


def test_a_result_that_is_an_argument_or_shared_is_copied():
    def model(x):
        y = x + 1
        seen = ops.view(y)
        return seen, y * 2, ops.view(x)

    x = torch.randn(5)
    compiled = compiled_of(model, x)
    for got, want in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(got, want)
        assert got.data_ptr() != x.data_ptr()


def test_an_operator_that_changes_its_argument():
    class Accumulates(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            doubled = x * 2
            return ops.accumulate(self.total, doubled) + ops.accumulate(doubled, x), doubled

    compiled, model = compiled_of(Accumulates(), torch.ones(3)), Accumulates()
    for value in (1.0, 2.0, -3.0):
        x = torch.full((3,), value)
        torch.testing.assert_close(compiled(x), model(x))
        torch.testing.assert_close(compiled.state["total"], model.total)
        assert x[0] == value


def test_numbers_read_from_tensors():
    def model(x):
        scale = x.max().item()
        return x * scale, x + scale * 2, x.sum(0).clamp(min=scale), scale

    x = torch.randn(3, 4)
    compiled = compiled_of(model, x)
    assert len(compiled.islands.rows) == 1
    for args in (x, x * 5):
        got, want = compiled(args), model(args)
        torch.testing.assert_close(got[:3], want[:3])
        assert isinstance(got[3], float)
        assert got[3] == want[3]
    reasons = {row.reason for row in explain(program_of(model, x)) if row.kind == "island"}
    assert reasons == {"it takes a number that is read from a tensor"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)], ids=["no dims", "one dim"])
def test_a_number_that_the_dtype_of_its_use_holds_needs_no_island(dtype, shape):
    def model(x, v):
        n = v.item()
        made = x * n, x + n, n - x, x / n, x.double() * n, torch.full((2,), n, dtype=dtype)
        return *made, x < n, x == n, x >= n, x != n

    x = torch.tensor([0.0, -0.0, 1.0, -2.5, math.inf, math.nan, 6e4, 1e-7, 0.1], dtype=dtype)
    compiled = compiled_of(model, x, x[3].reshape(shape))
    assert compiled.islands is None
    for v in x:
        for got, want in zip(compiled(x, v.reshape(shape)), model(x, v.reshape(shape)), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(got.signbit() & ~got.isnan(), want.signbit() & ~want.isnan())


def test_a_number_that_would_be_rounded_stays_an_island():
    def model(x, v):
        n = v.item()
        return x.half() + n, x * n, x.double() * n

    x, v = torch.tensor([1.0, 2049.0]), torch.tensor(1 / 3, dtype=torch.float64)
    compiled = compiled_of(model, x, v)
    assert [len(row.steps) for row in compiled.islands.rows] == [2]
    for got, want in zip(compiled(x, v), model(x, v), strict=True):
        assert torch.equal(got, want)


class Leaf(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x).relu(), x + 1


class HasLeaves(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Leaf(), Leaf()

    def forward(self, x):
        y, shifted = self.first(x)
        return self.second(y)[0] + shifted


def test_leaf_modules_are_islands_and_a_file_with_them_says_what_to_do(tmp_path, monkeypatch):
    model, x = HasLeaves().eval(), torch.randn(3, 4)
    program = capture(model, (x,), leaf=(Leaf,))
    compiled = compile(program)
    assert [len(row.steps) for row in compiled.islands.rows] == [2]
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(UnsupportedOperatorError, match=r"Leaf.default \(2 calls\)"):
        compile(program, strict=True)
    data = compiled.islands.to_data()
    data["rows"][0]["steps"][0]["op"] = "fxpasses_leaf::Unknown.default"
    with pytest.raises(ArtifactError, match="Unknown.default.*capture the model with the same leaf= first"):
        Islands.from_data(data).activate()


def test_islands_called_from_many_threads():
    def model(x):
        a, b = ops.pair(x)
        return torch.relu(a) @ ops.pick([b, x], 0)

    compiled = compiled_of(model, torch.randn(8, 8))
    failing = compiled_of(lambda x: ops.fail(x), torch.ones(2))
    wrong: list[object] = []

    def call(seed: int) -> None:
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
        want = model(x)
        for _ in range(30):
            if not torch.allclose(compiled(x), want, atol=1e-5):
                wrong.append(seed)
            try:
                failing(x[0, :2])
            except ZeroDivisionError:
                continue
            wrong.append("no error")

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_unknown_operator_is_named():
    for name in ("nowhere::nothing.default", "aten::add.Nonsense"):
        with pytest.raises(ArtifactError, match=name):
            Islands(rows=[Island((Step(name, [], {}),), ())]).activate()


def test_explain_lists_islands_with_reason_and_line():
    report = explain(program_of(mixed, torch.randn(4, 8), torch.randn(8, 3)))
    assert not report.native
    assert [row.op for row in report if row.kind == "island"] == [
        "fxptest.pick.default",
        "fxptest.split_scale.default",
    ]
    row = report.rows[0]
    assert row.reason == "it has no lowering"
    assert "picked = ops.pick" in row.source
    assert "aten.mm.default" in [row.op for row in report if row.kind == "native"]
    text = str(report)
    assert "2 island" in text.splitlines()[0]
    assert "fxptest.pick.default" in text
    assert "<td>fxptest.pick.default</td>" in report._repr_html_()
    assert explain(program_of(lambda x, y: x @ y, torch.randn(4, 8), torch.randn(8, 3))).native


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32])
def test_a_dtype_without_kernels_runs_in_pytorch(dtype):
    """TVM folds a conversion to float8 and back away, and keeps the digits that float8 has not."""

    def model(x, y):
        z = x.to(dtype)
        return z, z.to(torch.float32) * 2, y.to(torch.float32) + 1

    x = 3 + torch.rand(8)
    compiled = compiled_of(model, x, x.to(dtype))
    for got, want in zip(compiled(x, x.to(dtype)), model(x, x.to(dtype)), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got.to(torch.float64), want.to(torch.float64))
    rows = explain(model, (x, x.to(dtype)))
    assert {row.reason for row in rows if row.kind == "island"} == {
        f"no kernel computes with {str(dtype)[6:]}"
    }


def test_results_that_a_lowering_leaves_out_come_from_an_island():
    def model(table, indices, offsets):
        return torch.ops.aten._embedding_bag(table, indices, offsets, False, 1)

    args = (torch.rand(10, 4), torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 4]))
    for got, want in zip(compiled_of(model, *args)(*args), model(*args), strict=True):
        assert torch.allclose(got, want)


def test_complex_numbers_between_islands_and_native_code():
    library_ = torch.library.Library("fxptest_complex", "DEF")
    library_.define("twist(Tensor z) -> Tensor")
    for key in ("CPU", "Meta"):
        library_.impl("twist", lambda z: z * 1j, key)
    twist = torch.ops.fxptest_complex.twist

    def model(x, y):
        z = twist(torch.complex(x, y))
        return z, twist(z * (z.real.relu() + 1)), twist(z) + z

    args = (torch.randn(5), torch.randn(5))
    for got, want in zip(compiled_of(model, *args)(*args), model(*args), strict=True):
        assert torch.allclose(got, want)


COMPLEX = {
    "a result": lambda z, x: z.tan() * 2,
    "an output": lambda z, x: (z.acos(), x + 1),
    "a constant operand": lambda z, x: torch.linalg.solve(
        torch.tensor([[1 + 1j, 0, 0], [0, 2, 1], [0, 1, 3j]]), z
    ),
    "results that go on": lambda z, x: (torch.linalg.eig(torch.diag(x))[0] * z).abs(),
    "between native calls": lambda z, x: ((z * z).acos() * x).real,
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_cross_as_pairs(name):
    model, arguments = COMPLEX[name], (torch.randn(3, dtype=torch.complex64), torch.randn(3))
    compiled = compiled_of(model, *arguments)
    assert compiled.islands
    torch.testing.assert_close(compiled(*arguments), model(*arguments))


def test_a_row_that_refuses_a_call_with_several_results_hands_back_those_in_use():
    def model(table, indices, offsets):
        bags, where, *_ = torch.ops.aten._embedding_bag(table, indices, offsets)
        return bags.isneginf(), where + 1

    arguments = torch.randn(5, 3), torch.tensor([1, 4, 2]), torch.tensor([0, 2])
    compiled = compiled_of(model, *arguments)
    assert compiled.islands.ops == ["aten::_embedding_bag.default"]
    for got, want in zip(compiled(*arguments), model(*arguments), strict=True):
        assert torch.equal(got, want)


def test_flexible_attention_has_bodies_and_a_dict_of_options(tmp_path):
    def causal(score, batch, head, query, key):
        return torch.where(query >= key, score, -math.inf)

    def model(q, k, v):
        return torch.nn.attention.flex_attention.flex_attention(q, k, v, score_mod=causal) + 1

    inputs = tuple(torch.randn(3, 1, 2, 16, 8))
    compiled = compile(model, inputs)
    compiled.save(tmp_path / "flexible.fxp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of islands, and of torch's own for flex_attention
        loaded, want = load(tmp_path / "flexible.fxp"), model(*inputs)
    for made in (compiled, loaded):
        torch.testing.assert_close(made(*inputs), want)


def test_tensors_made_of_numbers_alone_are_no_islands():
    def model(x):
        return x * torch.bartlett_window(4) + torch.fft.fftfreq(4)

    x = torch.randn(3, 4)
    torch.testing.assert_close(compile(model, (x,), strict=True)(x), model(x))


@pytest.mark.parametrize(
    ("function", "index"),
    [
        (lambda x, i: x.index_reduce(0, i, x[:2], "prod"), IndexRangeError),
        (lambda x, i: x.put(i, torch.ones(3)), IndexRangeError),
        (lambda x, i: torch.segment_reduce(x, "sum", lengths=i), RunError),
    ],
    ids=["index_reduce", "put", "segment_reduce"],
)
def test_what_a_kernel_of_pytorch_refuses_is_told_with_operator_and_line(function, index):
    x, bad = torch.randn(4, 3), torch.tensor([0, 7])
    compiled = compile(function, (x, bad))
    with pytest.raises((IndexError, RuntimeError)) as eager:
        function(x, bad)
    with pytest.raises(index, match=r"aten::\w+\.default in PyTorch: .*test_islands.py") as caught:
        compiled(x, bad)
    assert isinstance(caught.value, eager.type)
