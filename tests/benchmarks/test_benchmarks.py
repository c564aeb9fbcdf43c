"""The benchmarks run and print their tables."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import fxpasses as fxp
from fxpasses.benchmark import Benchmark, Timing, geometric_mean, summary
from fxpasses.benchmark.models import build
from fxpasses.benchmark.plot import draw
from fxpasses.errors import FxpassesError
from tests.benchmarks import frontend, overhead, products, scaling, shapes


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # pytest-xdist sets 80


def test_frontend(capsys: pytest.CaptureFixture[str]) -> None:
    frontend.main(["mlp_batch_norm", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "mlp_batch_norm" in printed
    assert "geometric mean" in printed
    assert "failed" not in printed


def test_frontend_refuses_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        frontend.main(["resnet19"])
    assert "no such model: resnet19" in capsys.readouterr().err


def test_products(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [*products.linear_cases([3], [(4, 5)]), *products.attention_cases([(1, 2, 3, 3, 4)])]
    products.main(["--rounds", "1", "--all"], cases)
    printed = capsys.readouterr().out
    for name in (
        "linear 3 x 4 x 5",
        "attention 1 x 2 x 3 x 3 x 4, masked",
        "causal",
        "4 shapes, geometric mean",
    ):
        assert name in printed


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--nodes", "60", "120", "--rounds", "1"])
    printed = capsys.readouterr().out
    for step in ("capture", "decompose_to_core_aten", "all passes", "verify", "lower"):
        assert step in printed


def test_overhead(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main(["--calls", "2", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in overhead.CASES)


def test_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    def few() -> list[shapes.Case]:
        return [
            ("add 3", lambda x: x + x, (torch.randn(3),)),
            ("unknown", lambda x: x.missing(), (torch.randn(3),)),
        ]

    shapes.main(["--rounds", "1"], {"pointwise": few})
    printed = capsys.readouterr().out
    assert "add 3" in printed
    assert "shapes are below half of the library's speed" in printed
    assert "failed: unknown:" in printed


# -- fxp.bench -------------------------------------------------------------------------


def test_ratios_are_medians_over_the_rounds() -> None:
    ours, theirs = Timing(1.0, (2.0, 30.0, 4.0), 1e-6), Timing(0.0, (4.0, 30.0, 16.0), 0.0)
    result = Benchmark(
        "model", 1, {"fxpasses": ours, "eager": theirs, "tvm": Timing(error="no such operator")}
    )
    assert result.ratio("eager") == 0.5
    assert math.isnan(result.ratio("tvm"))
    assert result.best_peer == "eager"
    assert "no such operator" in str(result)
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_bench() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(20)), torch.nn.LSTM(8, 8))
    result = fxp.bench(model.eval(), (torch.randn(3, 8),), against=["eager", "fxpasses-cached"], rounds=2)
    assert [len(timing.calls) for timing in result.timings.values()] == [2, 2, 2]
    cold, cached = result.timings["fxpasses"], result.timings["fxpasses-cached"]
    assert cold.difference < 1e-5
    assert cold.memory > 0
    assert cached.error is None
    assert cached.difference == cold.difference
    assert result.ratio("eager") > 0
    assert result.best_peer == "eager"


def test_bench_refuses_what_it_cannot_do() -> None:
    with pytest.raises(FxpassesError, match="no such system: jax; there are fxpasses, eager"):
        fxp.bench(torch.nn.ReLU(), (torch.randn(3),), against=["jax"])
    model = torch.nn.ReLU()
    model.function = lambda: None
    with pytest.raises(FxpassesError, match="cannot be sent to another process"):
        fxp.bench(model, (torch.randn(3),), against=[])


def _results() -> list[Benchmark]:
    ours = Timing(1.0, (2.0, 2.0), 1e-6, 2**20)
    return [
        Benchmark(
            name,
            1,
            {"fxpasses": ours, "eager": Timing(0.0, (eager, eager)), "tvm": Timing(0.0, (40.0,))},
        )
        for name, eager in (("first", 4.0), ("second", 1.0))
    ]


def test_summary_of_all_models() -> None:
    assert summary(_results()) == [
        ("the best on each model", "1", "2", "second", "2"),
        ("eager", "1", "2", "second", "2"),
        ("tvm", "0.05", "0.05", "first", "2"),
    ]
    assert summary([]) == []


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_chart_is_drawn(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"chart.{suffix}"
    draw(_results(), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_a_chart_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FxpassesError, match=r"is written as .svg, .png, .pdf"):
        draw(_results(), tmp_path / "chart.txt")


def test_built_in_models_are_made_from_a_seed() -> None:
    (first, (x,)), (second, _) = build("lstm"), build("lstm")
    assert x.shape == (1, 100, 128)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
