"""Small programs, their text, and the check that a pass keeps their meaning."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxpasses.pipeline import Pass, Pipeline
from fxpasses.program import Program

aten = torch.ops.aten


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


def program_of(source: Any, *args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Program:
    """The program of a module or function, as `torch.export` gives it."""
    module = source if isinstance(source, nn.Module) else _Function(source)
    shapes = (dynamic_shapes,) if dynamic_shapes is not None and module is not source else dynamic_shapes
    exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    return Program.from_exported_program(exported)


def body(program: Program) -> str:
    """The lines of the graph between its inputs and its return, in canonical text."""
    text = str(program)
    _, _, rest = text.partition("):\n")
    lines, _, result = rest.rpartition("    return ")
    return textwrap.dedent(lines).strip() + f"\nreturn {result}".rstrip()


def apply(pass_: Pass, program: Program, *args: Any, exact: bool = True) -> Program:
    """*pass_* on *program*: well-formed, of equal result, and with no effect when repeated."""
    from fxpasses.verify import verify

    before = program.fingerprint
    after = pass_(program)
    assert program.fingerprint == before, "the pass changed its input"
    report = verify(after, "well-formed")
    assert not report, str(report)
    assert str(pass_(after)) == str(after), "the pass is not idempotent"
    (want, want_mutations), (got, got_mutations) = program.run(*args), after.run(*args)
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {}
    torch.testing.assert_close(got, want, **tolerance)
    torch.testing.assert_close(got_mutations, want_mutations, **tolerance)
    return after


def pipeline(*passes: Pass) -> Pipeline:
    """A pipeline that verifies after each pass."""
    from fxpasses.pipeline import verify_each

    return Pipeline(*passes, hook=verify_each())
