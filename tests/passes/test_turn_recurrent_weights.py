"""Recurrent layers read their weights transposed, and no call transposes them."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import fxpasses as fxp
from fxpasses.codegen.optimize import optimizations
from fxpasses.codegen.target import host_target
from fxpasses.passes import turn_recurrent_weights
from fxpasses.relax import tvm_api as T

X = torch.linspace(-1, 1, 3 * 5 * 4).reshape(3, 5, 4)

LAYERS = {
    "lstm": lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(4, 6, proj_size=3),
    "no bias": lambda: nn.LSTM(4, 6, bias=False),
    "gru": lambda: nn.GRU(4, 6, batch_first=True),
    "rnn": lambda: nn.RNN(4, 6),
    "relu": lambda: nn.RNN(4, 6, nonlinearity="relu"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_meaning_stays_and_the_weights_are_turned(name):
    layer = LAYERS[name]().eval()
    program = fxp.canonicalize(fxp.capture(layer, (X,)))
    turned = turn_recurrent_weights(program)
    fxp.testing.assert_equivalent(program, turned, (X,))
    assert fxp.verify(turned).ok
    matrices = [t for t in turned.tensors.values() if t.dim() == 2]
    assert sorted(t.shape for t in matrices) == sorted(
        t.t().shape for t in program.tensors.values() if t.dim() == 2
    )
    assert turn_recurrent_weights(turned).fingerprint == turned.fingerprint


@pytest.mark.parametrize("name", LAYERS)
def test_the_compiled_program_transposes_no_weight(name):
    layer = LAYERS[name]().eval()
    program = optimizations(host_target())(fxp.canonicalize(fxp.capture(layer, (X,))))
    (call,) = (n for n in program.graph.nodes if n.target in _OPERATORS)
    weights = [value for value in call.args[2] if value.meta["val"].dim() == 2]
    assert all(value.target is torch.ops.aten.permute.default for value in weights)
    lowered = T.relax.transform.DeadCodeElimination(["main"])(fxp.lower(program))
    assert "_turned" in str(lowered["main"])
    assert not re.search(r"permute_dims\(\w*_turned", str(lowered["main"]))
    got, want = fxp.compile(layer, (X,))(X), layer(X)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


_OPERATORS = [getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]


WIDE = {
    "lstm": lambda: nn.LSTM(4, 16, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(4, 16, proj_size=3),
    "no bias": lambda: nn.LSTM(4, 20, bias=False),
    "gru": lambda: nn.GRU(4, 32, batch_first=True),
    "rnn": lambda: nn.RNN(4, 16),
    "in threads": lambda: nn.LSTM(4, 192),
}


@pytest.mark.parametrize("name", WIDE)
def test_whole_vectors_of_columns_lie_in_panels(name):
    layer = WIDE[name]().eval()
    program = fxp.canonicalize(fxp.capture(layer, (X,)))
    turned = turn_recurrent_weights(program)
    fxp.testing.assert_equivalent(program, turned, (X,))
    assert fxp.verify(turned).ok
    matrices = sum("weight_hh" in name for name in program.tensors)
    assert sum(t.dim() == 3 for t in turned.tensors.values()) == matrices
    lowered = T.relax.transform.DeadCodeElimination(["main"])(fxp.lower(turned))
    assert not re.search(r"(permute_dims|reshape)\(\w*_packed", str(lowered["main"]))
    got, want = fxp.compile(layer, (X,))(X), layer(X)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_weight_that_the_caller_gives_stays():
    def run(x, w_ih, w_hh):
        return torch.lstm(
            x, (torch.zeros(1, 5, 6), torch.zeros(1, 5, 6)), [w_ih, w_hh], False, 1, 0.0, False, False, False
        )

    args = (X, torch.randn(24, 4), torch.randn(24, 6))
    program = fxp.canonicalize(fxp.capture(run, args))
    assert turn_recurrent_weights(program) is program


def test_other_programs_are_left_alone():
    program = fxp.canonicalize(fxp.capture(nn.Linear(4, 3), (X,)))
    assert turn_recurrent_weights(program) is program
