"""Programs to and from `ExportedProgram`, `nn.Module` and plain `GraphModule`."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymBoolArgument,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxpasses.described import as_described
from fxpasses.errors import CaptureError, FxpassesError, source_line
from fxpasses.fingerprint import SymbolNames
from fxpasses.functionalize import functionalize
from fxpasses.graph_modules import copy_graph_module, make_graph_module
from fxpasses.guards import hold
from fxpasses.program import Input, Output, Program
from fxpasses.schema import shared_arguments
from fxpasses.tracing.fake_values import fake_tensor, fake_value

__all__ = [
    "from_exported_program",
    "graph_module_pass",
    "guards_of",
    "to_exported_program",
    "to_graph_module",
    "to_module",
    "to_networkx",
    "unguarded",
]

_INPUT_KINDS = {
    InputKind.USER_INPUT: "user",
    InputKind.PARAMETER: "param",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}
_OUTPUT_KINDS = {
    OutputKind.USER_OUTPUT: "user",
    OutputKind.BUFFER_MUTATION: "buffer_mutation",
    OutputKind.USER_INPUT_MUTATION: "input_mutation",
}


def from_exported_program(exported: ExportedProgram) -> Program:
    """The program of an `ExportedProgram`, made functional where it is not.

    Tensors are shared with *exported*, except the buffers that the program
    changes: those are copied, so that running one never disturbs the other.
    It is called only with sizes for which the guards of *exported* hold, and its metadata
    (see `fxpasses.described`).

    Raises:
        CaptureError: a kind of input or output that a program cannot hold
            (tokens, custom class objects, gradients, tensor subclasses).
    """
    names = _forwarded(exported)
    program = hold(unguarded(exported), guards_of(exported), lambda args, kwargs: _scope(names, args, kwargs))
    return as_described(program)


def guards_of(exported: ExportedProgram) -> tuple[str, ...]:
    """What torch found out about sizes, as expressions of ``L["name"].size()[i]``."""
    return tuple(getattr(exported, "_guards_code", None) or ())


def _scope(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name; those of ``*args``, which are named ``args_0`` and so on, as ``args`` too."""
    scope = {**dict(zip(names, args, strict=False)), **kwargs}
    several: dict[str, list[Any]] = {}
    for name, value in scope.items():
        base, _, number = name.rpartition("_")
        if number.isdigit() and len(several.setdefault(base, [])) == int(number):
            several[base].append(value)
    return {**several, **scope}


def unguarded(exported: ExportedProgram) -> Program:
    """`from_exported_program` without the guards."""
    _refuse_fake_constants(exported)
    _refuse_autocast(exported)
    held = {**exported.constants, **exported.state_dict}
    module, exported = functionalize(exported)
    signature = exported.graph_signature
    graph = module.graph
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    args_spec, kwargs_spec = exported.call_spec.in_spec.children()
    argument_names = _argument_names(exported, args_spec, kwargs_spec)
    user = 0
    for spec, node in zip(signature.input_specs, graph.find_nodes(op="placeholder"), strict=True):
        if spec.kind not in _INPUT_KINDS:
            raise CaptureError(
                f"input {node.name!r} is a {spec.kind.name.lower()}, which a Program cannot hold; "
                "pass its tensors as arguments"
            )
        kind = _INPUT_KINDS[spec.kind]
        if kind == "user":
            target = argument_names[user]
            user += 1
            if isinstance(spec.arg, ConstantArgument):
                node.meta["val"] = spec.arg.value
        else:
            assert spec.target is not None
            target = spec.target
            tensors[target] = held[target] if target in held else _tensor_of(exported, target)
            if is_traceable_wrapper_subclass(tensors[target]):
                raise CaptureError(
                    f"{target!r} is a {type(tensors[target]).__name__}, and a Program holds plain tensors; "
                    "take the subclass apart first (torch._functorch._aot_autograd.subclass_parametrization, or "
                    "what the library that made it offers)"
                )
        names[spec.arg.name] = target
        node.meta["role"] = Input(kind, target, persistent=spec.persistent is not False)  # type: ignore[arg-type]
    buffers = [spec.target for spec in signature.input_specs if spec.kind is InputKind.BUFFER and spec.target]
    roles, values = [], []
    output = graph.output_node()
    for spec, value in zip(signature.output_specs, output.args[0], strict=True):  # type: ignore[arg-type]
        if spec.kind not in _OUTPUT_KINDS:
            raise _refused_output(spec, graph)
        kind = _OUTPUT_KINDS[spec.kind]
        target_ = names.get(spec.target, spec.target) if kind == "input_mutation" else spec.target
        targets = [None if kind == "user" else target_]
        if kind == "buffer_mutation":
            assert target_ is not None
            old, new = tensors[target_], tensors[target_].detach().clone()
            tied = [name for name in buffers if tensors[name] is old]
            tensors.update(dict.fromkeys(tied, new))
            targets = [*tied]
        roles += [Output(kind, target) for target in targets]  # type: ignore[arg-type]
        values += [value] * len(targets)
    output.args = (tuple(values),)
    output.meta["roles"] = tuple(roles)
    _join_outputs(graph)
    return Program(
        graph_module=module,
        tensors=tensors,
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        ranges=dict(exported.range_constraints),
    )


