"""Results that are wrong on purpose, one of each kind: none may pass. And what PyTorch leaves open does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.sweep import alternatives
from tests.sweep.edges import Variant
from tests.sweep.judge import judge
from tests.sweep.systems import Answer

aten = torch.ops.aten
inf, nan = torch.inf, torch.nan

X = torch.linspace(-2, 2, 12).reshape(3, 4)
LARGE = torch.tensor([2**62, 2**62 + 1, -(2**62)])
TIES = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0])
HALF, BRAIN = torch.float16, torch.bfloat16
COMPLEX = torch.tensor([1 + 1e-4j])


def kind(op: Any, args: Any, *got: torch.Tensor, edge: str = "", **kwargs: Any) -> str:
    (outcome,) = judge([Variant((op, args, kwargs), edge)], lambda calls: [Answer(list(got))])
    assert outcome is not None
    return outcome.kind


def numbers(*values: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


WRONG = {
    "a low bit of a large integer": (aten.add.Tensor, (LARGE, LARGE * 0), LARGE + numbers(1, 0, 0)),
    "the value of no dtype's largest number": (aten.nan_to_num.default, (numbers(1.0, inf),), numbers(1.0, 7.0)),
    "the number itself for the next": (aten.nextafter.default, (X, X + 1), X),
    "a mantissa of another exponent": (aten.frexp.Tensor, (numbers(8.0),), numbers(0.5), numbers(5).int()),
    "the sign of a zero": (aten.neg.default, (numbers(0.0, 1.0),), numbers(0.0, -1.0)),
    "a remainder without its fraction": (aten.fmod.Tensor, (numbers(1e8), numbers(3.0)), numbers(0.5)),
    "an element of another place": (aten.flip.default, (X, [0]), X),
    "a position that is not the largest": (aten.argmax.default, (TIES, 0), torch.tensor(0)),
    "a position of a smaller one": (aten.topk.default, (TIES, 2, 0), numbers(3.0, 3.0), numbers(0, 3)),
    "a position twice": (aten.topk.default, (TIES, 2, 0), numbers(3.0, 3.0), numbers(1, 1)),
    "a position that there is none of": (aten.topk.default, (TIES, 2, 0), numbers(3.0, 3.0), numbers(1, 9)),
    "an order of other values": (aten.argsort.default, (TIES, 0, False), numbers(0, 3, 1, 1, 1)),
    "a median's wrong place": (aten.median.dim, (TIES, 0), torch.tensor(3.0), torch.tensor(0)),
    "a mode's wrong place": (aten.mode.default, (TIES, 0), torch.tensor(3.0), torch.tensor(0)),
    "a rank's wrong place": (aten.kthvalue.default, (TIES, 3, 0), torch.tensor(3.0), torch.tensor(0)),
    "zero for a small number": (
        aten._softmax.default, (torch.zeros(1, 19000, dtype=HALF), 1, False), torch.zeros(1, 19000, dtype=HALF)
    ),
    "zero for a denormal number": (aten.mul.Tensor, (numbers(1e-38), numbers(0.5)), numbers(0.0)),
    "a tenth of bfloat16": (aten.exp.default, (X.to(BRAIN),), (X.exp() * 1.1).to(BRAIN)),
    "a hundredth of float16": (aten.exp.default, (X.to(HALF),), (X.exp() * 1.01).to(HALF)),
    "two millionths of float32": (aten.exp.default, (X,), X.exp() * (1 + 2e-6)),
    "ten units of float64": (aten.exp.default, (X.double(),), X.double().exp() * (1 + 1e-13)),
    "a number where others overflow": (
        aten.mul.Tensor, (numbers(256.0, dtype=HALF), numbers(256.0, dtype=HALF)), numbers(1.0, dtype=HALF)
    ),
    "a number where the sum is infinite": (
        aten.sum.default, (torch.full((3,), 60000.0, dtype=HALF),), torch.tensor(5.0, dtype=HALF)
    ),
    "a number for an infinity": (aten.exp.default, (numbers(89.0),), numbers(3e38)),
    "an infinity for a number": (aten.exp.default, (numbers(88.0),), numbers(inf)),
    "a number for NaN": (aten.log.default, (numbers(-1.0),), numbers(0.0)),
    "the sine of another number": (aten.sin.default, (numbers(1e8),), numbers(1e8 * (1 + 6e-8)).sin()),
    "an angle that came round inexactly": (aten.sin.default, (numbers(12345.678),), numbers(12345.678).sin() * 1.00001),
    "a remainder of a rounded quotient": (
        aten.remainder.Tensor, (numbers(1e8), numbers(0.3)), (numbers(1e8) % 0.3 + 0.05)
    ),
    "a part as inexact as the other": (
        aten.sum.default, (numbers(1e8 + 1j, 1 + 1j, -1e8 + 1j),), torch.tensor(1 + 3.5j)
    ),
    "more than the digits that 1 + erf loses": (aten.gelu.default, (X,), F.gelu(X) + 2e-6 * X),
    "four units of bfloat16": (aten.exp.default, (X.to(BRAIN),), (X.exp() * 1.028).to(BRAIN)),
    "a floor that is far off": (aten.floor_divide.default, (numbers(0.3), numbers(0.1)), numbers(100.0)),
    "a dropped imaginary part": (aten.exp.default, (COMPLEX,), COMPLEX.exp().real.to(torch.complex64)),
    "a conjugate": (aten.exp.default, (COMPLEX * 1e3,), (COMPLEX * 1e3).exp().conj().resolve_conj()),
    "a bin too far": (aten.bucketize.Tensor, (numbers(1.0), numbers(0.0, 1.0, 2.0)), numbers(0)),
    "another comparison": (aten.eq.Tensor, (numbers(1.0), numbers(1.0000001)), numbers(True)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_does_not_pass(name):
    op, args, *got = WRONG[name]
    assert kind(op, args, *got) == "wrong"
    assert kind(op, args, *got, edge="any") == "wrong"


def test_a_stable_sort_has_one_order():
    positions = numbers(0, 3, 4, 2, 1)
    assert kind(aten.sort.stable, (TIES,), TIES.sort().values, positions, stable=True) == "wrong"


RIGHT = {
    "another of equal values": (aten.topk.default, (TIES, 2, 0), numbers(3.0, 3.0), numbers(4, 2)),
    "another order of equal values": (aten.argsort.default, (TIES, 0, False), numbers(0, 3, 4, 1, 2)),
    "two units in the last place": (aten.exp.default, (X,), X.exp() * (1 + 2e-7)),
    "one unit of bfloat16": (aten.exp.default, (X.to(BRAIN),), (X.exp() * 1.006).to(BRAIN)),
    "a sum in another order": (
        aten.sum.default, (numbers(1e8, 1.0, -1e8, 1.0),), torch.tensor(2.0)
    ),
    "more digits than the half type's own": (
        aten.log_softmax.int, (numbers(0.0, -9.0, dtype=BRAIN), 0), numbers(-1.234e-4, -9.0, dtype=BRAIN)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name):
    op, args, *got = RIGHT[name]
    assert kind(op, args, *got) in ("exact", "close")


def test_at_edges_another_road_of_pytorch_is_right():
    """The kernel leaves NaN out, the decomposition keeps it."""
    x, target = torch.zeros(2, 3), torch.tensor([0, 1])
    x[0, 2] = nan
    call = aten.multi_margin_loss.default, (x, target)
    assert not aten.multi_margin_loss.default(x, target).isnan()
    assert kind(*call, torch.tensor(nan), edge="NaN") == "undefined"
    assert kind(*call, torch.tensor(nan)) == "wrong"
    assert kind(*call, torch.tensor(7.0), edge="NaN") == "wrong"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_single_element_gives_is_right(dtype):
    """In vectors some processors give NaN; others give this throughout."""
    x, y = torch.ones(20, dtype=dtype), torch.full((20,), torch.finfo(dtype).tiny / 64, dtype=dtype)
    single = aten.fmod.Tensor(x[0], y[0])
    call = aten.fmod.Tensor, (x, y)
    assert kind(*call, single.expand(20), edge="extremes") in ("exact", "undefined")
    assert kind(*call, single.expand(20) + 1, edge="extremes") == "wrong"


def test_a_road_of_an_operator_that_was_not_looked_at_is_wrong(monkeypatch):
    x, target = torch.zeros(2, 3), torch.tensor([0, 1])
    x[0, 2] = nan
    monkeypatch.setattr(alternatives, "ROADS", alternatives.ROADS - {aten.multi_margin_loss.default})
    assert kind(aten.multi_margin_loss.default, (x, target), torch.tensor(nan), edge="NaN") == "wrong"


def test_of_two_zeros_either_is_the_larger():
    zeros = torch.zeros(37)
    given = aten.maximum.default(zeros, -zeros)
    assert len(set(given.signbit().tolist())) == 2  # by vectors, and by elements after them
    call = aten.maximum.default, (zeros, -zeros)
    assert kind(*call, zeros, edge="extremes") == kind(*call, -zeros, edge="extremes") == "undefined"
    assert kind(*call, zeros) == kind(*call, zeros + 1, edge="extremes") == "wrong"
    assert kind(aten.fmax.default, call[1], -zeros, edge="extremes") == "wrong"


def test_an_infinity_times_zero_is_nan_or_left_out():
    x = torch.zeros(1, 1, 3)
    x[0, 0, 1] = inf
    call = aten.conv_transpose1d.default, (x, torch.ones(1, 1, 1), None, [2])
    want = aten.conv_transpose1d.default(*call[1])
    assert kind(*call, torch.where(want.isinf(), nan, want), edge="infinities") == "undefined"
    assert kind(*call, torch.where(want.isinf(), 0.0, want), edge="infinities") == "wrong"
    assert (
        kind(aten.logsumexp.default, (numbers(inf, 1.0), [0]), torch.tensor(nan), edge="infinities")
        == "wrong"
    )
