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


class Mixed(torch.nn.Module):
    """What autocast narrows, what it widens, and an attribute that a call changes."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = torch.nn.Linear(4, 4), 0

    def forward(self, x):
        self.calls = 1
        y = self.linear(x)
        return y, torch.nn.functional.softmax(y @ y.mT, -1), torch.linalg.matrix_exp(y.float())


@pytest.mark.usefixtures("cache_folder")
@pytest.mark.parametrize("via", ["module", "method"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_a_compilation_is_part_of_the_program(dtype, via):
    model = Mixed().eval()
    source = model if via == "module" else model.forward
    for _ in range(2):  # the second time it comes from the cache
        with torch.autocast("cpu", dtype):
            want = model(X)
            compiled = fxp.compile(source, (X,))
        for got in (compiled(X), *_under_autocast(compiled)):
            torch.testing.assert_close(got, want, atol=2e-2, rtol=2e-2)
    plain = fxp.compile(source, (X,))(X)
    assert {value.dtype for value in plain} == {torch.float32}
    torch.testing.assert_close(plain, model(X))


def _under_autocast(compiled):
    with torch.autocast("cpu", torch.bfloat16):
        return [compiled(X)]


def test_autocast_around_passes_changes_nothing():
    program = fxp.capture(Mixed().eval(), (X,))
    with torch.autocast("cpu", torch.bfloat16):
        canonical = fxp.Pipeline(fxp.passes.canonicalize)(program)
        results = program(X), canonical(X), fxp.compile(canonical)(X)
    for result in results:
        assert {value.dtype for value in result} == {torch.float32}
        torch.testing.assert_close(result, program(X))


TRANSFORMS = {
    "vmap": lambda f: torch.vmap(f)(torch.randn(3, 4, 4)),
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum())(X),
    "jvp": lambda f: torch.func.jvp(f, (X,), (X,)),
    "functionalize": lambda f: torch.func.functionalize(f)(X),
    "fake tensors": lambda f: f(FakeTensorMode().from_tensor(X)),
    "nested tensors": lambda f: f(torch.nested.nested_tensor([X, X])),
    "make_fx": lambda f: make_fx(f)(X),
    "torch.jit.trace": lambda f: torch.jit.trace(lambda x: f(x), (X,)),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_cannot_run_is_refused(name, compiled):
    with pytest.raises(InputError, match="transform the model|cannot be traced"):
        TRANSFORMS[name](compiled)
