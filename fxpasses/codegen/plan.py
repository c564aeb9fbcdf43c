"""`CallPlan`: how a call of a compiled program becomes a call of ``main``, as plain data.

It says which of the user's flat arguments go in, where each output comes
from, what is written back, and what is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx

from fxpasses.codegen.pages import read_once
from fxpasses.errors import LoweringError, source_line
from fxpasses.relax.checks import Check
from fxpasses.signature import size_text
from fxpasses.tracing.fake_values import same_type

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["CallPlan", "Source", "Write"]


@dataclass(frozen=True)
class Source:
    """Where a returned value comes from.

    ``computed``: result `index` of ``main``. ``number``: the element of that result. ``input``: the flat user argument
    `index`. ``tensor``: the program's tensor `name`. ``value``: a number or
    constant that the signature tells. What is `fresh` is returned as a copy: the model makes a
    tensor of its own there, and the program has none.
    """

    kind: Literal["computed", "number", "input", "tensor", "value"]
    index: int = -1
    name: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Write:
    """A value that is written to the flat user argument `index`, or to the buffer `name`."""

    source: Source
    index: int = -1
    name: str = ""


@dataclass(frozen=True)
class CallPlan:
    """See the module.

    Attributes:
        inputs: the flat user arguments that are tensors, in the order of ``main``.
        sizes: the sizes that ``main`` takes as one shape after them, as text.
        tensors: the program's tensors that follow, by name.
        outputs: where each user output comes from.
        writes: the mutations.
        checks: what the last result of ``main`` tells of, where there are any: the number
            of the one that failed, else no positive number.
        layouts: flat user arguments whose strides the program has read at capture, with these, and
            with the offset in their memory where it has read that.
        read_once: those of the tensors that are read from end to end for little work; see `pages`.
    """

    inputs: tuple[int, ...]
    sizes: tuple[str, ...]
    tensors: tuple[str, ...]
    outputs: tuple[Source, ...]
    writes: tuple[Write, ...]
    checks: tuple[Check, ...]
    layouts: tuple[tuple[int, tuple[int, ...], int | None], ...] = ()
    read_once: tuple[str, ...] = ()

    @staticmethod
    def of(program: Program, checks: Sequence[Check] = (), captured: Program | None = None) -> CallPlan:
        """The plan for the ``main`` that `fxpasses.relax.emit.lower` makes of *program* with *checks*.

        *captured* is the program as the model was captured, which tells ``x.clone()`` from ``x``.
        """
        from fxpasses.relax.emit import returned_nodes, size_parameters

        user = program.inputs
        position = {node: index for index, node in enumerate(user)}
        number = {node: index for index, node in enumerate(returned_nodes(program))}
        buffers = {n.meta["role"].target: n for n in program.placeholders if n not in position}
        arguments = {n.meta["role"].target: n for n in user}

        def source(value: Any) -> Source:
            if not isinstance(value, fx.Node):
                return Source("value")
            if value in number:
                tensor = isinstance(value.meta["val"], torch.Tensor)
                return Source("computed" if tensor else "number", index=number[value])
            if not isinstance(value.meta["val"], torch.Tensor):
                return Source("value")
            if value in position:
                return Source("input", index=position[value])
            return Source("tensor", name=value.meta["role"].target)

        outputs: list[Source] = []
        writes: list[Write] = []
        captured_outputs = [value for role, value in (captured or program).outputs if role.kind == "user"]
        owner: dict[Source, Any] = {}
        for role, value in program.outputs:
            if role.kind == "user":
                found, before = source(value), captured_outputs[len(outputs)]
                if found.kind == "computed":
                    found = replace(found, fresh=owner.setdefault(found, before) is not before)
                elif found.kind == "input":
                    found = replace(found, fresh=before.op != "placeholder")
                outputs.append(found)
                continue
            assert role.target is not None  # of a mutation
            target = (buffers if role.kind == "buffer_mutation" else arguments)[role.target]
            if not same_type(target.meta["val"], value.meta["val"]):
                raise LoweringError(
                    f"{role.target!r} would change its type: the new value {value.name!r} is "
                    f"{value.meta['val']}, it was {target.meta['val']} ({source_line(value)}); "
                    "keep its shape and dtype, for example by copy_ into it"
                )
            writes.append(Write(source(value), position.get(target, -1), role.target))
        return CallPlan(
            inputs=tuple(i for i, node in enumerate(user) if isinstance(node.meta["val"], torch.Tensor)),
            sizes=tuple(str(size_text(expression)) for expression in size_parameters(program)),
            tensors=tuple(n.meta["role"].target for n in program.placeholders if n not in position),
            outputs=tuple(outputs),
            writes=tuple(writes),
            checks=tuple(checks),
            layouts=tuple((place, *layout) for place, layout in program.notes.get("layouts", {}).items()),
            read_once=read_once(program),
        )

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the buffers that a call changes."""
        return tuple(write.name for write in self.writes if write.index < 0)

    def to_data(self) -> dict[str, Any]:
        """Lists and dicts for JSON."""
        return asdict(self)

    @staticmethod
    def from_data(data: dict[str, Any]) -> CallPlan:
        """Inverse of `to_data`."""
        return CallPlan(
            inputs=tuple(data["inputs"]),
            sizes=tuple(data["sizes"]),
            tensors=tuple(data["tensors"]),
            outputs=tuple(Source(**row) for row in data["outputs"]),
            writes=tuple(Write(**{**row, "source": Source(**row["source"])}) for row in data["writes"]),
            checks=tuple(Check(**row) for row in data["checks"]),
            layouts=tuple((index, tuple(steps), start) for index, steps, start in data.get("layouts", ())),
            read_once=tuple(data.get("read_once", ())),
        )
