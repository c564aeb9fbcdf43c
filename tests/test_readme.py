"""The README's commands and examples are what CI and this test run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks whose info string is *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("block", "command"),
    [
        ("main", "python -m pip install '.[demo]' && fxpasses demo\n"),
        ("tests", "python -m pip install -e '.[dev]' && python -m pytest -n 2\n"),
    ],
)
def test_ci_finds_the_command_in_the_readme(block: str, command: str) -> None:
    assert blocks(f"bash {block}") == [command]
    function = re.search(
        r"^command_of\(\) \{.*?^\}$", (ROOT / ".ci/run").read_text(), re.MULTILINE | re.DOTALL
    )
    assert function is not None
    shell = f"set -euo pipefail\n{function[0]}\ncommand_of {block}"
    found = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == command


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    program = namespace["program"]
    import fxpasses as fxp

    assert isinstance(program, fxp.Program)
    assert [step.name for step in namespace["history"]][-1] == "relu_of_relu"  # type: ignore[attr-defined]
    assert (tmp_path / "model.fxp").is_file()


def test_every_command_of_the_table_exists() -> None:
    import typer

    from fxpasses.cli import app

    named = set(re.findall(r"^\| `fxpasses (\w+)", README, flags=re.MULTILINE))
    assert named == {*typer.main.get_command(app).commands}


def test_every_path_that_is_named_exists() -> None:
    named = re.findall(r"`((?:fxpasses|notebooks|tests)/[\w./]+)`", README)
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
