"""What a source does when it runs: the check on doors that do not run it.

Dynamo reads bytecode and `symbolic_trace` passes proxies; both can lose an
effect without a word (a buffer that is assigned, a region of autocast, a branch
on ``isinstance(x, Tensor)``). A run on fake tensors shows what there should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.capture.make_fx import as_in_export, swapped
from fxpasses.capture.source import Source, register_dataclasses
from fxpasses.errors import CaptureError
from fxpasses.program import Program

__all__ = ["Effects", "check_effects", "effects_of"]


@dataclass(frozen=True)
class Effects:
    """Structure and types of the outputs, and what was changed."""

    out_spec: pytree.TreeSpec
    outputs: tuple[Any, ...]
    buffers: frozenset[str]
    inputs: frozenset[int]


def effects_of(source: Source) -> Effects:
    """Run *source* on fake tensors of the example's sizes."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = mode.from_tensor(tensor, static_shapes=True)
        return made[id(tensor)]

    state = {name: fake(tensor) for name, tensor in source.state().items()}
    leaves, spec = pytree.tree_flatten((source.args, source.kwargs))
    leaves = [fake(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    versions = {name: tensor._version for name, tensor in state.items()}
    before = [leaf._version if isinstance(leaf, torch.Tensor) else 0 for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    with mode, as_in_export(source.root), swapped(source.root, state):
        result = source.root(*args, **kwargs)
        assigned = {
            name
            for name, buffer in source.root.named_buffers(remove_duplicate=False)
            if name in state and buffer is not state[name]
        }
    register_dataclasses(result)
    outputs, out_spec = pytree.tree_flatten(result)
    return Effects(
        out_spec,
        tuple(map(_kind, outputs)),
        frozenset(assigned | {name for name, tensor in state.items() if tensor._version != versions[name]}),
        frozenset(
            i
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, torch.Tensor) and leaf._version != before[i]
        ),
    )


def check_effects(program: Program, source: Source, effects: Effects, door: str) -> None:
    """Raise unless *program* does all that the source does.

    Raises:
        CaptureError: outputs differ in structure, dtype or shape, or a change
            of a buffer or an argument is lost.
    """
    if program.out_spec != effects.out_spec:
        raise CaptureError(
            f"{door} gives an output of another structure than the code: {program.out_spec} instead of "
            f"{effects.out_spec}"
        )
    values = [value for role, value in program.outputs if role.kind == "user"]
    for index, (value, expected) in enumerate(zip(values, effects.outputs, strict=True)):
        found = _kind(value.meta.get("val") if isinstance(value, torch.fx.Node) else value)
        if found != expected and None not in (found, expected):
            raise CaptureError(f"{door} gives {found} for output {index}, the code gives {expected}")
    known = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
    state = source.state()
    known_ids = {id(state[name]) for name in known if name in state}
    lost = sorted(name for name in effects.buffers if id(state[name]) not in known_ids)
    if lost:
        raise CaptureError(
            f"{door} loses the new value of {', '.join(lost)}; change a buffer in place "
            "(self.count.add_(1) or self.count.copy_(new)) instead of assigning it"
        )
    changed = {role.target for role, _ in program.outputs if role.kind == "input_mutation"}
    names = [node.meta["role"].target for node in program.inputs]
    missing = [names[i] for i in sorted(effects.inputs) if names[i] not in changed]
    if missing:
        raise CaptureError(f"{door} loses the change of argument {', '.join(missing)}")


def _kind(value: Any) -> Any:
    """dtype and shape of a tensor, a number or constant; None where a size is not known."""
    if isinstance(value, torch.Tensor):
        sizes = tuple(_hint(size) for size in value.shape)
        return None if None in sizes else (value.dtype, sizes)
    return _hint(value)


def _hint(size: Any) -> Any:
    if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return size.node.hint if size.node.has_hint() else None
    return size
