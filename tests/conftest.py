"""Set-up that all tests share: one thread for each worker, hypothesis profiles."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

# Workers run side by side (pytest -n); thread pools inside them only get in each other's way.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["FXPASSES_CACHE"] = "0"  # each test builds what it tests
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

_COMMON = {
    "deadline": None,  # the first example of a process pays for imports
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("default", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("sweep", max_examples=300, **_COMMON)
settings.register_profile("thousand", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Tests that draw random tensors draw the same ones in any order and worker."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _equal_draws(request: pytest.FixtureRequest) -> None:
    """Hypothesis draws among the constants of imported modules too: have those be the same in any worker."""
    if is_hypothesis_test(getattr(request.node, "obj", None)):
        _import_all()


@functools.cache
def _import_all() -> None:
    import fxpasses

    for module in pkgutil.walk_packages(fxpasses.__path__, "fxpasses."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache of the test's own that keeps everything; it is not there yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FXPASSES_CACHE", "1")
    monkeypatch.setenv("FXPASSES_CACHE_DIR", str(folder))
    monkeypatch.setenv("FXPASSES_CACHE_SECONDS", "0")
    return folder


@pytest.fixture(autouse=True)
def _every_schedule_builds(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """A build that fails is done again with less; no test may come to that unseen, unless marked so."""
    yield
    if not request.node.get_closest_marker("second_build"):
        left_out = [record for record in caplog.get_records("call") if record.name in _BUILDERS]
        assert not left_out, [record.getMessage() for record in left_out]


_BUILDERS = ("fxpasses.codegen.build", "fxpasses.codegen.schedules")
