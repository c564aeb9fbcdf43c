"""`turn_recurrent_weights`: the weights of recurrent layers lie the way that their kernel reads them."""

from __future__ import annotations

import torch
from torch import fx

from fxpasses.program import Program

__all__ = ["turn_recurrent_weights"]

aten = torch.ops.aten

# Where each operator has the flat list of its parameters.
_PARAMETERS = {
    aten.lstm.input: 2,
    aten.gru.input: 2,
    aten.rnn_tanh.input: 2,
    aten.rnn_relu.input: 2,
}


def turn_recurrent_weights(program: Program) -> Program:
    """Keep each matrix of a recurrent layer transposed, and hand the layer a transposed view of it.

    The kernel multiplies with the transposed matrix: it takes it from behind
    the view, so that no call copies it. For a program that is about to be
    compiled: its weights are final, and `fold_constants` would undo this.
    """
    layers = [node for node in program.graph.nodes if node.target in _PARAMETERS]
    changed = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
    if not any(_is_weight(value, changed) for node in layers for value in _parameters(node)):
        return program
    g = program.edit()
    turned: dict[fx.Node, fx.Node] = {}
    for node in layers:
        copy = g.node_map[node]
        for value in map(g.node_map.__getitem__, _parameters(node)):
            if _is_weight(value, changed) and value not in turned:
                name = value.meta["role"].target
                matrix = g.constant(program.tensors[name].t().contiguous(), f"{name}_turned", kind="param")
                with g.at(copy):
                    turned[value] = g.call(aten.permute.default, matrix, [1, 0])
        place = _PARAMETERS[node.target]
        args = list(copy.args)
        args[place] = [turned.get(value, value) for value in args[place]]
        copy.args = tuple(args)
    for value in turned:
        if not value.users:
            value.graph.erase_node(value)
    return g.finish()


def _parameters(node: fx.Node) -> list[fx.Node]:
    return list(node.args[_PARAMETERS[node.target]])  # type: ignore[arg-type, index]


def _is_weight(value: fx.Node, changed: set[str | None]) -> bool:
    """Whether *value* is a matrix that no caller gives and no call changes."""
    if value.op != "placeholder" or value.meta["role"].kind == "user":
        return False
    return value.meta["val"].dim() == 2 and value.meta["role"].target not in changed
