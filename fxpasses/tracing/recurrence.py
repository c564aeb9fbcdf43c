"""Shapes of recurrent layers without running through the sequence.

On fake tensors torch runs an LSTM, a GRU or an RNN step by step: the sequence
length becomes a constant, and the time to trace grows with it. The shape of all
steps follows from that of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload

from fxpasses.tracing.python_kernels import python_kernels

__all__ = ["RECURRENT_LAYERS", "one_step_shapes"]

aten = torch.ops.aten

RECURRENT_LAYERS: tuple[OpOverload, ...] = (
    aten.lstm.input,
    aten.gru.input,
    aten.rnn_tanh.input,
    aten.rnn_relu.input,
)
_KEYS = (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd)


@contextmanager
def one_step_shapes() -> Iterator[None]:
    """Recurrent layers on fake tensors run one step, which makes all checks, and widen its result.

    Where a graph is being traced below them (by make_fx) they run in full.
    """
    widened = {op: {key: _widened(op.py_kernels[key]) for key in _KEYS} for op in RECURRENT_LAYERS}
    with python_kernels(widened):
        yield


def _widened(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        from torch._subclasses.fake_tensor import FakeTensor
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        input, batch_first = args[0], args[-1]
        if not isinstance(input, FakeTensor) or get_proxy_mode() is not None:
            return kernel(*args)
        time = 1 if batch_first else 0
        output, *states = kernel(input.narrow(time, 0, 1), *args[1:])
        shape = list(output.shape)
        shape[time] = input.shape[time]
        return (output.new_empty(shape), *states)

    return run
