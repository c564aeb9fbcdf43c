"""`check_inference`: refuse what only training does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import FxpassesError, source_line
from fxpasses.program import Program
from fxpasses.schema import bind, draws_random

__all__ = ["CheckInference", "check_inference", "is_training"]

aten = torch.ops.aten

# Operators with a flag that asks for the behaviour of training: random noise, or
# batch norms that learn.
_NOISE = {
    aten.dropout.default: "train",
    aten.feature_dropout.default: "train",
    aten.alpha_dropout.default: "train",
    aten.feature_alpha_dropout.default: "train",
    aten.native_dropout.default: "train",
    aten.rrelu.default: "training",
    aten.rrelu_with_noise.default: "training",
    aten.rrelu_with_noise_functional.default: "training",
}
_FLAGS = _NOISE | {
    aten.batch_norm.default: "training",
    aten.native_batch_norm.default: "training",
    aten._native_batch_norm_legit.default: "training",
    aten._native_batch_norm_legit_functional.default: "training",
}
# Batch norms without such a flag, which always learn.
_TRAINING = frozenset({aten._batch_norm_with_update.default, aten._batch_norm_with_update_functional.default})


def is_training(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call ``op(*args, **kwargs)`` does what only training does: drop values, or learn."""
    flag = _FLAGS.get(op)
    if flag is None:
        return op in _TRAINING
    names = [argument.name for argument in op._schema.arguments]
    positional, keywords = bind(op, args, kwargs)
    given = dict(zip(names, positional, strict=False)) | keywords
    if "running_mean" in given and given["running_mean"] is None and given["running_var"] is None:
        return False  # the statistics of the batch, in evaluation as well
    return bool(given[flag]) and not ("dropout" in op._schema.name and given["p"] == 0)


@dataclass(frozen=True)
class CheckInference:
    """Refuse dropout, batch norm of training, and random operators.

    Args:
        allow_random: let random operators pass, dropout in training included, and say so
            in the program's notes, which this pass and `fxpasses.verify` read from then on.
    """

    allow_random: bool = False
    __name__ = "check_inference"

    def __call__(self, program: Program) -> Program:
        random = self.allow_random or bool(program.notes.get("allow_random"))
        problems = [problem for node in program.nodes() for problem in self._problems(node, random)]
        if problems:
            raise FxpassesError(
                "the program does what inference does not:\n  "
                + "\n  ".join(problems)
                + "\nCall model.eval() before capture"
                + (
                    ""
                    if self.allow_random
                    else "; for intended randomness say allow_random=True to fxpasses.compile, "
                    "or use fxpasses.passes.CheckInference(allow_random=True)"
                )
            )
        if self.allow_random and not program.notes.get("allow_random"):
            return program.replace(notes={**program.notes, "allow_random": True})
        return program

    def _problems(self, node: fx.Node, random: bool) -> list[str]:
        op = node.target
        if node.op != "call_function" or not isinstance(op, OpOverload):
            return []
        where = f"{op} (node {node.name!r}, {source_line(node) or 'no source line'})"
        if is_training(op, node.args, node.kwargs) and not (random and op in _NOISE):
            return [f"{where} is in training mode"]
        if op in _FLAGS:
            return []
        if not random and draws_random(op, node.args, node.kwargs):
            return [f"{where} draws random numbers"]
        return []


check_inference = CheckInference()
