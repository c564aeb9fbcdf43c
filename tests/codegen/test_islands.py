"""Operators without a lowering run in PyTorch inside the compiled program."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.export import Dim

from fxpasses.codegen.artifact import load
from fxpasses.codegen.compile import compile, explain
from fxpasses.codegen.island import _ACTIVE
from fxpasses.errors import ArtifactError, UnsupportedOperatorError
from tests.codegen.helpers import compiled_of, program_of

library = torch.library.Library("fxptest", "FRAGMENT")
library.define(
    "split_scale(Tensor x, float scale, int[] dims, *, ScalarType? dtype=None) -> (Tensor, Tensor)"
)
library.define("pick(Tensor[] xs, int which) -> Tensor")
library.define("window(Tensor x, SymInt start, SymInt length) -> Tensor")
library.define("fail(Tensor x) -> Tensor")


def split_scale(x, scale, dims, *, dtype=None):
    return (x * scale).to(dtype or x.dtype), x.sum(dims)


for key in ("CPU", "Meta"):
    library.impl("split_scale", split_scale, key)
    library.impl("pick", lambda xs, which: xs[which] * 1, key)
    library.impl("window", lambda x, start, length: x.narrow(0, start, length), key)
library.impl("fail", lambda x: torch.empty_like(x), "Meta")


def _fail(x):
    raise ZeroDivisionError("the island is on fire")


library.impl("fail", _fail, "CPU")
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
    assert [row.op for row in compiled.islands.rows] == [
        "fxptest::split_scale.default",
        "fxptest::pick.default",
    ]
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


def test_strict_refuses_with_operator_count_and_line():
    program = program_of(mixed, torch.randn(4, 8), torch.randn(8, 3))
    with pytest.raises(UnsupportedOperatorError) as caught:
        compile(program, strict=True)
    message = str(caught.value)
    assert "fxptest.split_scale.default (1 call)" in message
    assert "test_islands.py:" in message
    assert "scaled, total = ops.split_scale" in message


def test_what_cannot_be_an_island_is_refused_even_so():
    def branch(x):
        return torch.cond(x.sum() > 0, lambda x: ops.pick([x], 0), lambda x: x * 2, (x,))

    program = program_of(branch, torch.randn(3))
    with pytest.raises(UnsupportedOperatorError, match="cond"):
        compile(program)


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


def test_an_unknown_operator_is_named():
    from fxpasses.codegen.island import Island, Islands

    for name in ("nowhere::nothing.default", "aten::add.Nonsense"):
        with pytest.raises(ArtifactError, match=name):
            Islands(rows=[Island(name, [], {}, "")]).activate()


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


def test_explain_says_what_is_unsupported():
    def branch(x):
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (ops.pick([x], 0),))

    report = explain(program_of(branch, torch.randn(3)))
    kinds = {row.op: row.kind for row in report}
    assert "unsupported" in kinds.values()
    assert kinds["fxptest.pick.default"] == "island"
