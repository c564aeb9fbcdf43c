"""One-file artifacts: what goes in comes out, and a bad file is refused in words."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from torch.export import Dim

from fxpasses.codegen.artifact import load
from fxpasses.errors import ArtifactError, InputError
from fxpasses.relax import tvm_api as T
from tests.codegen.helpers import compiled_of


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.narrow = torch.nn.Parameter(torch.randn(8, dtype=torch.bfloat16))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor([True, False] * 4))

    def forward(self, x, *, scale):
        self.seen.add_(x.shape[0])
        y = self.second(self.first(x)) * self.narrow.float() * scale
        return {"y": y * self.mask, "rows": x.shape[0], "none": None}, (self.seen,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = Model()
    compiled = compiled_of(
        model, torch.randn(4, 8), scale=2.0, dynamic_shapes={"x": {0: Dim.DYNAMIC}, "scale": None}
    )
    path = tmp_path_factory.mktemp("artifact") / "model.fxp"
    compiled(torch.randn(5, 8), scale=2.0)
    compiled.save(path)
    return model, compiled, path


def test_loaded_program_does_what_the_saved_one_does(saved):
    _, compiled, path = saved
    loaded = load(path)
    assert loaded.state["seen"] == 5
    x = torch.randn(3, 8)
    (want, (count,)), (got, (loaded_count,)) = compiled(x, scale=2.0), loaded(x, scale=2.0)
    assert torch.equal(got["y"], want["y"])
    assert got["rows"] == 3
    assert got["none"] is None
    assert count == loaded_count == 8
    assert loaded.state["seen"] == 8
    with pytest.raises(InputError, match=r"'x': dim 1 is 7, expected 8"):
        loaded(torch.randn(3, 7), scale=2.0)
    with pytest.raises(InputError, match="missing argument 'scale'"):
        loaded(x)


def test_loaded_program_can_be_saved_again(saved, tmp_path):
    _, _, path = saved
    again = tmp_path / "again.fxp"
    load(path).save(again)
    x = torch.randn(2, 8)
    assert torch.equal(load(again)(x, scale=2.0)[0]["y"], load(path)(x, scale=2.0)[0]["y"])


def test_two_loads_do_not_share_state(saved):
    _, _, path = saved
    a, b = load(path), load(path)
    a(torch.randn(2, 8), scale=2.0)
    assert a.state["seen"] == 7
    assert b.state["seen"] == 5


def test_tied_weights_are_stored_once(saved):
    model, compiled, path = saved
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("weights.safetensors").file_size
    elements = sum(
        t.numel() * t.element_size() for t in {id(t): t for t in compiled._tensors.values()}.values()
    )
    assert size < elements + 2000
    assert elements < 2 * model.first.weight.numel() * 4


def test_loading_in_a_fresh_process_traces_nothing(saved):
    _, _, path = saved
    script = f"""
import sys, torch
from fxpasses.codegen.artifact import load
compiled = load({str(path)!r})
print(compiled(torch.ones(2, 8), scale=2.0)[0]["rows"])
unwanted = ("torch._dynamo", "fxpasses.passes", "fxpasses.relax.ops")
assert not [name for name in sys.modules if name.startswith(unwanted)]
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "2"


def rewritten(path, target, **changes):
    """A copy of the archive with members or entries of the manifest exchanged."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    for name, change in changes.items():
        if name in manifest:
            manifest[name] = change
        else:
            member = name.replace("_", ".")
            members[member] = change(members[member])
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


REFUSALS = {
    "version": ({"version": 99}, r"format version 99, this fxpasses reads version \d.*compile and save"),
    "tvm": ({"tvm": "0.12"}, r"built for TVM version 0\.12, this is"),
    "machine": ({"machine": "pdp11"}, "built for CPU architecture pdp11, this is"),
    "system": ({"system": "Plan9"}, "built for operating system Plan9, this is"),
    "features": ({"features": ["avx", "avx1024"]}, "instructions.*avx1024 this machine lacks"),
    "format": ({"format": "cake"}, "no program saved by fxpasses: its manifest is of another kind"),
    "a flipped byte": (
        {"library_so": lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:]},
        r"damaged: library\.so does not have the checksum",
    ),
    "weights cut": ({"weights_safetensors": lambda data: data[:-4]}, "damaged: weights.safetensors"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_an_unfit_file_is_refused(saved, tmp_path, kind):
    changes, message = REFUSALS[kind]
    with pytest.raises(ArtifactError, match=message):
        load(rewritten(saved[2], tmp_path / "bad.fxp", **changes))


def test_damaged_and_foreign_files_are_refused(saved, tmp_path):
    data = saved[2].read_bytes()
    bad = tmp_path / "bad.fxp"
    for keep in (0, 1, 50, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:keep])
        with pytest.raises(ArtifactError, match=r"bad\.fxp is (damaged|no program saved by fxpasses)"):
            load(bad)
    for place in range(0, len(data), len(data) // 40):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            loaded = load(bad)
        except ArtifactError:
            continue
        assert loaded(torch.ones(2, 8), scale=2.0)[0]["rows"] == 2  # a byte that nobody reads
    torch.save({"weight": torch.zeros(3)}, bad)
    with pytest.raises(ArtifactError, match="no program saved by fxpasses"):
        load(bad)
    bad.write_text("hello")
    with pytest.raises(ArtifactError, match="no program saved by fxpasses"):
        load(bad)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.fxp")


def test_saving_is_all_or_nothing(saved, tmp_path, monkeypatch):
    _, compiled, _ = saved
    target = tmp_path / "model.fxp"
    target.write_text("precious")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        compiled.save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["model.fxp"]
    assert target.read_text() == "precious"


def test_a_structure_that_is_no_data_is_refused(tmp_path):
    Point = collections.namedtuple("Point", "x y")
    compiled = compiled_of(lambda x: Point(x + 1, x * 2), torch.zeros(2))
    assert compiled(torch.zeros(2)).x.tolist() == [1, 1]
    with pytest.raises(ArtifactError, match=r"cannot be saved.*register"):
        compiled.save(tmp_path / "model.fxp")


def test_saving_without_a_compiler_says_what_to_install(tmp_path, monkeypatch):
    compiled = compiled_of(lambda x: x + 1, torch.zeros(2))
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CXX", "CC"):
        monkeypatch.delenv(variable, raising=False)
    assert T.find_compiler() is None
    with pytest.raises(ArtifactError, match=r"no C compiler was found; install gcc or clang"):
        compiled.save(tmp_path / "model.fxp")
