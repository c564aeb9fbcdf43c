"""Shared by the tests of code generation."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.capture import capture
from fxpasses.codegen.compile import compile
from fxpasses.codegen.runtime import Compiled
from fxpasses.program import Program


def program_of(model: Any, *args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Program:
    return capture(
        model.eval() if isinstance(model, torch.nn.Module) else model, args, kwargs, dynamic_shapes
    )


def compiled_of(model: Any, *args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Compiled:
    return compile(program_of(model, *args, dynamic_shapes=dynamic_shapes, **kwargs))