def _refuse_fake_constants(exported: ExportedProgram) -> None:
    """Raise for a value that left the graph and came back: it has no memory that anything could read."""
    from torch._subclasses.fake_tensor import FakeTensor

    for name, value in exported.constants.items():
        if isinstance(value, FakeTensor):
            raise CaptureError(
                f"torch.export lost the origin of {name}, a computed value that it holds for a constant; "
                "reading a tensor's .data does that: read the tensor itself"
            )


_CAST_BY_AUTOCAST = frozenset(
    f"aten::{name}"
    for name in (
        *(
            "addbmm",
            "addmm",
            "baddbmm",
            "bmm",
            "einsum",
            "linear",
            "matmul",
            "mm",
            "scaled_dot_product_attention",
        ),
        *(
            "conv1d",
            "conv2d",
            "conv3d",
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose3d",
            "convolution",
        ),
    )
)
"""Operators that have halves as their results only if an operand has, or under autocast."""


def _refuse_autocast(exported: ExportedProgram) -> None:
    """Raise for a trace under `torch.autocast`, whose casts are no calls: the graph by itself has other dtypes."""
    for node in exported.graph.nodes:
        if not isinstance(node.target, OpOverload) or node.target._schema.name not in _CAST_BY_AUTOCAST:
            continue
        vals = [operand.meta.get("val") for operand in (node, *node.all_input_nodes)]
        result, *operands = (val.dtype for val in vals if isinstance(val, torch.Tensor))
        if result.is_floating_point and result not in operands and torch.float32 in operands:
            raise CaptureError(
                f"{node.target} gives {result} for operands of torch.float32, so the program was exported under "
                f"torch.autocast, whose casts it does not hold ({source_line(node) or 'no source line'}); give the "
                "module to capture under autocast, or enter it in the module's forward and export again"
            )


def to_exported_program(program: Program) -> ExportedProgram:
    """The `ExportedProgram` of *program*; `torch.export.save` takes it.

    An output that may share memory with a mutated buffer or argument is cloned,
    because `ExportedProgram.module` writes mutations before it returns.
    """
    from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature

    module, _ = copy_graph_module(program.graph_module)
    graph = module.graph
    state, constants = {}, {}
    input_specs, by_target = [], {}
    for node in graph.find_nodes(op="placeholder"):
        role: Input = node.meta["role"]
        if role.kind == "user" and node.name in program.tensors:
            node._rename(f"{node.name}_argument")  # torch's ExportedProgram.module mixes the two up
            node.target = node.name
        by_target[role.target] = node.name
        kind = next(k for k, v in _INPUT_KINDS.items() if v == role.kind)
        persistent = role.persistent if role.kind == "buffer" else None
        target = None if role.kind == "user" else role.target
        input_specs.append(InputSpec(kind, _argument(node), target, persistent))
        if role.kind == "user":
            continue
        tensor = program.tensors[role.target]
        if role.kind == "constant" or not role.persistent:
            constants[role.target] = tensor
        elif role.kind == "param" and not isinstance(tensor, torch.nn.Parameter):
            state[role.target] = torch.nn.Parameter(tensor, requires_grad=tensor.requires_grad)
        else:
            state[role.target] = tensor
    _separate_outputs(graph)
    output_specs = []
    for role_, value in zip(graph.output_node().meta["roles"], graph.output_node().args[0], strict=True):  # type: ignore[arg-type]
        kind_ = next(k for k, v in _OUTPUT_KINDS.items() if v == role_.kind)
        target = by_target[role_.target] if role_.kind == "input_mutation" else role_.target
        output_specs.append(OutputSpec(kind_, _argument(value), target))
    entry = ModuleCallEntry(
        fqn="",
        signature=ModuleCallSignature(
            inputs=[],
            outputs=[],
            in_spec=program.in_spec,
            out_spec=program.out_spec,
            forward_arg_names=_forward_arg_names(program),
        ),
    )
    exported = ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=ExportGraphSignature(input_specs, output_specs),
        state_dict=state,
        range_constraints=dict(program.ranges),
        module_call_graph=[entry],
        constants=constants,
    )
    # Torch reads them off the ShapeEnv, which passes ask about the example too; ours are assertions and ranges.
    exported._guards_code = []
    return exported


