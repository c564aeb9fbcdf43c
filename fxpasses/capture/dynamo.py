"""The door of dynamo, which reads the bytecode, and the graphs that it gives to a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.capture.effects import check_effects, effects_for_dynamo
from fxpasses.capture.exported import export, inference_tracing, quiet
from fxpasses.capture.replay import interpret
from fxpasses.capture.shapes import Captured, combined, settle
from fxpasses.capture.source import Source, state_of, told_apart
from fxpasses.errors import CaptureError, InputError
from fxpasses.program import Input, Output, Program

__all__ = ["by_dynamo", "from_dynamo"]


def by_dynamo(source: Source) -> Captured:
    """Capture with `torch.export` on top of dynamo.

    Dynamo does not run the code. What it may have missed is found by a run on
    fake tensors, and refused.
    """
    if source.leaf:
        raise CaptureError("dynamo reads through leaves; capture with another door to keep them")
    with inference_tracing(), quiet():
        effects = effects_for_dynamo(source)
    captured = export(source, strict=True)
    if effects is not None:
        check_effects(captured.program, source, effects, "dynamo")
    return captured


def from_dynamo(graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> Program:
    """The program of a graph as dynamo gives it to a backend of `torch.compile`.

    Parameters, and buffers that the graph does not change, become tensors of
    the program, under their names in the model; they are shared, not copied. A
    buffer that is changed stays an input, so that the new value reaches the
    model. Sizes that dynamo passes as ints are read off the tensors.

    Returns:
        A program that is called with ``[args[i] for i in notes["inputs"]]``, a
        choice of what dynamo calls the backend's function with.
        ``notes["frozen"]`` are the positions that it holds itself: whoever
        copies their values (by folding or packing) watches their ``_version``.

    Raises:
        CaptureError: the graph cannot be exported.
    """
    from fxpasses.capture.reasons import capture_error

    slots = _slots(graph_module, example_inputs)
    source = _as_source(graph_module, slots)
    context = torch._guards.TracingContext.try_get()
    try:
        with torch._guards.tracing(None), inference_tracing(), quiet():
            captured = export(source)
            program = captured.program if context is not None else settle(captured, source, 2)
    except Exception as error:
        raise capture_error(source, {"dynamo": error}) from error
    if context is not None:
        _tell_dynamo(captured, source, slots)
    return _with_dynamo_roles(program, slots)


@dataclass(frozen=True)
class _Slot:
    """One placeholder of the graph.

    `kind` is "user", "held" (a parameter or buffer), "size" (of the input
    `size_of`) or "int" (an int argument of the user's).
    """

    position: int
    node: fx.Node
    kind: str
    value: Any
    name: str
    size_of: tuple[int, int] | None = None

    @property
    def attribute(self) -> str:
        return f"held_{self.position}"

    @property
    def fake(self) -> Any:
        """The fake value that dynamo traced with, whose sizes may be symbols."""
        return self.node.meta.get("example_value", self.value)


def _slots(graph_module: fx.GraphModule, example_inputs: Sequence[Any]) -> list[_Slot]:
    nodes = graph_module.graph.find_nodes(op="placeholder")
    if len(nodes) != len(example_inputs):
        names = ", ".join(node.name for node in nodes)
        raise InputError(
            f"the graph has {len(nodes)} inputs ({names}), {len(example_inputs)} examples are given"
        )
    original = _original_names(graph_module)
    sizes: dict[Any, tuple[int, int]] = {}
    for position, (node, value) in enumerate(zip(nodes, example_inputs, strict=True)):
        fake = node.meta.get("example_value", value)
        if isinstance(fake, torch.Tensor):
            for dim, size in enumerate(fake.shape):
                if isinstance(size, torch.SymInt):
                    sizes.setdefault(size.node.expr, (position, dim))
    slots: list[_Slot] = []
    taken: set[str] = set()
    for position, (node, value) in enumerate(zip(nodes, example_inputs, strict=True)):
        size_of = None
        if isinstance(value, torch.Tensor):
            held = isinstance(value, torch.nn.Parameter) or getattr(value, "_dynamo_static_input_type", None)
            kind = "held" if held else "user"
        elif isinstance(value, int | torch.SymInt):
            symbol = node.meta.get("example_value", value)
            expression = symbol.node.expr if isinstance(symbol, torch.SymInt) else None
            size_of = sizes.get(expression)
            kind = "size" if size_of is not None else "int"
        else:
            raise CaptureError(
                f"input {node.name!r} of the dynamo graph is of type {type(value).__name__}; tensors and ints are "
                "taken"
            )
        name = original.get(_without_root(str(node.target)), node.name) if kind == "held" else node.name
        name = name if name not in taken else node.name
        taken.add(name)
        slots.append(_Slot(position, node, kind, value, name, size_of))
    return slots


def _original_names(graph_module: fx.GraphModule) -> dict[str, str]:
    """``_modules_l_parameters_weight_``, the end of a placeholder's target, to ``l.weight``."""
    names: dict[str, str] = {}
    for name in (graph_module.meta.get("dynamo_flat_name_to_original_fqn") or {}).values():
        *path, last = name.split(".")
        modules = "".join(f"_modules_{part}" for part in path)
        for table in ("parameters", "buffers"):
            names[f"{modules}_{table}_{last}_"] = name
    return names


def _without_root(target: str) -> str:
    """What follows the name of the model's variable: ``L_self_modules_l_...`` to ``_modules_l_...``."""
    starts = [target.find(mark) for mark in ("_modules_", "_parameters_", "_buffers_") if mark in target]
    return target[min(starts) :] if starts else target


def _as_source(graph_module: fx.GraphModule, slots: list[_Slot]) -> Source:
    given = [slot for slot in slots if slot.kind in ("user", "int")]

    def forward(*args: Any) -> Any:
        values: list[Any] = [None] * len(slots)
        for slot, value in zip(given, args, strict=True):
            values[slot.position] = value
        for slot in slots:
            if slot.kind == "held":
                values[slot.position] = getattr(root, slot.attribute)
        for slot in slots:
            if slot.size_of is not None:
                tensor, dim = slot.size_of
                values[slot.position] = values[tensor].shape[dim]
        return tuple(interpret(graph_module, graph_module.graph, values))

    root = torch.nn.Module()
    for slot in slots:
        if slot.kind != "held":
            continue
        if isinstance(slot.value, torch.nn.Parameter):
            root.register_parameter(slot.attribute, slot.value)
        else:
            root.register_buffer(slot.attribute, slot.value)
    root.forward = forward
    args = told_apart(tuple(map(_example, given)), tuple(state_of(root).values()))
    return Source(root, args, {}, {"args": tuple(map(_dynamic, given))}, "the dynamo graph")


def _example(slot: _Slot) -> Any:
    """A real value of the sizes that dynamo saw."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(slot.value, torch.SymInt):
        return slot.value.node.hint
    if isinstance(slot.value, FakeTensor):
        sizes = [size.node.hint if isinstance(size, torch.SymInt) else size for size in slot.value.shape]
        return torch.zeros(sizes, dtype=slot.value.dtype)
    return slot.value


def _dynamic(slot: _Slot) -> Any:
    from torch.export import Dim

    if slot.kind == "int":
        return Dim.DYNAMIC if isinstance(slot.fake, torch.SymInt) else None
    dims = {dim: Dim.AUTO for dim, size in enumerate(slot.fake.shape) if isinstance(size, torch.SymInt)}
    return dims or None


def _tell_dynamo(captured: Captured, source: Source, slots: list[_Slot]) -> None:
    """Let dynamo guard what the export found out about sizes: it then traces again for others."""
    given = [slot.fake for slot in slots if slot.kind in ("user", "int")]
    scope = {**combined(source.replace(args=tuple(given))), "flat_args": given}
    for guard in captured.guards:
        if not bool(eval(guard.strip(), {"L": scope, "torch": torch})):
            raise CaptureError(
                f"the exported graph holds under {guard}, which is not so for the inputs of dynamo"
            )


def _with_dynamo_roles(program: Program, slots: list[_Slot]) -> Program:
    """Give the tensors their names in the model, and the changed buffers back to the caller."""
    by_attribute = {slot.attribute: slot for slot in slots if slot.kind == "held"}
    given = iter([slot for slot in slots if slot.kind in ("user", "int")])
    changed = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
    tensors: dict[str, torch.Tensor] = {}
    renamed: dict[str, str] = {}
    inputs: list[int] = []
    frozen: list[int] = []
    for node in program.placeholders:
        role: Input = node.meta["role"]
        if role.kind == "user":
            slot = next(given)
            renamed[role.target] = slot.name
            node.meta["role"] = Input("user", slot.name)
            inputs.append(slot.position)
            continue
        if role.target not in by_attribute:  # a tensor of the graph module itself
            tensors[role.target] = program.tensors[role.target]
            continue
        slot = by_attribute[role.target]
        renamed[role.target] = slot.name
        if role.target in changed:
            node.meta["role"] = Input("user", slot.name)
            inputs.append(slot.position)
        else:
            node.meta["role"] = Input(role.kind, slot.name, role.persistent)
            tensors[slot.name] = program.tensors[role.target]
            frozen.append(slot.position)
    program.output.meta["roles"] = tuple(
        role
        if role.target is None
        else Output(
            "input_mutation" if role.target in renamed else role.kind, renamed.get(role.target, role.target)
        )
        for role in program.output.meta["roles"]
    )
    return program.replace(
        tensors=tensors,
        in_spec=pytree.tree_structure((tuple(range(len(inputs))), {})),
        notes={"via": "dynamo", "skipped": {}, "inputs": tuple(inputs), "frozen": tuple(frozen)},
    )
