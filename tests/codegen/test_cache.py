"""The cache of compiled code: hits are exact, entries survive other processes and damage, old ones go."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.codegen import cache, compile
from fxpasses.errors import CacheWarning, IndexRangeError
from tests.test_cli import fxpasses  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("cache_folder")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one with each program that is built and not found in the cache."""
    done: list[str] = []
    build = compile.build
    monkeypatch.setattr(compile, "build", lambda *args: (done.append("built"), build(*args))[1])
    return done


def model(width: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 3)).eval()


def kind(entry: tuple[Path, int, float]) -> str:
    return entry[0].name.partition("-")[0]


def code() -> list[Path]:
    """The entries that hold code, the one used longest ago first."""
    return [entry[0] for entry in cache.entries() if kind(entry) == "code"]


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def agrees(net: nn.Module, *args: torch.Tensor) -> None:
    torch.testing.assert_close(fxp.compile(net, args)(*args), net(*args))


def test_the_second_time_nothing_is_built(builds):
    agrees(model(), X)
    agrees(model(), X)
    assert builds == ["built"]
    assert sorted(map(kind, cache.entries())) == ["code", "model"]


def test_other_weights_of_the_same_structure_are_those_that_count(builds):
    agrees(model(seed=1), X)
    agrees(model(seed=2), X)
    assert builds == ["built"]


@pytest.mark.parametrize("change", ["width", "shape", "dtype", "strict", "target"])
def test_what_the_code_depends_on_is_built_anew(builds, change):
    agrees(model(), X)
    if change == "width":
        agrees(model(16), X)
    elif change == "shape":
        agrees(model(), X[:1])
    elif change == "dtype":
        agrees(model().double(), X.double())
    elif change == "strict":
        fxp.compile(model(), (X,), strict=True)
    else:
        fxp.compile(model(), (X,), target={"kind": "llvm", "mcpu": "x86-64"})
    assert len(builds) == 2


def test_other_versions_and_other_rules_are_built_anew(builds, monkeypatch):
    agrees(model(), X)
    monkeypatch.setattr(torch, "__version__", "2.13.9")
    agrees(model(), X)
    monkeypatch.setattr(cache, "_source_hash", lambda: "changed")
    agrees(model(), X)
    assert len(builds) == 3


def test_it_can_be_switched_off_and_leaves_out_what_is_built_fast(builds, cache_folder, monkeypatch):
    monkeypatch.setenv("FXPASSES_CACHE_SECONDS", "1000")
    agrees(model(), X)
    monkeypatch.setenv("FXPASSES_CACHE_SECONDS", "0")
    monkeypatch.setenv("FXPASSES_CACHE", "0")
    agrees(model(), X)
    assert len(builds) == 2
    assert not cache_folder.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
@pytest.mark.parametrize("damaged", ["code", "model"])
def test_a_damaged_entry_is_made_anew_with_a_warning(builds, damage, damaged):
    agrees(model(), X)
    (path,) = (entry[0] for entry in cache.entries() if kind(entry) == damaged)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[-100] ^= 255
    elif damage == "foreign":
        data = bytearray(b"something else")
    else:
        data = bytearray()
    path.write_bytes(data)
    with pytest.warns(CacheWarning, match="damaged and will be made anew"):
        agrees(model(), X)
    built = 2 if damaged == "code" else 1
    assert len(builds) == built
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agrees(model(), X)
    assert len(builds) == built


def test_the_entry_used_longest_ago_goes_first(builds, monkeypatch):
    agrees(model(8), X)
    agrees(model(16), X)
    first, second = code()
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    agrees(model(8), X)  # used again, so the second is the oldest
    limit = sum(size for _, size, _ in cache.entries()) + second.stat().st_size // 2
    monkeypatch.setenv("FXPASSES_CACHE_BYTES", str(limit))
    agrees(model(24), X)
    left = {path for path, _, _ in cache.entries()}
    assert first in left
    assert second not in left
    assert sum(size for _, size, _ in cache.entries()) <= limit
    assert len(builds) == 3


def test_a_folder_that_cannot_be_written_does_no_harm(cache_folder, caplog):
    cache_folder.write_text("a file in the place of the folder")
    agrees(model(), X)
    assert "cannot be written" in caplog.text


def test_checks_and_islands_come_back_with_the_code(builds):
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, dtype=torch.float64)

        def forward(self, i: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(self.table(i) @ self.table(i).T)

    net, i = Looks(), torch.tensor([0, 3, 1])
    for _ in range(2):
        compiled = fxp.compile(net, (i,))
        torch.testing.assert_close(compiled(i), net(i))
        with pytest.raises(IndexRangeError, match="holds the index 7"):
            compiled(torch.tensor([0, 7, 1]))
        assert compiled.islands is not None
    assert builds == ["built"]


def test_a_program_from_the_cache_can_be_saved(tmp_path, builds):
    for _ in range(2):
        fxp.compile(model(), (X,)).save(tmp_path / "net.fxp")
        torch.testing.assert_close(fxp.load(tmp_path / "net.fxp")(X), model()(X))
    assert builds == ["built"]


SCRIPT = """
import sys, torch, fxpasses as fxp
from torch import nn
for round in range(3):
    for width in (8, 16):
        torch.manual_seed(int(sys.argv[1]))
        net = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 3)).eval()
        x = torch.randn(2, 4)
        torch.testing.assert_close(fxp.compile(net, (x,))(x), net(x))
"""


def test_two_processes_at_once(cache_folder):
    command = [sys.executable, "-W", "error::fxpasses.errors.CacheWarning", "-c", SCRIPT]
    runs = [subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    assert sorted(map(kind, cache.entries())) == ["code"] * 2 + ["model"] * 4  # of other weights each
    assert not list(cache_folder.glob("*.tmp"))


def test_the_command_shows_and_clears(fxpasses, cache_folder):  # noqa: F811
    agrees(model(), X)
    shown = fxpasses("cache")
    assert shown.code == 0
    assert str(cache_folder) in shown.out
    assert "2 (1 programs, 1 models)" in shown.out
    cleared = fxpasses("cache", "--clear")
    assert "2 entries removed" in cleared.out
    assert cache.entries() == []


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("FXPASSES_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "fxpasses"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.directory() == Path("/home/someone/.cache/fxpasses")
