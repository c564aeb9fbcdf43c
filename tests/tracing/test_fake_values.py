"""The sizes of what is reshaped are those that the code asks for, whatever torch makes of the example's."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import InputError

A = Dim.AUTO

# function, shape of the example, shapes that fit, shapes that eager PyTorch refuses
CALLS = {
    "all told": (lambda x: torch.view_copy(x, [2, 6]), (3, 4), [(4, 3), (12, 1), (1, 12)], [(3, 5), (2, 4)]),
    "rest": (lambda x: x.reshape(2, -1), (4, 6), [(2, 3), (3, 2), (1, 8), (0, 6)], [(3, 3), (1, 5)]),
    "rest in the middle": (
        lambda x: x.reshape(x.shape[1], -1, 2),
        (4, 6),
        [(2, 3), (8, 5), (6, 1)],
        [(3, 4), (5, 7)],
    ),
    "sizes that change places": (lambda x: x.reshape(x.shape[1], x.shape[0]), (4, 6), [(3, 2), (0, 3), (1, 1)], []),
    "half": (
        lambda x: x.reshape(x.shape[0] // 2, 2 * x.shape[1]),
        (4, 6),
        [(2, 3), (8, 1), (6, 5)],
        [(3, 4), (1, 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.int64])
@pytest.mark.parametrize("name", CALLS)
def test_the_sizes_of_what_is_reshaped(name, dtype):
    function, shape, fitting, refused = CALLS[name]

    def given(shape):
        x = 10 * torch.randn(shape, dtype=torch.complex64)
        return x if dtype.is_complex else x.real.to(dtype)

    compiled = fxp.compile(function, (given(shape),), dynamic_shapes=({0: A, 1: A},), strict=True)
    for sizes in [shape, *fitting]:
        x = given(sizes)
        try:
            found = compiled(x)
        except InputError:
            assert min(sizes) < 2, sizes
            continue
        assert torch.equal(found, function(x)), sizes
    for sizes in refused:
        with pytest.raises(RuntimeError):
            function(given(sizes))
        with pytest.raises(InputError):
            compiled(given(sizes))


def test_sizes_that_are_told_by_name():
    def reshaped(x):
        return torch.ops.aten.view.default(self=x, size=[4])

    program = fxp.capture(reshaped, (torch.ones(2, 2),), via="symbolic_trace")
    (call,) = [node for node in fxp.passes.propagate_shapes(program).nodes() if node.op == "call_function"]
    assert call.meta["val"].shape == (4,)
