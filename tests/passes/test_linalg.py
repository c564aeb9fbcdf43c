"""Linear algebra raises for the matrices that eager PyTorch refuses."""

from __future__ import annotations

import pytest
import torch

import fxpasses as fxp
from fxpasses.errors import LinAlgError, RunError

linalg = torch.linalg
REGULAR = torch.tensor([[4.0, 1.0, 0.5], [1.0, 5.0, 0.25], [0.5, 0.25, 6.0]])
FUNCTIONS = {
    "cholesky": lambda x: linalg.cholesky(x),
    "upper cholesky": lambda x: linalg.cholesky(x, upper=True),
    "inv": lambda x: linalg.inv(x),
    "inverse": lambda x: torch.inverse(torch.stack([REGULAR, x])),
    "matrix_power": lambda x: linalg.matrix_power(x, -3),
    "solve": lambda x: linalg.solve(x, REGULAR[0]),
    "solve from the right": lambda x: linalg.solve(x, REGULAR, left=False),
    "tensorinv": lambda x: linalg.tensorinv(x[None], ind=2),
    "tensorsolve": lambda x: linalg.tensorsolve(x.reshape(1, 3, 3), REGULAR[:1], dims=(1,)),
}


@pytest.mark.parametrize("via", [None, "make_fx"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_singular_matrix_raises_as_in_eager(name, via):
    function, singular = FUNCTIONS[name], torch.zeros(3, 3)
    compiled = fxp.compile(fxp.capture(function, (REGULAR,), via=via), (REGULAR,))
    torch.testing.assert_close(compiled(REGULAR), function(REGULAR))
    with pytest.raises(linalg.LinAlgError):
        function(singular)
    with pytest.raises(LinAlgError, match=r"in PyTorch: .*test_linalg.py") as caught:
        compiled(singular)
    assert isinstance(caught.value, linalg.LinAlgError)
    torch.testing.assert_close(compiled(REGULAR), function(REGULAR))


@pytest.mark.parametrize("name", ["lu_factor", "ldl_factor"])
def test_factors_of_a_singular_matrix_raise(name):
    def function(x):
        return getattr(linalg, name)(x)

    compiled = fxp.compile(function, (REGULAR,))
    torch.testing.assert_close(compiled(REGULAR), tuple(function(REGULAR)))
    with pytest.raises(RuntimeError):
        function(torch.zeros(3, 3))
    with pytest.raises(RunError, match=r"in PyTorch: .*test_linalg.py"):
        compiled(torch.zeros(3, 3))


def test_the_form_that_does_not_check_stays_without():
    def function(x):
        return linalg.inv_ex(x)

    compiled = fxp.compile(function, (REGULAR,))
    for matrix in (REGULAR, torch.zeros(3, 3)):
        torch.testing.assert_close(compiled(matrix), tuple(function(matrix)), equal_nan=True)


def test_tensorsolve_over_dims():
    def function(a, b):
        return linalg.tensorsolve(a, b, dims=(0, -3))

    torch.manual_seed(0)
    args = torch.randn(3, 2, 1, 6, dtype=torch.float64), torch.randn(1, 6, dtype=torch.float64)
    torch.testing.assert_close(fxp.compile(function, args)(*args), function(*args))
