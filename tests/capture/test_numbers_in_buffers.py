"""Code may read the number in a buffer that it never changes: a flag, or a size that is kept as a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.errors import CaptureError, RunError
from fxpasses.testing import assert_equivalent

X = torch.randn(2, 3)


class Flagged(nn.Module):
    """A codebook that is initialised by its first batch, and pads by a number that it keeps as a tensor."""

    def __init__(self, ready: bool) -> None:
        super().__init__()
        self.register_buffer("ready", torch.tensor([ready]))
        self.register_buffer("width", torch.tensor(3))
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            x = x * 2
        padding = torch.ceil(self.width / 2).to(torch.int64)
        self.calls += 1
        return nn.functional.pad(x, (0, padding)) * self.scale.item() + self.calls  # type: ignore[arg-type]


@pytest.mark.parametrize("ready", [True, False])
def test_what_is_read_is_as_at_the_capture(ready: bool) -> None:
    model = Flagged(ready)
    program = fxp.capture(model, (X,))
    compiled = fxp.compile(program)
    for _ in range(2):
        expected = model(X)
        assert torch.equal(program(X), expected)
        torch.testing.assert_close(compiled(X), expected)


def test_sizes_vary_beside_it() -> None:
    model = Flagged(True)
    compiled = fxp.compile(model, (X,), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.randn(7, 3)
    torch.testing.assert_close(compiled(x), model(x))


def test_another_value_is_refused_later() -> None:
    model = Flagged(True)
    program = fxp.capture(model, (X,))
    model.ready.fill_(False)
    message = "a buffer has another value than the one that the capture read"
    with pytest.raises(RuntimeError, match=message):
        program(X)
    with pytest.raises(RunError, match=message):
        fxp.compile(program)(X)


def test_the_cache_knows_the_value(cache_folder: Path) -> None:
    model = Flagged(True)
    torch.testing.assert_close(fxp.compile(model, (X,))(X), model(X))
    model.ready.fill_(False)
    torch.testing.assert_close(fxp.compile(model, (X,))(X), model(X))


READINGS = {
    "truth": lambda flag: bool(flag),
    "not zero": torch.is_nonzero,
    "number": lambda flag: flag.item() == 1,
    "list": lambda flag: flag.tolist() == [1],
    "nan": lambda flag: float(flag * torch.nan) != 0,
}


@pytest.mark.parametrize("reading", READINGS)
def test_ways_to_read(reading: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("flag", torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if READINGS[reading](self.flag) else x + 1

    model = Model()
    program = fxp.capture(model, (X,))
    assert torch.equal(program(X), X * 2)
    model.flag.zero_()
    if reading != "nan":  # which 0 * nan is, too
        with pytest.raises(RuntimeError, match="another value"):
            program(X)


def test_nothing_is_left_of_it_in_the_compiled_program() -> None:
    program = fxp.canonicalize(fxp.capture(Flagged(True), (X,)))
    assert_equivalent(program, fxp.capture(Flagged(True), (X,)))
    assert "_assert" not in str(program)


class Initialised(nn.Module):
    """Changes the flag that it reads: its second call is another one than its first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ready", torch.tensor([False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            self.ready.fill_(True)
            x = x * 2
        return x


def test_a_flag_that_changes_is_refused() -> None:
    with pytest.raises(CaptureError, match="a branch depends on the values of a tensor"):
        fxp.capture(Initialised(), (X,))
    model = Initialised()
    model(X)
    assert torch.equal(fxp.capture(model, (X,))(X), X)
