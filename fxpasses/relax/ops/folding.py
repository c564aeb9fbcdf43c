"""Windows added up to an image: the reverse of unfolding it."""

from __future__ import annotations

from typing import Any

import torch

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.ops.reduction import accumulated
from fxpasses.relax.table import lowering

aten = torch.ops.aten


@lowering(aten.col2im.default)
def col2im(
    b: Any, self: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Each pixel is the sum over the places it has in the windows that hold it."""
    tall, wide = kernel_size

    def kernel(x: Any, shape: Any) -> Any:
        tirx, dtype = T.tirx, str(x.dtype)
        work = accumulated(dtype)
        windows = [
            tirx.floordiv(size + 2 * padding[d] - dilation[d] * (kernel_size[d] - 1) - 1, stride[d]) + 1
            for d, size in enumerate(shape[-2:])
        ]
        inner = [T.te.reduce_axis((0, size), name=f"k{d}") for d, size in enumerate((tall, wide))]

        def total(*at: Any) -> Any:
            *batch, channel, row, column = at
            place, inside = [], []
            for d, i in enumerate((row, column)):
                start = i + padding[d] - inner[d] * dilation[d]
                window = tirx.floordiv(start, stride[d])
                inside += [window >= 0, window < windows[d], tirx.floormod(start, stride[d]).equal(0)]
                place.append(window)
            line = (channel * tall + inner[0]) * wide + inner[1]
            found = S.cast(x(*batch, line, place[0] * windows[1] + place[1]), work)
            return T.te.sum(tirx.if_then_else(tirx.all(*inside), found, S.const(0, work)), axis=inner)

        summed = T.te.compute(tuple(shape), total, name="total")
        return T.te.compute(tuple(shape), lambda *at: S.cast(summed(*at), dtype), name="col2im")

    return b.te(kernel, self, b.shape(b.val))
