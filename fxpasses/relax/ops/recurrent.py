"""Recurrent layers: one kernel for each layer and direction, with the loop over time inside.

The projection of the input is one matrix product over all steps; the kernel
does the rest, so that its code does not grow with the length of the sequence.
Half types are computed in float32; outputs and states are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fxpasses.errors import UnsupportedOperatorError
from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import accumulator, const, convert, grid, load, loops, store
from fxpasses.relax.ops.elementary import sigmoid
from fxpasses.relax.table import lowering

aten = torch.ops.aten

# A step that multiplies with so many weights runs in up to so many threads; they wait for each other twice.
_PARALLEL, _THREADS = 1 << 17, 4


@lowering(aten.lstm.input)
def lstm(
    b: Any,
    input: Any,
    hx: Any,
    params: Any,
    has_biases: Any,
    num_layers: Any,
    dropout: Any,
    train: Any,
    bidirectional: Any,
    batch_first: Any,
) -> Any:
    _refuse_dropout(dropout, train, num_layers)
    projected = not b.analyzer.can_prove_equal(b.shape_of(hx[0])[2], b.shape_of(hx[1])[2])
    weights = _Weights.split(params, 2 if bidirectional else 1, has_biases, projected)
    return _stack(b, _LSTM, input, list(hx), weights, bidirectional, batch_first)


@lowering(aten.gru.input)
def gru(
    b: Any,
    input: Any,
    hx: Any,
    params: Any,
    has_biases: Any,
    num_layers: Any,
    dropout: Any,
    train: Any,
    bidirectional: Any,
    batch_first: Any,
) -> Any:
    _refuse_dropout(dropout, train, num_layers)
    weights = _Weights.split(params, 2 if bidirectional else 1, has_biases)
    return _stack(b, _GRU, input, [hx], weights, bidirectional, batch_first)


@lowering(aten.rnn_tanh.input)
def rnn_tanh(
    b: Any,
    input: Any,
    hx: Any,
    params: Any,
    has_biases: Any,
    num_layers: Any,
    dropout: Any,
    train: Any,
    bidirectional: Any,
    batch_first: Any,
) -> Any:
    _refuse_dropout(dropout, train, num_layers)
    weights = _Weights.split(params, 2 if bidirectional else 1, has_biases)
    return _stack(b, _RNN_TANH, input, [hx], weights, bidirectional, batch_first)


@lowering(aten.rnn_relu.input)
def rnn_relu(
    b: Any,
    input: Any,
    hx: Any,
    params: Any,
    has_biases: Any,
    num_layers: Any,
    dropout: Any,
    train: Any,
    bidirectional: Any,
    batch_first: Any,
) -> Any:
    _refuse_dropout(dropout, train, num_layers)
    weights = _Weights.split(params, 2 if bidirectional else 1, has_biases)
    return _stack(b, _RNN_RELU, input, [hx], weights, bidirectional, batch_first)


def _refuse_dropout(dropout: float, train: bool, layers: int) -> None:
    if train and dropout != 0 and layers > 1:
        raise UnsupportedOperatorError(
            f"dropout={dropout} in training makes the result random; call eval() on the model"
        )


@dataclass(frozen=True)
class _Weights:
    """The parameters of one direction of one layer."""

    of_input: Any
    of_state: Any
    input_bias: Any
    state_bias: Any
    projection: Any

    @staticmethod
    def split(
        params: Sequence[Any], directions: int, has_biases: bool, projected: bool = False
    ) -> list[list[_Weights]]:
        """The flat parameter list of torch, by layer and direction."""
        size = 2 + 2 * has_biases + projected
        cells = []
        for start in range(0, len(params), size):
            of_input, of_state, *rest = params[start : start + size]
            input_bias, state_bias = rest[:2] if has_biases else (None, None)
            projection = rest[-1] if projected else None
            cells.append(_Weights(of_input, of_state, input_bias, state_bias, projection))
        return [cells[start : start + directions] for start in range(0, len(cells), directions)]


@dataclass(frozen=True)
class _Cell:
    """What is special about one kind of layer.

    Attributes:
        gates: how many gates each unit has.
        apart: whether the gates need the part of the state apart from that of
            the input.
        step: ``step(gates, own, states, keep)`` gives the new hidden state of one
            unit, from the gates of the input, those of the state, and its old
            states. Its other new state, if it has one, goes through *keep*, which
            stores it and gives it back: a formula that is used twice is computed twice.
    """

    gates: int
    apart: bool
    step: Callable[..., Any]


Keep = Callable[[Any], Any]


def _keeping(buffer: Any, *at: Any) -> Keep:
    def keep(value: Any) -> Any:
        store(buffer, value, at)
        return load(buffer, at)

    return keep


def _tanh(x: Any) -> Any:
    return S.call_libm("tanh", x)  # TVM's own loses what is small


def _lstm_step(gates: Sequence[Any], own: Sequence[Any], states: Sequence[Any], keep: Keep) -> Any:
    enter, forget, new, leave = (g + o for g, o in zip(gates, own, strict=True))
    cell = keep(sigmoid(forget) * states[1] + sigmoid(enter) * _tanh(new))
    return sigmoid(leave) * _tanh(cell)


def _gru_step(gates: Sequence[Any], own: Sequence[Any], states: Sequence[Any], _keep: Keep) -> Any:
    reset, stay = (sigmoid(g + o) for g, o in zip(gates[:2], own[:2], strict=True))
    new = _tanh(gates[2] + reset * own[2])
    return (states[0] - new) * stay + new


def _tanh_step(gates: Sequence[Any], own: Sequence[Any], _states: Sequence[Any], _keep: Keep) -> Any:
    return _tanh(gates[0] + own[0])


def _relu_step(gates: Sequence[Any], own: Sequence[Any], _states: Sequence[Any], _keep: Keep) -> Any:
    total = gates[0] + own[0]
    zero = const(0, str(total.ty.dtype))
    return T.tirx.Select(total < zero, zero, total)  # a NaN stays one


_LSTM = _Cell(4, False, _lstm_step)
_GRU = _Cell(3, True, _gru_step)
_RNN_TANH = _Cell(1, False, _tanh_step)
_RNN_RELU = _Cell(1, False, _relu_step)


def _stack(
    b: Any,
    cell: _Cell,
    input: Any,
    states: list[Any],
    weights: list[list[_Weights]],
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """All layers; the output of each is the input of the next."""
    op = T.relax.op
    dtype = b.dtype_of(input)
    work = accumulator(dtype)
    sequence = b.emit(op.permute_dims(input, [1, 0, 2])) if batch_first else input
    final: list[list[Any]] = [[] for _ in states]
    for layer, directions in enumerate(weights):
        outputs = []
        for direction, own in enumerate(directions):
            row = layer * len(directions) + direction
            start = [_row(b, state, row) for state in states]
            output, *end = _run(b, cell, sequence, start, own, backwards=direction == 1, work=work)
            outputs.append(b.cast(output, dtype))
            for found, state in zip(final, end, strict=True):
                found.append(b.cast(state, dtype))
        sequence = b.emit(op.concat(outputs, 2)) if bidirectional else outputs[0]
    if batch_first:
        sequence = b.emit(op.permute_dims(sequence, [1, 0, 2]))
    return (sequence, *(_stacked(b, rows, val) for rows, val in zip(final, b.val[1:], strict=True)))


def _row(b: Any, states: Any, row: int) -> Any:
    """The state of one layer and direction, ``[batch, size]``."""

    def kernel(x: Any) -> Any:
        return T.te.compute(x.shape[1:], lambda i, j: x(row, i, j), name="row")

    return b.te(kernel, states, name="initial_state")


def _stacked(b: Any, rows: list[Any], val: Any) -> Any:
    shape = b.shape(val)
    rows = [b.emit(T.relax.op.reshape(row, [b.size(1), *shape[1:]])) for row in rows]
    return rows[0] if len(rows) == 1 else b.emit(T.relax.op.concat(rows, 0))


def _behind_transpose(b: Any, weight: Any) -> Any:
    """The matrix that *weight* is the transpose of, None if it is none."""
    bound = b.block.lookup_binding(weight)
    if isinstance(bound, T.relax.Call) and getattr(bound.op, "name", "") == "relax.permute_dims":
        return bound.args[0]
    return None


def _behind_packing(b: Any, weight: Any) -> Any:
    """The [panels, hidden, width] that `turn_recurrent_weights` made *weight* a view of, None if it is none."""
    view = b.block.lookup_binding(weight)
    if not isinstance(view, T.relax.Call) or getattr(view.op, "name", "") != "relax.reshape":
        return None
    packed = _behind_transpose(b, view.args[0])
    return packed if packed is not None and len(b.shape_of(packed)) == 3 else None


def _multiply(states: Any, n: Any, matrix: Any, bias: Any, result: Any, step: Any) -> None:
    """Write row *n* of *states* times *matrix*, and the *bias*, to *result*.

    Each thread keeps its panels, and takes them backwards every other *step*: it
    begins with those that its cache still holds.
    """
    builder, dtype = T.ir_builder.tirx, str(result.dtype)

    def start(j: Any) -> Any:
        return const(0, dtype) if bias is None else load(bias, [j])

    if len(matrix.shape) == 2:
        hidden, width = matrix.shape
        with grid(width) as (j,):
            store(result, start(j), [j])
        with grid(hidden, width) as (k, j):
            store(result, load(result, [j]) + load(states, [n, k]) * load(matrix, [k, j]), [j])
        return
    panels, hidden, width = map(int, matrix.shape)
    threads = math.gcd(panels, _THREADS) if panels * hidden * width >= _PARALLEL else 1
    each = panels // threads
    with (
        (builder.parallel if threads > 1 else builder.serial)(threads) as part,
        builder.serial(each) as place,
    ):
        turned = T.tirx.Select(T.tirx.floormod(step, 2).equal(0), place, each - 1 - place)
        panel = part * each + turned
        sums = builder.alloc_buffer((width,), dtype, scope="local")
        with builder.vectorized(width) as j:
            store(sums, start(panel * width + j), [j])
        with builder.serial(hidden) as k, builder.vectorized(width) as j:
            store(sums, load(sums, [j]) + load(states, [n, k]) * load(matrix, [panel, k, j]), [j])
        with builder.vectorized(width) as j:
            store(result, load(sums, [j]), [panel * width + j])


def _run(
    b: Any, cell: _Cell, sequence: Any, states: list[Any], own: _Weights, *, backwards: bool, work: str
) -> list[Any]:
    """One direction of one layer: the output of each step, and the last states."""
    op = T.relax.op

    def turned(weight: Any) -> Any:
        source = _behind_transpose(b, weight)
        if source is not None:
            return b.cast(source, work)
        return b.emit(op.permute_dims(b.cast(weight, work), [1, 0]))

    gates = b.emit(op.matmul(b.cast(sequence, work), turned(own.of_input)))
    biases = [own.input_bias] if cell.apart else [own.input_bias, own.state_bias]
    for bias in biases:
        if bias is not None:
            gates = b.emit(op.add(gates, b.cast(bias, work)))
    extra = [] if own.state_bias is None or not cell.apart else [b.cast(own.state_bias, work)]
    projection = [] if own.projection is None else [turned(own.projection)]

    def kernel(gates: Any, of_state: Any, states: Any, extra: Any, projection: Any) -> Any:
        steps, batch, width = gates.shape
        hidden = of_state.shape[-2]
        units = T.tirx.floordiv(width, cell.gates)

        def body(*buffers: Any) -> None:
            rest = list(buffers)
            gates, of_state = rest.pop(0), rest.pop(0)
            start = [rest.pop(0) for _ in states]
            bias = rest.pop(0) if extra else None
            project = rest.pop(0) if projection else None
            output, *current = rest[: 1 + len(states)]
            inner, raw = rest[1 + len(states) :]
            for source, target in zip(start, current, strict=True):
                with grid(*source.shape) as at:
                    store(target, convert(load(source, at), work), at)
            with grid(steps, batch) as (step, n):
                time = steps - 1 - step if backwards else step
                _multiply(current[0], n, of_state, bias, inner, step)
                with grid(units) as (j,):
                    from_input = [load(gates, [time, n, j + units * g]) for g in range(cell.gates)]
                    from_state = [load(inner, [j + units * g]) for g in range(cell.gates)]
                    # With a projection no unit has a hidden state of its own.
                    old = (
                        [load(state, [n, j]) for state in current]
                        if project is None
                        else [
                            const(0, work),
                            load(current[1], [n, j]),
                        ]
                    )
                    store(raw, cell.step(from_input, from_state, old, _keeping(current[-1], n, j)), [j])
                if project is None:
                    with grid(hidden) as (j,):
                        store(current[0], load(raw, [j]), [n, j])
                else:
                    with grid(hidden) as (j,):
                        store(current[0], const(0, work), [n, j])
                    with grid(units, hidden) as (k, j):
                        product = load(raw, [k]) * load(project, [k, j])
                        store(current[0], load(current[0], [n, j]) + product, [n, j])
                with grid(hidden) as (j,):
                    store(output, load(current[0], [n, j]), [time, n, j])

        results = [
            ((steps, batch, hidden), work),
            *((state.shape, work) for state in states),
            ((width,), work),
            ((units,), work),
        ]
        found = loops([gates, of_state, *states, *extra, *projection], results, body, "recurrence")
        return list(found)[: 1 + len(states)]

    packed = _behind_packing(b, own.of_state)
    of_state = turned(own.of_state) if packed is None else b.cast(packed, work)
    found = b.te(kernel, gates, of_state, states, extra, projection, name="recurrence")
    return [b.emit(found[index]) for index in range(1 + len(states))]