def to_module(program: Program) -> torch.nn.Module:
    """An ordinary `nn.Module` with the program's parameters and buffers.

    Its tensors are copies: training it or running it leaves *program* as it is.
    """
    return copy.deepcopy(program.to_exported_program().module())


def to_graph_module(program: Program) -> fx.GraphModule:
    """A plain `GraphModule` with ``get_attr`` parameters, for other FX tools.

    Its inputs are the flat user inputs and its outputs the flat outputs,
    mutations included; the roles stay on the nodes, so that
    `graph_module_pass` finds them again.
    """
    module, _ = copy_graph_module(program.graph_module)
    graph = module.graph
    root = torch.nn.Module()
    for name, body in module.named_children():
        root.add_module(name, body)
    first = next(node for node in graph.nodes if node.op != "placeholder")
    for node in graph.find_nodes(op="placeholder"):
        role: Input = node.meta["role"]
        if role.kind == "user":
            continue
        _set_tensor(root, role, program.tensors[role.target])
        with graph.inserting_before(first):
            getter = graph.create_node("get_attr", role.target, name=node.name + "_attr")
        getter.meta.update(node.meta)
        node.replace_all_uses_with(getter)
        graph.erase_node(node)
    return fx.GraphModule(root, graph)


def to_networkx(program: Program) -> Any:
    """The dataflow of *program* as a `networkx.DiGraph`, an edge from each value to each user of it.

    Nodes are the names in the graph, with the attributes ``op``, ``target`` (an
    operator, or the name of a tensor or argument), ``type`` (text such as
    ``f32[2, 3]``), ``val`` (the fake value) and ``source`` (the user's line or
    None). Calls inside control-flow bodies are not shown.
    """
    import networkx

    graph = networkx.DiGraph()
    symbols = SymbolNames()
    for node in program.graph.nodes:
        role = node.meta.get("role")
        val = node.meta.get("val")
        graph.add_node(
            node.name,
            op=node.op,
            target=node.target if role is None else role.target,
            type=symbols.type_text(val),
            val=val,
            source=source_line(node),
        )
        graph.add_edges_from((operand.name, node.name) for operand in node.all_input_nodes)
    return graph


def graph_module_pass(function: Callable[[fx.GraphModule], Any]) -> Callable[[Program], Program]:
    """Adapter: lets a ``GraphModule -> GraphModule`` pass take part in a `Pipeline`.

    The pass gets the form of `to_graph_module` (it may also change it in place
    and return None, or return a `PassResult`). Afterwards parameters are lifted
    again, and fake values are computed where a node has none.

    Raises:
        FxpassesError: the pass changed the number of inputs or outputs, or left
            a call that a program cannot hold.
    """

    def run(program: Program) -> Program:
        module = to_graph_module(program)
        result = function(module)
        result = getattr(result, "graph_module", result)
        return _from_graph_module(result if isinstance(result, fx.GraphModule) else module, program)

    run.__name__ = getattr(function, "__name__", type(function).__name__)
    run.__doc__ = getattr(function, "__doc__", None)
    return run


