"""Under torch.compile results have the strides of eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def _last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


CASES = {
    "transposed": (lambda x: (x.t() + 1, x.sin()), (torch.randn(4, 3),)),
    "channels last": (nn.Conv2d(4, 8, 3).eval().to(memory_format=torch.channels_last), (_last(2, 4, 8, 8),)),
    "one image": (nn.Conv2d(4, 8, 3).eval().to(memory_format=torch.channels_last), (_last(1, 4, 8, 8),)),
    "three dims": (lambda x: x.permute(2, 0, 1).exp(), (torch.randn(2, 3, 4),)),
    "shared memory": (lambda x: [y := x.t() * 2, y[0], y.t()], (torch.randn(4, 3),)),
    "with gaps and overlaps": (lambda x: (x[:, ::2] * 1, x[0].expand(5, 3).clone()), (torch.randn(4, 3),)),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_strides(name, dynamic):
    model, args = CASES[name]
    with torch.no_grad():
        found = torch.compile(model, backend="fxpasses", dynamic=dynamic)(*args)
        expected = model(*args)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found, expected = ([x] if isinstance(x, torch.Tensor) else x for x in (found, expected))
    for a, b in zip(found, expected, strict=True):
        assert [s for s, n in zip(a.stride(), a.shape, strict=True) if n > 1] == [
            s for s, n in zip(b.stride(), b.shape, strict=True) if n > 1
        ]


def test_memory_read_behind_a_graph_break():
    def model(x):
        y = x.t() + 1
        torch._dynamo.graph_break()
        return y.as_strided((4,), (3,)), torch.tensor(y.stride())

    x = torch.randn(4, 3)
    torch.testing.assert_close(torch.compile(model, backend="fxpasses")(x), model(x))


def test_strides_of_a_model_that_trains():
    layer = nn.Linear(3, 5)

    def model(x):
        return layer(x).relu().t().exp()

    x = torch.randn(4, 3, requires_grad=True)
    found, expected = torch.compile(model, backend="fxpasses")(x), model(x)
    assert found.stride() == expected.stride() == (1, 5)
    upstream = torch.randn(5, 4)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, layer.weight), upstream),
        torch.autograd.grad(expected, (x, layer.weight), upstream),
    )


VIEWS_OF_AN_ARGUMENT = {
    "rows": lambda x: (x[1:], x[2:, ::2]),
    "rows from a size": lambda x: x[x.shape[0] // 2 :],
    "parts": lambda x: x.split(2)[1:],
    "turned": lambda x: (x.t()[1:], x.t() + 1),
    "expanded": lambda x: x[2:3].expand(5, 4),
    "as_strided": lambda x: x.as_strided((2, 2), (4, 1), 5),
    "changed": lambda x: (x[1:].add_(1), x[2:]),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", VIEWS_OF_AN_ARGUMENT)
def test_views_of_an_argument(name, dynamic):
    function = VIEWS_OF_AN_ARGUMENT[name]
    x, y = torch.arange(24.0).view(6, 4), torch.arange(24.0).view(6, 4)
    found, expected = torch.compile(function, backend="fxpasses", dynamic=dynamic)(x), function(y)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*([r] if isinstance(r, torch.Tensor) else r for r in (found, expected)), strict=True):
        assert a.stride() == b.stride()
        assert a.storage_offset() == b.storage_offset()
        assert (a.untyped_storage().data_ptr() == x.data_ptr()) == (
            b.untyped_storage().data_ptr() == y.data_ptr()
        )


@pytest.mark.parametrize(
    "function",
    [lambda x, n: (x[: n[0].item()], x[n[0].item() :]), lambda x, n: x.split_with_sizes(n.tolist())],
    ids=["slices", "split"],
)
def test_views_of_an_argument_from_values(function):
    x, compiled = torch.randn(6, 3), torch.compile(function, backend="fxpasses", fullgraph=True)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        for sizes in ([2, 4], [5, 1], [0, 6]):
            torch.testing.assert_close(compiled(x, torch.tensor(sizes)), function(x, torch.tensor(sizes)))
