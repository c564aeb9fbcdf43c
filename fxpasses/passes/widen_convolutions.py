"""`widen_convolutions`: convolutions of half types in float32, from the image to the rounding of the result."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._prims_common import get_computation_dtype

from fxpasses.passes.decompositions.values import cast
from fxpasses.passes.normalize_kwargs import on_full_form
from fxpasses.rewrite import Editor, rewrite

__all__ = ["widen_convolutions"]

aten = torch.ops.aten


@on_full_form
@rewrite(aten.convolution.default)
def widen_convolutions(g: Editor, node: fx.Node) -> Any:
    """A convolution of a half type with a constant weight runs in float32, whose layouts and schedules it gets.

    PyTorch sums in float32 and rounds once as well. The weight takes twice the memory.
    """
    image, weight, bias, *options = node.args
    dtype = node.meta["val"].dtype
    values = [None if value is None else g.tensor(value) for value in (weight, bias)]
    if get_computation_dtype(dtype) == dtype or values[0] is None or (bias is not None and values[1] is None):
        return None

    def widened(source: Any, value: torch.Tensor | None) -> fx.Node | None:
        if value is None:
            return None
        return g.constant(value.detach().float(), f"{source.meta['role'].target}_float32", "param")

    wide = (cast(g, image, torch.float32), *map(widened, (weight, bias), values))  # type: ignore[arg-type]
    return cast(g, g.call(node.target, *wide, *options), dtype)
