"""Recurrent layers: any sequence length from one capture, and no loop through it while tracing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._C import DispatchKey

import fxpasses as fxp
from fxpasses.tracing.recurrence import one_step_shapes

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_OPERATORS = {
    "lstm": torch.ops.aten.lstm.input,
    "gru": torch.ops.aten.gru.input,
    "rnn": torch.ops.aten.rnn_tanh.input,
}
TIME, BATCH = torch.export.Dim("time", min=1, max=500), torch.export.Dim("batch", min=1, max=50)


@pytest.mark.parametrize(
    ("layer", "batch_first"), [("lstm", True), ("lstm", False), ("gru", True), ("rnn", False)]
)
def test_one_compile_for_all_lengths(layer, batch_first):
    model = LAYERS[layer](3, 4, bidirectional=True, batch_first=batch_first).eval()
    dims = {0: BATCH, 1: TIME} if batch_first else {0: TIME, 1: BATCH}
    program = fxp.capture(model, (torch.randn(2, 5, 3),), dynamic_shapes=(dims,))
    assert [n.target for n in fxp.canonicalize(program).graph.nodes].count(_OPERATORS[layer]) == 1
    compiled = fxp.compile(program, strict=True)
    for sizes in [(2, 5), (1, 1), (7, 40), (40, 2)]:
        x = torch.randn(*sizes, 3)
        torch.testing.assert_close(compiled(x), model(x))


def test_tracing_runs_one_step_whatever_the_length(monkeypatch):
    op, lengths = torch.ops.aten.lstm.input, []
    kernels = dict(op.py_kernels)

    def recorded(input, *rest):
        lengths.append(input.shape[0])
        return kernels[DispatchKey.Autograd](input, *rest)

    for key in (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd):
        monkeypatch.setitem(op.py_kernels, key, recorded)
    op._dispatch_cache.clear()
    program = fxp.canonicalize(fxp.capture(nn.LSTM(3, 4).eval(), (torch.randn(300, 2, 3),), via="export"))
    op._dispatch_cache.clear()
    assert lengths
    assert set(lengths) == {1}
    assert program.signature.outputs[0].shape == (300, 2, 4)


def test_the_kernels_of_torch_are_back_afterwards():
    op = torch.ops.aten.lstm.input
    before = dict(op.py_kernels)
    with one_step_shapes():
        assert op.py_kernels != before
    assert op.py_kernels == before


def test_sizes_that_do_not_fit_are_refused_as_ever():
    layer = nn.GRU(3, 4).eval()

    def wrong(x, h):
        return torch.gru(x, h, list(layer._flat_weights), True, 1, 0.0, False, False, False)

    with pytest.raises(fxp.errors.CaptureError):
        fxp.capture(wrong, (torch.randn(5, 2, 3), torch.randn(1, 2, 9)))
