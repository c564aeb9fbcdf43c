"""The door of TorchScript: scripted and traced modules and functions."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from fxpasses.capture.effects import Effects, check_effects, effects_of
from fxpasses.capture.exported import export, inference_tracing, quiet
from fxpasses.capture.make_fx import swapped
from fxpasses.capture.replay import fetch, interpret, replay
from fxpasses.capture.shapes import Captured
from fxpasses.capture.source import Source, state_of
from fxpasses.errors import CaptureError
from fxpasses.program import Program

__all__ = ["as_module", "by_torchscript"]

aten = torch.ops.aten

Script: TypeAlias = "torch.jit.ScriptModule | torch.jit.ScriptFunction"


def by_torchscript(source: Source) -> Captured:
    """Capture a TorchScript module, or a module that `torch.jit.trace` makes one of.

    Its interpreter is run on fake tensors, which shows the operators that it
    calls. Sizes become ints there; where they vary, torch's converter
    translates the TorchScript graph instead.
    """
    script: Script | None = source.root.__dict__.get("script")
    if script is None:
        with inference_tracing(), quiet():
            effects = effects_of(source)
            traced = _jit_trace(source, effects)
        captured = export(traced)
        check_effects(captured.program, source, effects, "torchscript")
    else:
        captured = _capture(source, script)
    return Captured(_in_aten_of_today(captured.program), captured.guards)


def _capture(source: Source, script: Script) -> Captured:
    _refuse_autocast(script)
    _refuse_lost_state(script)
    try:
        return export(source)
    except Exception as first:  # the first reason is the one to tell
        if _calls_python(script):
            raise
        try:
            with inference_tracing(), quiet():
                converted = _convert(source, script)
            return export(converted)
        except Exception as second:
            raise first from second


def as_module(script: Script) -> torch.nn.Module:
    """A module with the state of *script* and a Python signature, which runs *script*."""
    root = torch.nn.Module()
    names: list[str] = []
    if isinstance(script, torch.jit.ScriptModule):
        persistent = set(script.state_dict())
        for name, tensor in state_of(script).items():
            *path, last = name.split(".")
            owner = root
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, torch.nn.Module())
                owner = owner._modules[part]  # type: ignore[assignment]
            if isinstance(tensor, torch.nn.Parameter):
                owner.register_parameter(last, tensor)
            else:
                owner.register_buffer(last, tensor, persistent=name in persistent)
            names.append(name)
        root.train(script.training)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return _run(script, dict(zip(names, fetch(root, names), strict=True)), args, kwargs)

    forward.__signature__ = _signature(script)  # type: ignore[attr-defined]
    root.forward = forward
    root.__dict__["script"] = script
    return root


def _run(script: Script, state: dict[str, torch.Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    # The optimised graph of a second run calls operators with numbers in the place of tensors.
    with torch.jit.optimized_execution(False):
        if not isinstance(script, torch.jit.ScriptModule):
            return script(*args, **kwargs)
        with swapped(script, state):
            # Not script(...): while torch traces it replaces what calling a module means.
            result = script._c._get_method("forward")(*args, **kwargs)
            for name, tensor in state_of(script).items():
                if tensor is not state[name]:  # self.count = self.count + 1
                    state[name].copy_(tensor)
            return result


def _signature(script: Script) -> inspect.Signature:
    if isinstance(script, torch.jit.ScriptModule):
        arguments = script.forward.schema.arguments[1:]  # without self
    else:
        arguments = script.schema.arguments
    parameters = []
    for argument in arguments:
        default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
        kind = (
            inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        parameters.append(inspect.Parameter(argument.name, kind, default=default))
    return inspect.Signature(parameters)


def _graph(script: Script) -> Any:
    return script.inlined_graph if isinstance(script, torch.jit.ScriptModule) else script.graph


def _refuse_autocast(script: Script) -> None:
    graph = _graph(script)  # it owns its nodes
    for node in graph.findAllNodes("prim::Enter", True):
        if "autocast" in str(node.inputsAt(0).type()):
            raise CaptureError(
                "a scripted region of autocast is decided by TorchScript's own passes when it runs, which a capture "
                "does not see; capture the Python module, or trace it with torch.jit.trace"
            )


def _refuse_lost_state(script: Script) -> None:
    """Raise where a call reads an attribute that the last one set, and that is no buffer."""
    graph = _graph(script)
    state = (
        {name.rpartition(".")[2] for name in state_of(script)} if isinstance(script, torch.nn.Module) else ()
    )
    read = {node.s("name") for node in graph.findAllNodes("prim::GetAttr", True)}
    for node in graph.findAllNodes("prim::SetAttr", True):
        name = node.s("name")
        if name in read and name not in state:
            raise CaptureError(
                f"the scripted model assigns self.{name} and reads it, so that each call may compute something "
                "else; a program keeps state in buffers only: use self.register_buffer"
            )


def _in_aten_of_today(program: Program) -> Program:
    """*program* without what only TorchScript writes: sizes as calls, and ``_convolution``."""
    g = program.edit()
    for node in g.nodes():
        if not isinstance(node.target, OpOverload):
            continue
        if node.target is aten._convolution.default:
            with g.at(node):
                g.replace(node, g.call(aten.convolution.default, *node.args[:9]))
        elif _gives_number(node.target):
            number = node.meta.get("val")
            if number is None and node.users:
                number = g.infer(node)
            for user in list(node.users) if not isinstance(number, torch.SymInt) else ():
                user.args, user.kwargs = fx.map_arg(
                    (user.args, user.kwargs), lambda n, node=node, number=number: number if n is node else n
                )
            if not isinstance(number, torch.SymInt):
                g.erase(node)
    return g.finish()


def _gives_number(op: OpOverload) -> bool:
    kinds = {str(result.type) for result in op._schema.returns}
    return (
        len(op._schema.returns) == 1
        and kinds <= {"int", "float", "bool", "SymInt"}
        and not op._schema.is_mutable
    )


# -- torch's converter ---------------------------------------------------------------------


def _calls_python(script: Script) -> bool:
    """Whether the graph calls an `autograd.Function`, on which the converter crashes the process."""
    graph = _graph(script)
    return bool(graph.findAllNodes("prim::PythonOp", True))


def _convert(source: Source, script: Script) -> Source:
    """*source* with a root that replays the fx graph which `TS2EPConverter` makes."""
    from torch._export.converter import TS2EPConverter

    bound = inspect.signature(source.root.forward).bind(*source.args, **source.kwargs)
    bound.apply_defaults()
    arguments = pytree.tree_map_only(torch.Tensor, torch.clone, bound.args)
    own = copy.deepcopy(script) if isinstance(script, torch.jit.ScriptModule) else script
    out_spec = pytree.tree_structure(own(*arguments))

    class Converter(TS2EPConverter):
        def retrace_as_exported_program(self, gm: fx.GraphModule, name_to_constant: dict[str, Any]) -> Any:
            raise _Converted(gm)

    own = copy.deepcopy(script) if isinstance(script, torch.jit.ScriptModule) else script
    converter = Converter(own, arguments)
    if isinstance(own, torch.jit.ScriptModule):
        # It tells parameters from buffers by comparing values, and so takes zeros for zeros.
        state = state_of(own)
        converter.name_to_param = {k: v for k, v in state.items() if isinstance(v, torch.nn.Parameter)}
        converter.name_to_buffer = {k: v for k, v in state.items() if not isinstance(v, torch.nn.Parameter)}
    try:
        converter.convert()
    except _Converted as result:
        converted = result.module
    else:
        raise CaptureError("the TorchScript converter gave no graph")
    names = list(state_of(source.root))
    leaves = pytree.tree_leaves((source.args, source.kwargs))

    def run(root: torch.nn.Module, given: list[Any]) -> list[Any]:
        for name, tensor in zip(names, fetch(root, names), strict=True):
            _put(converted, name, tensor)
        args, kwargs = pytree.tree_unflatten(given, spec)
        again = signature.bind(*args, **kwargs)
        again.apply_defaults()
        return pytree.tree_leaves(interpret(converted, converted.graph, pytree.tree_leaves(again.args)))

    spec = pytree.tree_structure((source.args, source.kwargs))
    signature = inspect.signature(source.root.forward)
    return replay(source, run, range(len(leaves)), out_spec)


class _Converted(Exception):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__("converted")
        self.module = module


def _put(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Let the attribute *name* of *module* be *tensor*, whatever it was registered as."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(module, part):
            return
        module = getattr(module, part)
    for table in (module._parameters, module._buffers, module.__dict__):
        if last in table:
            table[last] = tensor
            return


# -- modules that are not TorchScript yet -----------------------------------------------------


def _jit_trace(source: Source, effects: Effects) -> Source:
    """*source* with a root that runs what `torch.jit.trace` makes of it.

    Tracing runs the code for real, so what it changes is put back. Values that
    it would take for constants have been looked for before, on fake tensors;
    where sizes vary, a size that it takes for a constant is an error.
    """
    leaves, spec = pytree.tree_flatten((source.args, source.kwargs))
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = source.root

        def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            filled = list(leaves)
            for position, tensor in zip(positions, given, strict=True):
                filled[position] = tensor
            args, kwargs = pytree.tree_unflatten(filled, spec)
            results = pytree.tree_leaves(self.inner(*args, **kwargs))
            # A size is a tensor while torch.jit traces; for the code it is an int.
            return tuple(
                r for r, kind in zip(results, effects.outputs, strict=True) if isinstance(kind, tuple)
            )

    state = source.state()
    kept = {name: state[name].detach().clone() for name in effects.buffers}
    try:
        with warnings.catch_warnings():
            action: Literal["ignore", "error"] = "ignore" if source.dynamic_shapes is None else "error"
            warnings.simplefilter(action, torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            examples = tuple(leaves[i].detach().clone() for i in positions)
            script = torch.jit.trace(Flat(), examples, check_trace=False, strict=False)
    finally:
        for name, value in kept.items():
            state[name].copy_(value)
    constants = [None if isinstance(kind, tuple) else kind for kind in effects.outputs]
    names = list(state)

    def run(root: torch.nn.Module, given: list[Any]) -> list[Any]:
        held = {f"inner.{name}": tensor for name, tensor in zip(names, fetch(root, names), strict=True)}
        results = iter(_run(script, held, given, {}))
        return [
            next(results) if isinstance(k, tuple) else c
            for k, c in zip(effects.outputs, constants, strict=True)
        ]

    return replay(source, run, positions, effects.out_spec)
