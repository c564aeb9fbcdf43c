"""`normalize_kwargs`: every call in the full form of its schema."""

from __future__ import annotations

import functools

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.pipeline import Pass, pass_name
from fxpasses.program import Program
from fxpasses.schema import arguments_of, bind

__all__ = ["in_full_form", "normalize_kwargs", "on_full_form"]

# Arguments that speak of where and how a tensor lies in memory, not of its value.
_LAYOUT = ("layout", "device", "pin_memory", "memory_format", "non_blocking")


def normalize_kwargs(program: Program) -> Program:
    """Fill in defaults, pass positional arguments by position, and drop layout arguments.

    Operators that make a tensor from nothing name their dtype.

    Layout arguments (``device``, ``layout``, ``memory_format``, ...) take their
    schema default: a canonical value has no layout.
    """
    g = program.edit()
    for node in g.nodes():
        if node.op != "call_function" or not isinstance(node.target, OpOverload):
            continue
        args, kwargs = bind(node.target, node.args, node.kwargs)
        for argument in arguments_of(node.target):
            if argument.kwarg_only and argument.name in _LAYOUT and argument.has_default:
                kwargs[argument.name] = argument.default
        if _makes_a_tensor(node) and kwargs.get("dtype", torch.bool) is None:
            kwargs["dtype"] = _dtype_of(node.meta["val"])
        node.args, node.kwargs = args, kwargs
    return g.finish()


def _makes_a_tensor(node: fx.Node) -> bool:
    """Whether an aten call makes a tensor from nothing, in a dtype that a default may decide."""
    operands = [item.meta.get("val") for item in node.all_input_nodes]
    tensors = any(isinstance(item, torch.Tensor) for item in operands)
    return node.target.namespace == "aten" and not tensors and isinstance(node.meta.get("val"), torch.Tensor)  # type: ignore[union-attr]


def _dtype_of(val: torch.Tensor) -> torch.dtype:
    return val.dtype


def on_full_form(pass_: Pass) -> Pass:
    """Decorator: the pass reads arguments by position, so calls are brought into full form before it."""

    @functools.wraps(pass_, updated=())
    def run(program: Program) -> Program:
        return pass_(in_full_form(program))

    run.__name__ = pass_name(pass_)
    return run


def in_full_form(program: Program) -> Program:
    """*program* with every argument in its place; itself where they are."""
    return program if all(map(_is_full, program.nodes())) else normalize_kwargs(program)


def _is_full(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return True
    arguments = arguments_of(node.target)
    keywords = sum(argument.kwarg_only for argument in arguments)
    return (len(node.args), len(node.kwargs)) == (len(arguments) - keywords, keywords)
