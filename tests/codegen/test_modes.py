"""Compiled programs under the modes of PyTorch: right, or refused with a reason."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fxpasses as fxp
from fxpasses.errors import InputError

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 4


def mixed(x):
    """Native calls, an island, and one that makes a tensor of nothing."""
    return torch.linalg.matrix_exp(x @ x.mT) + torch.rand(4) * 0


@pytest.fixture(scope="module")
def compiled():
    return fxp.compile(mixed, (X,), allow_random=True)


MODES = {
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "another dtype": lambda: _DefaultDtype(torch.float64),
}


class _DefaultDtype:
    def __init__(self, dtype):
        self.dtype, self.before = dtype, torch.get_default_dtype()

    def __enter__(self):
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error):
        torch.set_default_dtype(self.before)


@pytest.mark.parametrize("name", MODES)
def test_the_modes_of_the_caller_change_nothing(name, compiled):
    want = mixed(X)
    with MODES[name]():
        got = compiled(X)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)


TRANSFORMS = {
    "vmap": lambda f: torch.vmap(f)(torch.randn(3, 4, 4)),
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum())(X),
    "jvp": lambda f: torch.func.jvp(f, (X,), (X,)),
    "functionalize": lambda f: torch.func.functionalize(f)(X),
    "fake tensors": lambda f: f(FakeTensorMode().from_tensor(X)),
    "nested tensors": lambda f: f(torch.nested.nested_tensor([X, X])),
    "make_fx": lambda f: make_fx(f)(X),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_cannot_run_is_refused(name, compiled):
    with pytest.raises(InputError, match="transform the model|cannot be traced"):
        TRANSFORMS[name](compiled)
