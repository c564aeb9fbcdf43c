"""Reflected and repeated borders of images of odd sizes: what is no border is copied in vectors."""

from __future__ import annotations

import pytest
import torch

from tests.relax.helpers import call, check_calls

aten = torch.ops.aten


@pytest.mark.parametrize("op", [aten.reflection_pad2d.default, aten.replication_pad2d.default], ids=str)
def test_widths(op) -> None:
    def image(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        x = torch.arange(2 * 3 * 4 * width).reshape(2, 3, 4, width).to(dtype)
        x[0, 0, 0, 0] = float("nan") if dtype.is_floating_point else 7
        return x

    calls = []
    for width in (1, 2, 3, 5, 16, 17, 31, 33, 64, 127):
        most = width - 1 if op is aten.reflection_pad2d.default else width + 2
        pads = {(0, 0), (min(1, most), 0), (most, most), (-min(1, width - 1), min(2, most))}
        calls += [call(op, image(width), [left, right, 1, 2]) for left, right in sorted(pads)]
    calls += [
        call(op, image(19, dtype), [2, 3, 0, 1]) for dtype in (torch.float64, torch.bfloat16, torch.int64)
    ]
    check_calls(calls)
