"""Shared by the tests of code generation."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.codegen.compile import compile
from fxpasses.codegen.runtime import Compiled
from fxpasses.program import Program


def program_of(model: Any, *args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Program:
    if not isinstance(model, torch.nn.Module):
        model = Function(model)
    exported = torch.export.export(model.eval(), args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    return Program.from_exported_program(exported)


def compiled_of(model: Any, *args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Compiled:
    return compile(program_of(model, *args, dynamic_shapes=dynamic_shapes, **kwargs))


class Function(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function
