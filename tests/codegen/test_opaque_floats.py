"""Floats that are made of several sizes known only at run time compile."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.export import Dim

import fxpasses as fxp


def test_to_the_size_of_another_image() -> None:
    def resized(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=y.shape[2:])

    sizes = ({2: Dim.AUTO, 3: Dim.AUTO}, {2: Dim.AUTO, 3: Dim.AUTO})
    example = torch.randn(2, 4, 8, 8), torch.randn(2, 1, 15, 16)
    compiled = fxp.compile(resized, example, dynamic_shapes=sizes)
    for before, after in [((8, 8), (15, 16)), ((3, 5), (7, 2)), ((1, 1), (4, 4)), ((9, 4), (3, 11))]:
        x, y = torch.randn(2, 4, *before), torch.randn(2, 1, *after)
        torch.testing.assert_close(compiled(x, y), resized(x, y), rtol=0, atol=0)
