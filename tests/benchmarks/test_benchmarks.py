"""The benchmarks run and print their tables."""

from __future__ import annotations

import pytest

from tests.benchmarks import frontend, scaling


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


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--nodes", "60", "120", "--rounds", "1"])
    printed = capsys.readouterr().out
    for step in ("capture", "decompose_to_core_aten", "all passes", "verify", "lower"):
        assert step in printed
