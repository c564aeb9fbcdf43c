"""Expressions of sizes as text: evaluated without sympy, and written for a reader."""

from __future__ import annotations

import pytest

from fxpasses.errors import ArtifactError
from fxpasses.sizes import evaluate, readable


@pytest.mark.parametrize(
    ("text", "written", "sizes", "value"),
    [
        ("s0 <= s1", "x.shape[0] <= s1", {"s0": 3, "s1": 2}, False),
        ("Eq(Mod(s0, 4), 0)", "x.shape[0] % 4 == 0", {"s0": 8}, True),
        ("Ne(s0*FloorDiv(s1 + 1, 2), 6)", "x.shape[0] * ((s1 + 1) // 2) != 6", {"s0": 3, "s1": 4}, False),
        ("Eq(PythonMod(s1 - s0, 3), Max(0, s1))", "(s1 - x.shape[0]) % 3 == Max(0, s1)", {"s0": 3, "s1": 2}, True),
        ("(s0 > 2) | (s1 > 2)", "(x.shape[0] > 2) | (s1 > 2)", {"s0": 3, "s1": 2}, True),
    ],
)  # fmt: skip
def test_conditions(text, written, sizes, value):
    assert readable(text, {"s0": "x.shape[0]"}) == written
    assert bool(evaluate(text, sizes)) is value


@pytest.mark.parametrize("text", ["__import__('os')", "s0.real", "s0 if s1 else 2", "s0 +"])
def test_other_code_is_refused(text):
    with pytest.raises(ArtifactError):
        evaluate(text, {"s0": 1, "s1": 1})