def _from_graph_module(module: fx.GraphModule, program: Program) -> Program:
    from fxpasses.graph_modules import body_of

    graph, bodies = fx.Graph(), {}
    mapping: dict[fx.Node, fx.Node] = {}
    tensors: dict[str, torch.Tensor] = {}
    by_target: dict[str, fx.Node] = {}
    fake_mode = program.fake_mode
    kinds = dict(module.named_parameters(remove_duplicate=False))
    known = {node.meta["role"].target: node.meta["role"] for node in program.placeholders}
    for node in module.graph.find_nodes(op="get_attr"):
        if body_of(node) is not None:
            continue
        target = str(node.target)
        if target not in by_target:
            try:
                tensor = operator.attrgetter(target)(module)
            except AttributeError as error:
                raise FxpassesError(
                    f"get_attr node {node.name!r} names {target!r}, which the module lacks"
                ) from error
            role = known.get(target) or Input("param" if target in kinds else "constant", target)
            lifted = graph.placeholder("t_" + re.sub(r"\W", "_", target))
            same = node.meta.get("val") if target in known else None
            lifted.meta = dict(node.meta)
            lifted.meta.update(role=role, val=same if same is not None else fake_tensor(fake_mode, tensor))
            tensors[target] = program.tensors[target] if tensor is program.tensors.get(target) else tensor
            by_target[target] = lifted
        mapping[node] = by_target[target]
    user = module.graph.find_nodes(op="placeholder")
    if len(user) != len(program.inputs):
        raise FxpassesError(
            f"the pass left {len(user)} inputs of {len(program.inputs)}; inputs may not be added or removed"
        )
    for node, before in zip(user, program.inputs, strict=True):
        mapping[node] = graph.node_copy(node, mapping.__getitem__)
        mapping[node].meta = dict(before.meta)
    for node in module.graph.nodes:
        if node in mapping:
            continue
        if node.op in ("call_module", "call_method"):
            raise FxpassesError(
                f"the pass left the {node.op} {node.format_node()}; a Program holds call_function nodes only"
            )
        mapping[node] = new = graph.node_copy(node, mapping.__getitem__)
        if node.op == "get_attr":
            bodies[str(node.target)] = body_of(node)
        elif node.op == "call_function":
            new.meta["val"] = fake_value(fake_mode, new)
    output, before = graph.output_node(), program.output
    if not isinstance(output.args[0], tuple | list) or len(output.args[0]) != len(before.args[0]):  # type: ignore[arg-type]
        raise FxpassesError("the pass changed the number of outputs")
    output.args = (tuple(output.args[0]),)
    output.meta["roles"] = before.meta["roles"]
    return program.replace(graph_module=make_graph_module(graph, bodies), tensors=tensors)  # type: ignore[arg-type]


def _refused_output(spec: OutputSpec, graph: fx.Graph) -> CaptureError:
    name = getattr(spec.arg, "name", None)
    node = next((n for n in graph.nodes if n.name == name), None)
    line = source_line(node) if node is not None else None
    if spec.kind == OutputKind.PARAMETER_MUTATION:
        return CaptureError(
            f"the code changes parameter {spec.target!r} in place ({line or 'no source line is known'}), and the "
            "parameters of a Program are constant; register it as a buffer (self.register_buffer) or compute a new "
            "tensor"
        )
    return CaptureError(
        f"output {name or spec.arg!r} is a {spec.kind.name.lower()}, which a Program cannot hold; capture the "
        "forward pass of the model in eval mode"
    )


# -- helpers -------------------------------------------------------------------------


def _tensor_of(exported: ExportedProgram, target: str) -> torch.Tensor:
    if target in exported.state_dict:
        return exported.state_dict[target]
    return exported.constants[target]  # type: ignore[return-value]


_ARGUMENT = " (argument)"  # after the name of an argument that a tensor of the model has too


def _argument_names(exported: ExportedProgram, args_spec: Any, kwargs_spec: Any) -> list[str]:
    """A unique name for each flat user input: ``x``, ``xs[0]``, ``batch['mask']``."""
    given = _forwarded(exported)
    placeholders = [
        s.arg.name for s in exported.graph_signature.input_specs if s.kind == InputKind.USER_INPUT
    ]
    tops: list[tuple[str | None, Any]] = [
        (given[i] if i < len(given) else None, child) for i, child in enumerate(args_spec.children())
    ]
    tops += list(zip(kwargs_spec.context, kwargs_spec.children(), strict=True))
    names: list[str] = []
    for name, spec in tops:
        if name is None:
            names += placeholders[len(names) : len(names) + spec.num_leaves]
        else:
            names += [name + path for path in _leaf_paths(spec)]
    for index, name in enumerate(names):
        if name in names[:index]:
            names[index] = placeholders[index]
    held = {spec.target for spec in exported.graph_signature.input_specs}
    return [f"{name}{_ARGUMENT}" if name in held else name for name in names]


