"""Profiles: what each kernel is, what it costs, and where it comes from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.benchmark.profile import Kernel, Profile
from fxpasses.benchmark.roofline import Roofline
from fxpasses.benchmark.work import count_work
from fxpasses.relax import tvm_api as T


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        return torch.fft.fft(x).abs() if x.dim() > 3 else torch.softmax(x, -1)


@pytest.fixture(scope="module")
def measured() -> Profile:
    torch.manual_seed(0)
    return fxp.profile(Net().eval(), (torch.randn(96, 64),), rounds=2, threads=1)


def _product(measured: Profile) -> Kernel:
    (product,) = (kernel for kernel in measured.kernels if kernel.nodes and "relu" in kernel.nodes[0])
    return product


def test_equal_kernels_are_one_row_with_the_calls_of_each(measured: Profile) -> None:
    product = _product(measured)
    assert product.calls == 2
    assert product.shapes.startswith("96x64, ")
    assert product.shapes.endswith("64, 64 -> 96x64")
    assert [nodes[-1] for nodes in product.nodes] == ["relu", "relu_1"]
    first, second = product.sources
    assert "self.first(x)" in first
    assert "self.second(x)" in second


def test_the_work_is_counted(measured: Profile) -> None:
    product = _product(measured)
    # Products, sums and the bias; relu is a comparison.
    assert product.flops == 2 * (2 * 96 * 64 * 64 + 96 * 64)
    assert product.bytes == 2 * 4 * (96 * 64 + 64 * 64 + 64 + 96 * 64)
    assert product.attainable == pytest.approx(
        2 * measured.machine.milliseconds(product.flops / 2, product.bytes / 2)
    )


def test_shares_add_up_and_the_slowest_comes_first(measured: Profile) -> None:
    assert sum(kernel.share for kernel in measured.kernels) == pytest.approx(1.0)
    times = [kernel.milliseconds for kernel in measured.kernels]
    assert times == sorted(times, reverse=True)
    assert measured.machine.gflops > 0
    text = str(measured)
    assert "GFLOP/s" in text
    assert "relu and 1 more (test_profile.py:" in text


def test_islands_are_rows_of_their_own() -> None:
    class Custom(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x @ x.T) + 1

    measured = fxp.profile(Custom(), (torch.randn(4, 4),), rounds=1)
    (island,) = (kernel for kernel in measured.kernels if kernel.name == "fxpasses.island")
    assert "eigvalsh" in island.sources[0]
    assert island.shapes == "4x4"


def test_a_dynamic_program_is_counted_at_the_sizes_of_the_call() -> None:
    batch = torch.export.Dim("batch", min=2, max=512)
    args = (torch.randn(32, 64),)
    measured = fxp.profile(Net().eval(), args, dynamic_shapes={"x": {0: batch}}, rounds=1)
    product = _product(measured)
    assert product.shapes.startswith("32x64, ")
    expected = 2 * (2 * 32 * 64 * 64 + 32 * 64)
    assert expected <= product.flops < 1.2 * expected  # the border of a dynamic size may be computed with


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    fxp.profile(nn.ReLU(), (torch.randn(4),), threads=before + 1, rounds=1)
    assert torch.get_num_threads() == before


def test_a_gather_touches_only_the_rows_that_it_reads() -> None:
    table = T.te.placeholder((1000, 8), "float32")
    index = T.te.placeholder((2,), "int64")
    taken = T.te.compute((2, 8), lambda i, j: table(index(i), j))
    work = count_work(T.te.create_prim_func([table, index, taken]), [(1000, 8), (2,), (2, 8)])
    assert work.flops == 0
    assert work.bytes == 2 * 8 * 4 + 2 * 8 + 2 * 8 * 4


def test_a_roofline_is_the_slower_of_computing_and_moving() -> None:
    machine = Roofline(100.0, ((1000, 50.0), (1_000_000, 10.0)))
    assert machine.milliseconds(2e8, 0) == pytest.approx(2.0)
    assert machine.milliseconds(0, 1000) == pytest.approx(1000 / 50e6)
    assert machine.bandwidth(5e6) == 10.0
    assert math.isnan(machine.milliseconds(math.nan, math.nan))
