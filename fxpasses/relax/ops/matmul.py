"""Matrix products."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax import tvm_api as T
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.mm.default)
def mm(b: Any, self: Any, mat2: Any) -> Any:
    return T.relax.op.matmul(self, mat2)
