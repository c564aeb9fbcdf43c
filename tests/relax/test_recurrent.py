"""Recurrent layers against eager."""

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses import lower
from fxpasses.errors import UnsupportedOperatorError
from fxpasses.testing.single import single_op_program
from tests.relax.helpers import call, check_calls, random

aten = torch.ops.aten

# Eager rounds a half type at every step.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
OPS = {
    "LSTM": aten.lstm.input,
    "GRU": aten.gru.input,
    "tanh": aten.rnn_tanh.input,
    "relu": aten.rnn_relu.input,
}


def layer(
    kind, dtype=torch.float32, *, layers=1, bidirectional=False, bias=True, batch_first=False, **options
):
    projected = options.get("proj_size", 0)
    if kind in ("tanh", "relu"):
        options["nonlinearity"] = kind
    module = getattr(nn, kind if kind in ("LSTM", "GRU") else "RNN")(
        *(5, 7, layers), bias=bias, bidirectional=bidirectional, batch_first=batch_first, **options
    )
    weights = [random(p.shape, dtype) / 3 for p in module.parameters()]
    rows = layers * (2 if bidirectional else 1)
    states = random((rows, 3, projected or 7), dtype)
    if kind == "LSTM":
        states = [states, random((rows, 3, 7), dtype)]
    x = random((3, 6, 5) if batch_first else (6, 3, 5), dtype)
    return call(OPS[kind], x, states, weights, bias, layers, 0.0, False, bidirectional, batch_first)


@pytest.mark.parametrize("kind", OPS)
def test_layers_and_directions(kind):
    check_calls(
        [
            layer(kind),
            layer(kind, batch_first=True),
            layer(kind, layers=2, bidirectional=True),
            layer(kind, layers=3, bias=False),
            layer(kind, torch.float64, bidirectional=True, batch_first=True),
        ],
        tolerance=TOLERANCE,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types(dtype):
    check_calls([layer("LSTM", dtype), layer("GRU", dtype, bidirectional=True)], tolerance=TOLERANCE)


def test_projection():
    check_calls([layer("LSTM", layers=2, bidirectional=True, proj_size=3)], tolerance=TOLERANCE)


def test_code_does_not_grow_with_the_sequence():
    def size(steps):
        op, args, kwargs = layer("LSTM")
        program, _ = single_op_program(op, random((steps, 3, 5)), *args[1:], **kwargs)
        return len(lower(program).script().splitlines())

    assert size(3) == size(300)


def test_dropout_in_training_is_refused():
    op, args, kwargs = layer("LSTM", layers=2)
    program, _ = single_op_program(op, *args[:5], 0.5, True, *args[7:], **kwargs)
    with pytest.raises(UnsupportedOperatorError, match=r"dropout=0\.5.*eval\(\)"):
        lower(program)


def test_dynamic_batch():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True)
            self.gru = nn.GRU(14, 4, batch_first=True)

        def forward(self, x):
            hidden, (state, cell) = self.lstm(x)
            return self.gru(hidden)[0], state, cell

    model = Model().eval()
    dims = {0: torch.export.Dim("batch", min=2)}  # torch.export needs a fixed length
    compiled = fxp.compile(model, (random((3, 6, 5)),), dynamic_shapes=(dims,), strict=True)
    for batch in (2, 7):
        x = random((batch, 6, 5))
        for got, want in zip(compiled(x), model(x), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
