"""The two ends of a complex number: TVM knows it as the pair of its parts, as PyTorch's memory does."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.view_as_real.default)
def view_as_real(b: Any, self: Any) -> Any:
    return self


@lowering(aten.view_as_complex.default)
def view_as_complex(b: Any, self: Any) -> Any:
    return self
