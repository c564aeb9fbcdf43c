"""The two dispatch modes: float64 and rounding noise."""

from __future__ import annotations

import pytest
import torch

from fxpasses.testing.numerics import NoOracle, RoundingNoise, is_exact, widened

aten = torch.ops.aten


def test_the_oracle_computes_in_double_precision():
    x = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    with widened():
        assert (x.sum() - 1).item() == pytest.approx(1e-9)
        assert (x.to(torch.float16).float().sum() - 1).item() == pytest.approx(1e-9)
        assert torch.zeros(2, dtype=torch.float32).dtype == torch.float64
        assert (torch.arange(3) / 7).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_narrow_tensors_of_the_code_are_widened():
    table = torch.tensor([1.0, 2.0])
    with widened():
        assert (table * 3).dtype == torch.float64


def test_integers_stay_integers():
    with widened():
        assert (torch.arange(3) + 1).dtype == torch.int64


def test_random_numbers_are_the_same_ones():
    torch.manual_seed(3)
    plain = torch.rand(4)
    torch.manual_seed(3)
    with widened():
        wide = torch.rand(4)
    assert wide.dtype == torch.float64
    assert torch.equal(wide.float(), plain)


def test_what_cannot_be_followed_says_so():
    state = torch.zeros(2)
    with pytest.raises(NoOracle, match="writes into"), widened():
        state.add_(1)
    with pytest.raises(NoOracle, match="bits"), widened():
        torch.zeros(2, dtype=torch.float64).view(torch.int64)


def test_noise_moves_what_rounds_and_nothing_else():
    x = torch.linspace(1, 2, 50)
    with RoundingNoise(0):
        assert torch.equal(x[2:].flip(0).relu(), x[2:].flip(0).relu())
        assert torch.equal(x.max(), torch.tensor(2.0))
        assert torch.equal(x > 1.5, x > 1.5)
        noisy = x.sin()
    error = (noisy.double() - x.double().sin()).abs()
    assert bool((error > 0).all())
    assert bool((error < 1e-6).all())


def test_the_same_seed_gives_the_same_noise():
    x = torch.linspace(1, 2, 50)
    runs = []
    for seed in (0, 0, 1):
        with RoundingNoise(seed):
            runs.append(x.exp())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_noise_shows_cancellation():
    x = torch.tensor([1e4, 1.0, -1e4])
    runs = []
    for seed in range(4):
        with RoundingNoise(seed):
            runs.append(float(x.sum()))
    assert max(abs(run - 1.0) for run in runs) > 1e-4


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_noise_shows_the_cancellation_in_gelu(approximate):
    """-3.8 times 1 - 0.99989: as exact as the second number, in either dtype."""
    for dtype in (torch.float32, torch.float64):
        x, eps = torch.full((64,), -3.8, dtype=dtype), torch.finfo(dtype).eps
        with RoundingNoise(1):
            moved = torch.nn.functional.gelu(x, approximate=approximate)
        spread = float(moved.max() - moved.min())
        assert 2 * eps < spread < 16 * eps  # noise of the result alone is 1e-3 of it
    ends = torch.tensor([torch.inf, -torch.inf, torch.nan])
    with RoundingNoise(1):
        moved = torch.nn.functional.gelu(ends, approximate=approximate)
    torch.testing.assert_close(moved, torch.nn.functional.gelu(ends, approximate=approximate), equal_nan=True)


def test_noise_keeps_to_the_numbers_that_an_operator_takes():
    chances, targets = torch.full((40,), 0.3), torch.ones(40)
    with RoundingNoise(1):
        moved = torch.nn.functional.binary_cross_entropy(chances, targets, reduction="none")
    assert 0 < (moved - 1.2039728).abs().max() < 1e-6
    with RoundingNoise(1), pytest.raises(RuntimeError, match="between 0 and 1"):
        torch.nn.functional.binary_cross_entropy(chances, targets + 1)


def test_noise_flips_what_is_at_an_edge():
    x = torch.full((32,), 3.0)
    with RoundingNoise(0):
        flipped = ((x / 7) * 7).floor()
    assert set(flipped.tolist()) == {2.0, 3.0}


def test_noise_leaves_the_order_of_equal_values_open_but_not_the_values():
    x = torch.zeros(64)
    with RoundingNoise(0):
        values, indices = x.topk(3)
        stable = torch.sort(x, stable=True)[1]
        median = x.median()
    assert torch.equal(values, torch.zeros(3))
    assert not torch.equal(indices, torch.arange(3))
    assert torch.equal(stable, torch.arange(64))
    assert median == 0


def test_noise_reaches_buffers_that_are_written():
    buffer = torch.ones(4)
    with RoundingNoise(0):
        buffer.mul_(3.0)
    assert bool((buffer != 3.0).all())


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "exact"),
    [
        (aten.permute.default, (), {}, True),
        (aten.relu.default, (), {}, True),
        (aten.add.Tensor, (), {}, False),
        (aten.round.default, (), {}, True),
        (aten.round.decimals, (), {}, False),
        (aten.index_put.default, (None, None, None), {}, True),
        (aten.index_put.default, (None, None, None, True), {}, False),
        (aten.scatter.reduce, (), {"reduce": "add"}, False),
        (aten.copy_.default, (), {}, True),
        (aten.mul_.Tensor, (), {}, False),
    ],
)
def test_which_operators_are_exact(op, args, kwargs, exact):
    assert is_exact(op, args, kwargs) is exact


def test_control_flow_is_followed():
    def function(x):
        return torch.ops.higher_order.cond(x.sum() > 0, lambda x: (x.sin(),), lambda x: (x.cos(),), (x,))

    x = torch.tensor([0.5, 0.7], dtype=torch.float64)
    with widened():
        assert torch.equal(function(x)[0], x.sin())
    with RoundingNoise(0):
        assert not torch.equal(function(x.float())[0], x.float().sin())


def test_noise_reaches_numbers_just_above_a_power_of_two():
    ones = torch.ones(100, dtype=torch.float64)
    with RoundingNoise(0):
        moved = ones - 1.5
    assert (moved != -0.5).sum() > 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_noise_of_small_numbers_is_a_number(dtype):
    """What a number of a half type is moved by may be none of it."""
    x = torch.logspace(-7, 0, 500).to(dtype)
    with RoundingNoise(0):
        moved = x * 1.0
    assert moved.isfinite().all()
    assert (moved != x).sum() > 100


def test_noise_orders_nan_and_infinities_in_any_way():
    x = torch.tensor([torch.nan, torch.inf, torch.nan, torch.inf])
    seen = set()
    for seed in range(20):
        with RoundingNoise(seed):
            seen.add(tuple(torch.argsort(x).tolist()))
    assert seen == {(1, 3, 0, 2), (3, 1, 0, 2), (1, 3, 2, 0), (3, 1, 2, 0)}


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_noise_of_samples_is_that_of_places_around_one(mode):
    image, places = torch.randn(1, 1, 9, 9, dtype=torch.float64), torch.full((1, 4, 4, 2), 1e-9).double()
    plain = torch.nn.functional.grid_sample(image, places, mode, align_corners=False)
    with RoundingNoise(0):
        moved = torch.nn.functional.grid_sample(image, places, mode, align_corners=False)
    assert 1e-16 < (moved - plain).abs().max() < 1e-14
