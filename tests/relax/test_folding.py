"""Windows added up to an image against eager."""

import pytest
import torch

from tests.relax.helpers import FLOATS, ULPS, call, check_calls, random

aten = torch.ops.aten

# kernel, dilation, padding, stride
WINDOWS = [
    ([2, 3], [1, 1], [0, 0], [1, 1]),
    ([2, 3], [2, 1], [1, 2], [1, 2]),
    ([3, 2], [1, 2], [1, 1], [3, 2]),
]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_windows(dtype):
    calls = []
    for window in WINDOWS:
        columns = torch.nn.functional.unfold(random((2, 3, 9, 8), dtype), *window)
        calls += [call(aten.col2im.default, x, [9, 8], *window) for x in (columns, columns[0])]
    check_calls(calls, tolerance=ULPS)
