"""`TurnRecurrentWeights`: the weights of recurrent layers lie the way that their kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxpasses.dialect.linear import pack_matrix
from fxpasses.program import Program
from fxpasses.rewrite import Editor

__all__ = ["TurnRecurrentWeights", "parameters_of", "turn_recurrent_weights"]

aten = torch.ops.aten

# Where each operator has the flat list of its parameters.
_PARAMETERS = {
    aten.lstm.input: 2,
    aten.gru.input: 2,
    aten.rnn_tanh.input: 2,
    aten.rnn_relu.input: 2,
}


@dataclass(frozen=True)
class TurnRecurrentWeights:
    """Keep each matrix of a recurrent layer transposed, and hand the layer a transposed view of it.

    The kernel multiplies with the transposed matrix: it takes it from behind
    the view, so that no call copies it. The one that each step multiplies with
    is cut into panels of columns, whose sums stay in registers; the layer is
    handed a view of these. For a program that is about to be compiled: its
    weights are final, and `fold_constants` would undo this.

    Args:
        vector_bytes: the size of a vector register of the target.
        vectors: a panel has at most so many vectors in a row.
    """

    vector_bytes: int = 64
    vectors: int = 4
    __name__ = "turn_recurrent_weights"

    def __call__(self, program: Program) -> Program:
        layers = [node for node in program.graph.nodes if node.target in _PARAMETERS]
        changed = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
        if not any(_is_weight(value, changed) for node in layers for value in parameters_of(node)):
            return program
        g = program.edit()
        turned: dict[fx.Node, fx.Node] = {}
        for node in layers:
            copy = g.node_map[node]
            of_state = _of_state(copy)
            for value in parameters_of(copy):
                if _is_weight(value, changed) and value not in turned:
                    with g.at(copy):
                        turned[value] = self._view(g, value, value in of_state)
            place = _PARAMETERS[node.target]
            args = list(copy.args)
            args[place] = [turned.get(value, value) for value in args[place]]  # type: ignore[union-attr]
            copy.args = tuple(args)
        for value in turned:
            if not value.users:
                value.graph.erase_node(value)
        return g.finish()

    def _view(self, g: Editor, value: fx.Node, in_panels: bool) -> fx.Node:
        name = value.meta["role"].target
        matrix = g.tensors[name].detach().t()
        lanes = max(self.vector_bytes // matrix.dtype.itemsize, 1)
        widths = [
            lanes * count for count in range(self.vectors, 0, -1) if matrix.shape[1] % (lanes * count) == 0
        ]
        if in_panels and widths and matrix.numel():
            panels = g.constant(pack_matrix(matrix, widths[0]), f"{name}_packed", kind="param")
            turned = g.call(aten.permute.default, panels, [0, 2, 1])
            return g.call(aten.reshape.default, turned, list(matrix.t().shape))
        turned = g.constant(matrix.contiguous(), f"{name}_turned", kind="param")
        return g.call(aten.permute.default, turned, [1, 0])


turn_recurrent_weights = TurnRecurrentWeights()
"""`TurnRecurrentWeights` for vectors of 64 bytes."""


def parameters_of(node: fx.Node) -> list[fx.Node]:
    """The parameters of a recurrent layer; none of anything else."""
    place = _PARAMETERS.get(node.target)  # type: ignore[arg-type]
    return [] if place is None else list(node.args[place])  # type: ignore[arg-type]


def _of_state(node: fx.Node) -> list[fx.Node]:
    """The matrices that states are multiplied with: the second of each layer and direction."""
    parameters, place = parameters_of(node), _PARAMETERS[node.target]
    layers, bidirectional = node.args[place + 2], node.args[place + 5]
    size = len(parameters) // (layers * (2 if bidirectional else 1))  # type: ignore[operator]
    return parameters[1::size]


def _is_weight(value: fx.Node, changed: set[str | None]) -> bool:
    """Whether *value* is a matrix that no caller gives and no call changes."""
    if value.op != "placeholder" or value.meta["role"].kind == "user":
        return False
    return value.meta["val"].dim() == 2 and value.meta["role"].target not in changed
