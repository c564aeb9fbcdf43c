"""A compiled program keeps nothing of what it was made from, and compiling leaves the collector as it was."""

from __future__ import annotations

import gc
import linecache
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import fx, nn
from torch.fx.graph_module import _loader

import fxpasses as fxp
from fxpasses.codegen import compile
from fxpasses.garbage import apart, sweep

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)).eval()


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def without_searches() -> Iterator[None]:
    """No search for garbage but those of the code that is tested."""
    gc.disable()
    yield
    gc.enable()


def test_nothing_of_the_model_and_its_capture_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: dict[str, weakref.ref] = {}

    def watch(name, function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            owner = result.program if isinstance(result, compile.Lowered) else result
            alive[name] = weakref.ref(owner)
            alive[f"graph of {name}"] = weakref.ref(owner.graph)
            values = {node.meta["val"] for node in owner.graph.nodes if "val" in node.meta}
            alive[f"a value of {name}"] = weakref.ref(values.pop())
            return result

        return wrapped

    monkeypatch.setattr(torch.export, "export", watch("exported", torch.export.export))
    for name in ("to_program", "to_canonical", "lower_optimized"):
        monkeypatch.setattr(compile, name, watch(name, getattr(compile, name)))
    monkeypatch.setenv("FXPASSES_CACHE", "0")
    net = model()
    alive["weight"] = weakref.ref(net[0].weight)
    expected = net(X).detach()
    compiled = fxp.compile(net, (X,))
    del net
    assert len(alive) == 13
    assert [name for name, ref in alive.items() if ref() is not None] == []
    torch.testing.assert_close(compiled(X), expected)


def test_the_text_of_files_and_graphs_is_not_kept() -> None:
    linecache.clearcache()
    own = fx.symbolic_trace(model())
    graphs = dict(_loader.eval_cache)
    fxp.compile(own, (X,))
    assert [name for name in linecache.cache if os.path.isfile(name)] == []
    assert graphs.items() <= _loader.eval_cache.items()
    assert len(_loader.eval_cache) == len(graphs)


def test_the_collector_is_as_it_was() -> None:
    for start in (gc.enable, gc.disable):
        start()
        before = gc.isenabled()
        with apart(), apart():
            assert not gc.isenabled()
        assert gc.isenabled() is before
        assert not gc.get_freeze_count()


def test_what_was_there_before_is_left_alone() -> None:
    old = weakref.ref(Cycle())
    with apart():
        new = weakref.ref(Cycle())
        sweep()
        assert new() is not None  # it is not worth it
        sweep(1)
        assert new() is None
        assert old() is not None
    gc.collect()
    assert old() is None


def test_what_the_user_has_frozen_stays_so() -> None:
    old = weakref.ref(Cycle())
    gc.freeze()
    try:
        fxp.compile(model(), (X,))
        gc.collect()
        assert old() is not None
    finally:
        gc.unfreeze()
    gc.collect()
    assert old() is None


IMPORTS = """
import importlib, sys, torch
from torch import nn
from fxpasses.benchmark.systems import IMPORTS, SYSTEMS
for module in IMPORTS["fxpasses"]:
    importlib.import_module(module)
known = set(sys.modules)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LSTM(288, 8)).eval()
SYSTEMS["fxpasses"](net, (torch.randn(2, 3, 8, 8),), {}, 1)()
print(*sorted(set(sys.modules) - known))
"""


def test_a_benchmark_counts_no_imports(tmp_path) -> None:
    settings = {"FXPASSES_CACHE_DIR": str(tmp_path), "FXPASSES_CACHE_SECONDS": "0"}
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