def _forwarded(exported: ExportedProgram) -> list[str]:
    """What the code calls its arguments, as far as that is known."""
    entry = exported.module_call_graph[0].signature if exported.module_call_graph else None
    return list(entry.forward_arg_names or []) if entry is not None else []


_SEPARATED = "fxpasses.separated"  # in the metadata that a .pt2 file keeps


def _leaf_paths(spec: pytree.TreeSpec) -> list[str]:
    """``["[0]", "['mask']", ...]``, as `torch.utils._pytree.keystr` writes them; numbered where that fails."""
    try:
        tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
        paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except Exception:  # the code of a container that takes nothing but tensors
        paths = []
    return paths if len(paths) == spec.num_leaves else [f"[{index}]" for index in range(spec.num_leaves)]


def _separate_outputs(graph: fx.Graph) -> None:
    """Clone each output that may be a view of a placeholder that an output mutates.

    And each new value of two mutations: torch's signature knows mutations by
    the name of the value.
    """
    output = graph.output_node()
    values, roles = list(output.args[0]), output.meta["roles"]  # type: ignore[arg-type]
    mutated = {role.target for role in roles if role.target is not None}
    written: set[fx.Node] = set()
    for index, (value, role) in enumerate(zip(values, roles, strict=True)):
        if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), torch.Tensor):
            continue
        sources = {node.meta["role"].target for node in _may_share_memory(value)}
        own = (
            {role.target} if value.op == "placeholder" else set()
        )  # a view of what it is written to may overlap
        if sources & (mutated - own) or (role.target is not None and value in written):
            with graph.inserting_before(output):
                values[index] = graph.call_function(torch.ops.aten.clone.default, (value,))
            values[index].meta.update(value.meta, custom={**value.meta.get("custom", {}), _SEPARATED: True})
        elif role.target is not None:
            written.add(value)
    output.args = (tuple(values),)


def _join_outputs(graph: fx.Graph) -> None:
    """Take away what `_separate_outputs` added: an output of a program is a value, not a piece of memory."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.clone.default):
        if _SEPARATED in node.meta.get("custom", {}):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _may_share_memory(value: fx.Node) -> set[fx.Node]:
    """The placeholders that *value* may be a view of.

    Schemas tell (see `shared_arguments`), except for composite operators, which
    may return an operand itself (`dropout`) or a view of one (`einsum`) without.
    """
    found, queue = set(), [value]
    while queue:
        node = queue.pop()
        op = node.target
        if node.op == "placeholder":
            found.add(node)
        elif not isinstance(op, OpOverload) or op._can_decompose():
            queue += node.all_input_nodes
        else:
            names = [argument.name for argument in op._schema.arguments]
            given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            for name in shared_arguments(op) & given.keys():
                queue += [item for item in pytree.tree_leaves(given[name]) if isinstance(item, fx.Node)]
    return found


def _forward_arg_names(program: Program) -> list[str]:
    args_spec, kwargs_spec = program.in_spec.children()
    flat = [node.meta["role"].target.removesuffix(_ARGUMENT) for node in program.inputs]
    names, position = [], 0
    for index, child in enumerate(args_spec.children()):
        base = flat[position].split("[")[0].split(".")[0] if child.num_leaves else f"arg{index}"
        names.append(base if base.isidentifier() and base not in names else f"arg{index}")
        position += child.num_leaves
    return names + list(kwargs_spec.context)


def _argument(value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return ConstantArgument(name="", value=value)
    val = value.meta.get("val")
    if isinstance(val, torch.SymInt):
        return SymIntArgument(name=value.name)
    if isinstance(val, torch.SymFloat):
        return SymFloatArgument(name=value.name)
    if isinstance(val, torch.SymBool):
        return SymBoolArgument(name=value.name)
    if isinstance(val, torch.Tensor):
        return TensorArgument(name=value.name)
    return ConstantArgument(name=value.name, value=val)


def _set_tensor(root: torch.nn.Module, role: Input, tensor: torch.Tensor) -> None:
    owner = root
    *path, name = role.target.split(".")
    for part in path:
        if not hasattr(owner, part):
            owner.add_module(part, torch.nn.Module())
        owner = getattr(owner, part)
    if role.kind == "param":
        if not isinstance(tensor, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor, requires_grad=tensor.requires_grad)
        owner.register_parameter(name, tensor)
    else:
        owner.register_buffer(name, tensor, persistent=role.persistent)
