"""What a refused capture says: the reason, the user's line, and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import fxpasses as fxp
from fxpasses.errors import CaptureError, InputError
from tests.capture import models
from tests.capture.models import Branch

X = torch.ones(3, 3)
OUTSIDE = torch.zeros(1)


def line_of(function: Callable[..., Any], text: str) -> str:
    """``file:line`` of the line of *function* that holds *text*."""
    lines, first = inspect.getsourcelines(function)
    return (
        f"{inspect.getsourcefile(function)}:{first + next(i for i, code in enumerate(lines) if text in code)}"
    )


class ChangesParameterByKind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.mul_({True: 2}[isinstance(x, torch.Tensor)])
        return x @ self.weight


class ChangesParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.weight.view(-1).add_(1)
        return x @ self.weight


class Loop(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while x.sum() < 10:
            x = x * 2
        return x


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.sum()[None]
        return x[: int(x.sum())]


class Mismatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.ones(7, 7)


class Unknown:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class ReturnsUnknown(nn.Module):
    def forward(self, x: torch.Tensor) -> Unknown:
        return Unknown(x)


class ChangesGlobal(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        OUTSIDE.add_(1)
        return x + OUTSIDE


class AsksForTensor(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if isinstance(x, torch.Tensor) else x.double()


def test_branch_on_values() -> None:
    with pytest.raises(CaptureError) as caught:
        fxp.capture(Branch(), (X,))
    message = str(caught.value)
    assert "a branch depends on the values of a tensor" in message
    assert f"{line_of(Branch.forward, 'if y.sum()')} in forward, code: if y.sum() > 0:" in message
    assert "result = torch.cond(y.sum() > 0, if_true, if_false, (y,))" in message
    assert "All doors say so: export, dynamo, make_fx, symbolic_trace." in message


def test_branch_written_as_the_message_says() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        return torch.cond(y.sum() > 0, lambda y: y.clone(), lambda y: -y, (y,))

    program = fxp.capture(function, (X,))
    for x in (X, -X):
        torch.testing.assert_close(program(x), Branch()(x))


def test_loop_on_values() -> None:
    with pytest.raises(CaptureError, match="a loop depends on the values of a tensor") as caught:
        fxp.capture(Loop(), (X,))
    assert line_of(Loop.forward, "while") in str(caught.value)
    assert "while_loop(" in str(caught.value)


def test_value_read_out_of_a_tensor() -> None:
    with pytest.raises(CaptureError) as caught:
        fxp.capture(Reads(), (X,))
    message = str(caught.value)
    assert line_of(Reads.forward, "int(x.sum())") in message
    assert "torch.where" in message
    # Dynamo could follow the read, but would lose the buffer.
    assert "dynamo loses the new value of a buffer" in message


def test_changed_view_of_a_parameter() -> None:
    model = ChangesParameter()
    with pytest.raises(CaptureError) as caught:
        fxp.capture(model, (X,))
    message = str(caught.value)
    assert "changes parameter 'weight' in place" in message
    assert line_of(ChangesParameter.forward, "add_(1)") in message
    assert "self.register_buffer" in message
    assert torch.equal(model.weight, torch.ones(3, 3))


def test_what_has_advice_is_said_first() -> None:
    """Before the error of a door that came further, or that failed for want of a tensor."""
    model = ChangesParameterByKind()
    with pytest.raises(
        CaptureError, match="could not be captured: the code changes parameter 'weight'"
    ) as caught:
        fxp.capture(model, (X,))
    assert "symbolic_trace: KeyError: False" in str(caught.value)


def test_error_of_the_code_itself() -> None:
    with pytest.raises(CaptureError, match="must have same reduction dim") as caught:
        fxp.capture(Mismatch(), (X,))
    assert line_of(Mismatch.forward, "x @") in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


class Silent(RuntimeError):
    def __str__(self) -> str:
        raise RuntimeError


def test_error_whose_text_cannot_be_had() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise Silent

    with pytest.raises(CaptureError, match="make_fx, symbolic_trace: Silent"):
        fxp.capture(fails, (X,))


def test_unknown_output() -> None:
    with pytest.raises(CaptureError, match="Unknown'> in output(.|\n)*register_pytree_node"):
        fxp.capture(ReturnsUnknown(), (X,))


def test_tensor_that_is_no_buffer() -> None:
    with pytest.raises(CaptureError, match="register_buffer") as caught:
        fxp.capture(ChangesGlobal(), (X,))
    assert line_of(ChangesGlobal.forward, "OUTSIDE.add_") in str(caught.value)
    assert float(OUTSIDE) == 0
    with pytest.raises(CaptureError, match="register_buffer"):
        fxp.capture(lambda x: x + OUTSIDE.add_(1), (X,))
    assert float(OUTSIDE) == 0


def test_what_proxies_do_not_show() -> None:
    with pytest.raises(CaptureError, match=r"gives .*float64.* the code gives .*float32"):
        fxp.capture(AsksForTensor(), (X,), via="symbolic_trace")


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        (X, None, r"single tensor; write \(x,\)"),
        ({"x": X}, None, "keyword arguments go into kwargs="),
        (None, None, "missing a required argument: 'x'"),
        ((X, X), None, "too many positional arguments"),
        ((X,), {"y": X}, "unexpected keyword argument 'y'"),
        ((object(),), None, r"args\[0\] of Branch is of type object"),
        ((torch.float64,), None, r"args\[0\] .* of type dtype.*lambda x: model\(x, torch\.float64\)"),
        (3, None, "of type int; write a tuple"),
        ((X,), [X], "kwargs of Branch is of type list"),
    ],
)
def test_arguments_that_do_not_fit(args: Any, kwargs: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fxp.capture(Branch(), args, kwargs)


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        (3, {}, "a int cannot be captured"),
        (models.MLP(), {"via": "onnx"}, "via='onnx' is no door; choose one of 'export'"),
        (torch.jit.script(nn.ReLU()), {"via": "export"}, "one door, 'torchscript'"),
    ],
)
def test_sources_and_doors_that_do_not_exist(source: Any, options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        fxp.capture(source, (X,), **options)


def test_finished_programs() -> None:
    exported = torch.export.export(nn.ReLU(), (X,))
    with pytest.raises(InputError, match="dynamic_shapes= comes too late"):
        fxp.capture(exported, dynamic_shapes=({0: torch.export.Dim.AUTO},))
    with pytest.raises(InputError, match="expected float32"):
        fxp.capture(exported, (torch.ones(2, 2),))
    with pytest.raises(InputError, match="a Program already"):
        fxp.capture(fxp.capture(exported))


def test_what_a_program_cannot_hold() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(TwoTensor(torch.ones(3), torch.zeros(3)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.weight.sum()

    with pytest.raises(CaptureError, match="'weight' is a TwoTensor, and a Program holds plain"):
        fxp.capture(torch.export.export(Twice(), (X,)))


def test_an_exported_program_that_torch_cannot_decompose() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = torch.ones(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.offset.add_(1)

    with pytest.raises(
        CaptureError, match=r"cannot be made a Program: RuntimeError: Constant offset is mutated"
    ):
        fxp.capture(torch.export.export(Constant(), (X,)))


def test_files(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="there is no file"):
        fxp.capture(tmp_path / "nothing.pt2")
    file = tmp_path / "broken.pt2"
    file.write_bytes(b"no archive")
    with pytest.raises(CaptureError, match=r"cannot be read as a \.pt2"):
        fxp.capture(file)


def test_failure_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError):
        fxp.capture(Mismatch(), (X,))
    with pytest.raises(CaptureError):
        fxp.capture(Branch(), (X,))
    assert capfd.readouterr() == ("", "")
