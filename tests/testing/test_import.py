"""`fxpasses.testing` without hypothesis, and without importing it too early."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_hypothesis_is_imported_for_programs_only():
    code = (
        "import sys, torch, fxpasses.testing as t; x = torch.ones(2); "
        "t.assert_equivalent(torch.sin, torch.sin, x); t.first_divergence; t.compare_each; t.single_op_program; "
        "print('hypothesis' in sys.modules, 'tvm' in sys.modules); t.programs; print('hypothesis' in sys.modules)"
    )
    assert run(code).split() == ["False", "False", "True"]


def test_without_hypothesis_the_message_names_the_extra():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import torch, fxpasses.testing as t\n"
        "t.assert_equivalent(torch.sin, torch.sin, torch.ones(2))\n"
        "try: t.programs\n"
        "except ImportError as error: print(error)\n"
    )
    assert "pip install 'fxpasses[testing]'" in run(code)
