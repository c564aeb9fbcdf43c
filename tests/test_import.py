"""What `import fxpasses` costs, and that its public names are what they should be."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types

import pytest

import fxpasses as fxp

# Imported only by what needs them.
HEAVY = {
    "tvm",
    "tvm_ffi",
    "torch._dynamo",
    "torch._inductor",
    "networkx",
    "sympy",
    "rich",
    "typer",
    "hypothesis",
}

# Public functions with the name of the module that holds them.
SAME_NAME = ("capture", "fingerprint", "rewrite", "verify")


def modules_after(statement: str) -> list[str]:
    """The modules that *statement* adds to those of torch, in a fresh interpreter."""
    script = (
        "import json, sys\nimport torch\nbefore = set(sys.modules)\n"
        f"{statement}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(run.stdout)
    return found


def test_importing_loads_nothing_heavy() -> None:
    added = modules_after("import fxpasses")
    assert not HEAVY & {*added, *(name.split(".")[0] for name in added)}
    others = [name for name in added if name.split(".")[0] != "fxpasses"]
    assert len(others) < 20, f"import fxpasses loads {len(others)} modules beside its own: {others}"
    assert len(added) < 60, f"import fxpasses loads {len(added)} modules"


def test_looking_around_loads_nothing_heavy() -> None:
    assert not HEAVY & set(modules_after("import fxpasses; dir(fxpasses); fxpasses.passes.CATALOGUE"))


@pytest.mark.parametrize("name", fxp.__all__)
def test_public_name(name: str) -> None:
    value = getattr(fxp, name)
    assert name in dir(fxp)
    if name in ("passes", "testing", "errors"):
        assert isinstance(value, types.ModuleType)
    else:
        assert callable(value)
        assert value.__doc__


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'fxpasses' has no attribute 'cannonicalize'"):
        _ = fxp.cannonicalize


def test_a_function_with_the_name_of_its_module_stays_a_function() -> None:
    script = "import importlib\n" + "".join(
        f"import fxpasses.{name}\nmodule = importlib.import_module('fxpasses.{name}')\n"
        f"assert fxpasses.{name} is module.{name}, fxpasses.{name}\n"
        f"from fxpasses import {name}\nassert {name} is module.{name}\n"
        for name in SAME_NAME
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    for name in SAME_NAME:
        module = importlib.import_module(f"fxpasses.{name}")
        assert isinstance(module, types.ModuleType)
        assert getattr(fxp, name) is getattr(module, name)


def test_type_checkers_see_every_public_name() -> None:
    """The lazy table and the imports for type checkers name the same things."""
    import ast
    from pathlib import Path

    assert fxp.__file__ is not None
    tree = ast.parse(Path(fxp.__file__).read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(fxp.__all__) <= imported
