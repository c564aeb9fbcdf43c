"""`Program`: the one container that every pass takes and returns.

A program is an `fx.GraphModule` in the lifted shape of `torch.export`
(parameters, buffers and constants are placeholders, mutation is an extra
output), with one difference: *roles live on the nodes*. Each placeholder
carries ``meta["role"]`` (an `Input`), the output node carries ``meta["roles"]``
(one `Output` for each returned value). There is no second list to keep in step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx

from fxpasses.ambient import plainly
from fxpasses.errors import ArtifactError
from fxpasses.graph_modules import graph_modules

if TYPE_CHECKING:
    import sympy
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.export import ExportedProgram
    from torch.utils._pytree import TreeSpec
    from torch.utils._sympy.value_ranges import ValueRanges

    from fxpasses.rewrite import Editor
    from fxpasses.signature import Signature

__all__ = ["Input", "Output", "Program"]


@dataclass(frozen=True)
class Input:
    """The role of a placeholder, kept in its ``meta["role"]``.

    `target` is the fully qualified name of a parameter, buffer or constant (a
    key of `Program.tensors`), and the argument's name for a user input.
    `persistent` is False for a buffer that the state dict leaves out.
    """

    kind: Literal["user", "param", "buffer", "constant"]
    target: str
    persistent: bool = True


@dataclass(frozen=True)
class Output:
    """The role of one returned value, in the output node's ``meta["roles"]``.

    `target` is the name of the buffer or user input that takes the value, and
    None for a user output.
    """

    kind: Literal["user", "buffer_mutation", "input_mutation"]
    target: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A functional graph with its tensors and its calling convention.

    Attributes:
        graph_module: the graph. Its placeholders and its output carry roles.
        tensors: fully qualified name to parameter, buffer or constant.
        in_spec: pytree structure of ``(args, kwargs)``.
        out_spec: pytree structure of the user outputs.
        ranges: bounds of each free symbol of a dynamic dimension. Relations of several sizes
            that a call must meet are ``aten._assert_scalar`` calls in the graph.
        notes: where the program came from (capture writes ``"via"``, the door
            that was used, and ``"skipped"``, why others were not), and what it asks for: ``"layouts"``
            are strides and offset of user inputs, by position, that `as_strided` has read.

    A program is never changed in place: `edit` works on a copy of the graph.
    Programs made from each other by passes share their tensors.
    """

    graph_module: fx.GraphModule
    tensors: Mapping[str, torch.Tensor]
    in_spec: TreeSpec
    out_spec: TreeSpec
    ranges: Mapping[sympy.Symbol, ValueRanges] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    # -- reading ---------------------------------------------------------------

    @property
    def graph(self) -> fx.Graph:
        """The top-level graph; an ordinary `torch.fx.Graph`."""
        return self.graph_module.graph

    @property
    def placeholders(self) -> list[fx.Node]:
        """The placeholders in order; each has a `Input` in ``meta["role"]``."""
        return self.graph.find_nodes(op="placeholder")

    @property
    def inputs(self) -> list[fx.Node]:
        """The placeholders of the user's own (flattened) arguments."""
        return [node for node in self.placeholders if node.meta["role"].kind == "user"]

    @property
    def output(self) -> fx.Node:
        """The output node; its ``args[0]`` runs parallel to ``meta["roles"]``."""
        return self.graph.output_node()

    @property
    def outputs(self) -> list[tuple[Output, Any]]:
        """Each returned value with its role, mutations included."""
        return list(zip(self.output.meta["roles"], self.output.args[0], strict=True))

    @property
    def mutations(self) -> dict[str, fx.Node]:
        """Name of each mutated buffer or user input, with its new value."""
        return {role.target: value for role, value in self.outputs if role.target is not None}

    @cached_property
    def fake_mode(self) -> FakeTensorMode:
        """The FakeTensorMode that all ``meta["val"]`` of the program belong to."""
        from torch._guards import detect_fake_mode
        from torch._subclasses.fake_tensor import FakeTensorMode

        mode = detect_fake_mode([node.meta.get("val") for node in self.placeholders])
        if mode is None:  # no input is a tensor
            mode = detect_fake_mode([node.meta.get("val") for node in self.graph.nodes])
        return mode if mode is not None else FakeTensorMode(allow_non_fake_inputs=False)

    @cached_property
    def signature(self) -> Signature:
        """How the program is called: names, dtypes, shapes and structure."""
        from fxpasses.signature import Signature

        return Signature.of(self)

    def graph_modules(self) -> Iterator[fx.GraphModule]:
        """The top-level graph module and, after it, every control-flow body."""
        yield from graph_modules(self.graph_module)

    def nodes(self) -> Iterator[fx.Node]:
        """All nodes, those of control-flow bodies included."""
        for module in self.graph_modules():
            yield from module.graph.nodes

    @property
    def fingerprint(self) -> str:
        """Hash of the structure; see `fxpasses.fingerprint`."""
        from fxpasses.fingerprint import fingerprint

        return fingerprint(self)

    # -- running ---------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """Run in eager PyTorch without side effects.

        Returns:
            The outputs in the model's own structure, and the new value of each
            mutated buffer and user input by name.

        Raises:
            InputError: an argument does not fit; the message names it.
        """
        leaves = self.signature.flatten(args, kwargs)
        self.signature.check(leaves)
        with plainly():
            return self.results(self.execute(leaves))

    def results(self, values: list[Any]) -> tuple[Any, dict[str, torch.Tensor]]:
        """All outputs, flat, as `run` returns them."""
        user = [v for v, role in zip(values, self.output.meta["roles"], strict=True) if role.kind == "user"]
        mutations = {
            role.target: value
            for value, role in zip(values, self.output.meta["roles"], strict=True)
            if role.kind != "user"
        }
        return self.signature.unflatten(user), mutations

    def execute(self, leaves: list[Any], run: Callable[..., Any] | None = None) -> list[Any]:
        """Run the graph, or *run* in its place, on flat, already checked user inputs; all outputs, flat."""
        user = iter(leaves)
        flat = [
            next(user) if node.meta["role"].kind == "user" else self.tensors[node.meta["role"].target]
            for node in self.placeholders
        ]
        return list((run or self.graph_module)(*flat))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run like the module: mutations are written back into buffers and arguments."""
        leaves = self.signature.flatten(args, kwargs)
        self.signature.check(leaves)
        with plainly():
            values = self.execute(leaves)
            arguments = {
                node.meta["role"].target: leaf for node, leaf in zip(self.inputs, leaves, strict=True)
            }
            user, writes = [], []
            for value, role in zip(values, self.output.meta["roles"], strict=True):
                if role.kind == "user":
                    user.append(value)
                else:
                    owner = self.tensors if role.kind == "buffer_mutation" else arguments
                    writes.append((owner[role.target], value))
            # A value may be a view of a buffer or an argument that is about to change.
            storages = {target.untyped_storage().data_ptr() for target, _ in writes}
            user = [_apart(value, storages) for value in user]
            writes = [(target, _apart(value, storages)) for target, value in writes]
            for target, value in writes:
                target.copy_(value)
        return self.signature.unflatten(user)

    # -- editing ---------------------------------------------------------------

    def edit(self) -> Editor:
        """An `Editor` on a copy of the graph; `Editor.finish` gives the new program."""
        from fxpasses.rewrite import Editor

        return Editor(self)

    def replace(self, **changes: Any) -> Program:
        """A copy with some attributes exchanged, as `dataclasses.replace`."""
        return replace(self, **changes)

    # -- to and from other forms -----------------------------------------------

    @staticmethod
    def from_exported_program(exported: ExportedProgram) -> Program:
        """See `fxpasses.interop.from_exported_program`."""
        from fxpasses.interop import from_exported_program

        return from_exported_program(exported)

    def to_exported_program(self) -> ExportedProgram:
        """See `fxpasses.interop.to_exported_program`."""
        from fxpasses.interop import to_exported_program

        return to_exported_program(self)

    def to_module(self) -> torch.nn.Module:
        """See `fxpasses.interop.to_module`."""
        from fxpasses.interop import to_module

        return to_module(self)

    def to_graph_module(self) -> fx.GraphModule:
        """See `fxpasses.interop.to_graph_module`."""
        from fxpasses.interop import to_graph_module

        return to_graph_module(self)

    def to_networkx(self) -> Any:
        """See `fxpasses.interop.to_networkx`."""
        from fxpasses.interop import to_networkx

        return to_networkx(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.pt2`` file that `torch.export.load` and `capture` read.

        Raises:
            ArtifactError: an output is a string; torch writes those and cannot read them.
        """
        for index, (_, value) in enumerate(self.outputs):
            if isinstance(value, str):
                raise ArtifactError(
                    f"output {index} is the string {value!r}, which torch cannot read back from a .pt2 "
                    "file; return it outside of the captured model"
                )
        torch.export.save(self.to_exported_program(), path)

    # -- showing ---------------------------------------------------------------

    def __str__(self) -> str:
        """The canonical text: structure alone, without names of tensors or files."""
        from fxpasses.view.text import program_text

        return program_text(self, provenance=False)

    def __repr__(self) -> str:
        """The text with tensor names, input names and source lines."""
        from fxpasses.view.text import program_text

        return program_text(self, provenance=True)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # IPython and hypothesis would else show the fields of the dataclass.
        for number, line in enumerate(repr(self).splitlines()):
            if number:
                printer.break_()
            printer.text(line)

    def _repr_html_(self) -> str:
        from fxpasses.view.html import program_html

        return program_html(self)


def _apart(value: Any, storages: set[int]) -> Any:
    if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in storages:
        return value.clone()
    return value
