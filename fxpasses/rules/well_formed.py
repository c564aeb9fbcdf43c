"""Rules that hold for every program, after every pass."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from fxpasses.errors import FxpassesError
from fxpasses.fingerprint import target_name
from fxpasses.graph_modules import body_of
from fxpasses.program import Input
from fxpasses.rules.subject import NUMBER, SYMBOLIC, Subject, flat, free_symbols, is_unbacked, show, type_text
from fxpasses.rules.table import Findings, rule
from fxpasses.schema import SYMBOLIC_BUILTINS, bind, is_data_dependent, is_functional
from fxpasses.signature import determined_by
from fxpasses.tracing.fake_values import same_type

if TYPE_CHECKING:
    import sympy

# -- well-formed: structure ----------------------------------------------------------------


@rule("graph", "well-formed")
def _graph(subject: Subject) -> Findings:
    """Every graph passes fx's lint: values before uses, unique names, placeholders first, output last."""
    for module in subject.modules:
        graph, seen, names, found = module.graph, set(), set(), False
        started = ended = False
        for node in graph.nodes:
            for arg in node.all_input_nodes:
                if arg not in seen:
                    found = True
                    why = (
                        "is computed later"
                        if arg.graph is graph and not arg._erased
                        else "is not in the graph"
                    )
                    yield node, f"uses {arg.name}, which {why}"
            if node.name in names:
                found = True
                yield node, f"the name {node.name!r} is taken by an earlier node"
            if node.op == "placeholder" and started:
                yield node, "a placeholder stands after the first call; placeholders come first"
            if ended:
                yield node, "stands after the output, which comes last"
            started |= node.op != "placeholder"
            ended |= node.op == "output"
            seen.add(node)
            names.add(node.name)
        if not ended:
            found = True
            yield None, f"the graph {subject._paths[graph] or 'of the program'} has no output node"
        if not found:
            try:
                graph.lint()
            except (RuntimeError, ValueError) as error:
                yield None, f"fx's lint fails: {str(error).splitlines()[0]}"


@rule("nodes", "well-formed")
def _nodes(subject: Subject) -> Findings:
    """A node is a placeholder, a call_function, the output, or the get_attr of a control-flow body."""
    for node in subject.nodes:
        if node.op == "get_attr":
            if body_of(node) is None:
                yield (
                    node,
                    f"get_attr of {node.target!r}, which is no control-flow body; tensors are placeholders",
                )
        elif node.op not in ("placeholder", "call_function", "output"):
            yield node, f"is a {node.op} of {node.target!r}; spell it as calls of operators"


@rule("roles", "well-formed")
def _roles(subject: Subject) -> Findings:
    """Every placeholder has a role of a known kind and a target of its own; those of bodies have none."""
    seen: dict[str, fx.Node] = {}
    for node in subject.placeholders:
        role = node.meta.get("role")
        if not isinstance(role, Input):
            yield node, f"meta['role'] is {role!r}; every placeholder needs an fxpasses.program.Input"
            continue
        if role.kind not in ("user", "param", "buffer", "constant"):
            yield node, f"has a role of unknown kind {role.kind!r}"
        first = seen.setdefault(role.target, node)
        if first is not node:
            yield node, f"stands for {role.target!r}, and so does {first.name}"
    for body in subject.modules[1:]:
        for node in body.graph.find_nodes(op="placeholder"):
            if "role" in node.meta:
                yield node, "has a role, but is the operand of a control-flow body, which has none"


@rule("tensors", "well-formed")
def _tensors(subject: Subject) -> Findings:
    """Tensors and placeholders stand for each other one to one; dtype, shape and device agree."""
    tensors = subject.program.tensors
    named = {role.target for _, role in subject.inputs if role.kind != "user"}
    for name in tensors:
        if name not in named:
            yield None, f"program.tensors has {name!r}, which no placeholder stands for"
    for node, role in subject.inputs:
        if role.kind == "user":
            continue
        if role.target not in tensors:
            yield node, f"stands for the {role.kind} {role.target!r}, which program.tensors lacks"
            continue
        tensor, val = tensors[role.target], node.meta.get("val")
        if not isinstance(val, torch.Tensor) or not same_type(val, tensor):
            yield (
                node,
                f"meta['val'] is {type_text(val)}, but the tensor {role.target!r} is {type_text(tensor)}",
            )
        elif val.device != tensor.device:
            yield node, f"meta['val'] is on {val.device}, but the tensor {role.target!r} on {tensor.device}"


@rule("outputs", "well-formed")
def _outputs(subject: Subject) -> Findings:
    """Each returned value has a role; a mutation's target exists, is written once, and keeps its type."""
    for node in subject.program.graph.find_nodes(op="output"):
        values, roles = node.args[0] if node.args else None, node.meta.get("roles")
        if not isinstance(values, tuple | list):
            yield node, f"returns {values!r}; a program returns a flat tuple"
            continue
        if not isinstance(roles, tuple | list) or len(roles) != len(values):
            count = len(roles) if isinstance(roles, tuple | list) else "no"
            yield node, f"returns {len(values)} values, but meta['roles'] has {count} roles"
    inputs = {role.target: (node, role) for node, role in subject.inputs}
    output = next(iter(subject.program.graph.find_nodes(op="output")), None)
    written: set[str | None] = set()
    for role, value in subject.outputs():
        if role.kind == "user":
            if role.target is not None:
                yield output, f"a user output has the target {role.target!r}; only a mutation has one"
            continue
        if role.kind not in ("buffer_mutation", "input_mutation"):
            yield output, f"has a role of unknown kind {role.kind!r}"
            continue
        if role.target in written:
            yield output, f"{role.target!r} is mutated twice"
        written.add(role.target)
        target, owner = inputs.get(role.target or "", (None, None))
        wanted = "user" if role.kind == "input_mutation" else "buffer"
        if target is None or owner is None or owner.kind != wanted:
            what = "user input" if wanted == "user" else "buffer"
            yield output, f"mutates {role.target!r}, which is no {what} of the program"
            continue
        before = target.meta.get("val")
        after = value.meta.get("val") if isinstance(value, fx.Node) else value
        if not isinstance(after, torch.Tensor) or not same_type(before, after):
            node = value if isinstance(value, fx.Node) else output
            yield (
                node,
                f"is the new value of {role.target!r}, which is {type_text(before)}, "
                f"but has the type {type_text(after)}",
            )


@rule("mutations-kept", "well-formed")
def _mutations_kept(subject: Subject) -> Findings:
    """A pass keeps every mutation, the user inputs and both pytree structures (checked with before=)."""
    if subject.before is None:
        return
    before, after = subject.before, {role.target for role, _ in subject.outputs()}
    for name, value in before.mutations.items():
        # The new value of `buffer := buffer` may be dropped: nothing changes.
        unchanged = value.op == "placeholder" and value.meta["role"].target == name
        if name not in after and not unchanged:
            yield None, f"the mutation of {name!r} was dropped; it is an output of the program before"
    known = before.mutations
    for role, _ in subject.outputs():
        if role.kind != "user" and role.target not in known:
            yield None, f"a mutation of {role.target!r} was added; the program before has none"
    names = [node.meta["role"].target for node in before.inputs]
    now = [role.target for _, role in subject.inputs if role.kind == "user"]
    if names != now:
        yield None, f"the user inputs were ({', '.join(names)}) and are now ({', '.join(now)})"
    for name in ("in_spec", "out_spec"):
        if getattr(before, name) != getattr(subject.program, name):
            yield None, f"{name} was changed; callers would no longer fit"


@rule("structure", "well-formed")
def _structure(subject: Subject) -> Findings:
    """in_spec and out_spec have a leaf for each user input and each user output."""
    program = subject.program
    user_inputs = sum(role.kind == "user" for _, role in subject.inputs)
    user_outputs = sum(role.kind == "user" for role, _ in subject.outputs())
    for name, spec, count in (
        ("in_spec", program.in_spec, user_inputs),
        ("out_spec", program.out_spec, user_outputs),
    ):
        if spec.num_leaves != count:
            what = "user inputs" if name == "in_spec" else "user outputs"
            yield None, f"{name} has {spec.num_leaves} leaves, but there are {count} {what}"
    children = program.in_spec.children() if not program.in_spec.is_leaf() else []
    if [child.type for child in children] != [tuple, dict]:
        yield None, "in_spec is not the structure of (args, kwargs)"


# -- well-formed: values and calls -----------------------------------------------------------


@rule("values", "well-formed")
def _values(subject: Subject) -> Findings:
    """Every value has a fake meta["val"], and all are of one FakeTensorMode."""
    mode = subject.fake_mode
    for node in subject.nodes:
        if node.op not in ("placeholder", "call_function"):
            continue
        if "val" not in node.meta:
            if isinstance(node.target, OpOverload) and not node.target._schema.returns:
                continue
            yield node, "has no meta['val']; make calls with Editor.call, which computes it"
            continue
        for item in flat(node.meta["val"]):
            if isinstance(item, FakeTensor):
                if item.fake_mode is not mode:
                    yield node, "its meta['val'] belongs to another FakeTensorMode than the program's"
            elif isinstance(item, torch.Tensor):
                yield node, "its meta['val'] is a real tensor, not a fake one"
            elif isinstance(item, SYMBOLIC) and mode and item.node.shape_env is not mode.shape_env:
                yield node, "its meta['val'] belongs to another ShapeEnv than the program's"


@rule("targets", "well-formed")
def _targets(subject: Subject) -> Findings:
    """A call is of a functional operator overload, getitem, a symbolic builtin or a higher-order operator."""
    for node in subject.nodes:
        if node.op != "call_function":
            continue
        target = node.target
        if isinstance(target, OpOverload):
            if not is_functional(target):
                yield (
                    node,
                    f"{target} changes its argument; express the change as a value and a mutation output",
                )
        elif not (
            target is operator.getitem
            or target in SYMBOLIC_BUILTINS
            or isinstance(target, HigherOrderOperator)
        ):
            yield node, f"calls {target_name(target)}, which is no operator overload"


@rule("arguments", "well-formed")
def _check_arguments(subject: Subject) -> Findings:
    """The arguments of a call bind to the operator's schema and have its types."""
    for call in subject.calls:
        try:
            bind(call.op, call.node.args, call.node.kwargs)
        except FxpassesError as error:
            yield call.node, str(error)
            continue
        for argument in call.arguments:
            if argument.name in call.given and not argument.fits(call.given[argument.name]):
                value = call.given[argument.name]
                hint = "; a symbolic size is a node" if isinstance(value, SYMBOLIC) else ""
                yield (
                    call.node,
                    f"argument {argument.name!r} of {call.op} is {show(value)}, "
                    f"not of type {argument.type_text}{hint}",
                )
    for node in subject.nodes:
        if node.op != "call_function" or isinstance(node.target, OpOverload):
            continue
        if node.target is operator.getitem:
            yield from _getitem(node)
        elif node.target in SYMBOLIC_BUILTINS:
            for arg in flat(node.args):
                value = arg.meta.get("val", 0) if isinstance(arg, fx.Node) else arg
                if not isinstance(value, NUMBER) or isinstance(arg, SYMBOLIC):
                    yield node, f"an argument of {target_name(node.target)} is {show(arg)}, not a size"


def _getitem(node: fx.Node) -> Findings:
    if len(node.args) != 2 or node.kwargs or not isinstance(node.args[0], fx.Node):
        yield node, "getitem takes a value and an index"
        return
    source, index = node.args
    val = source.meta.get("val", ())  # type: ignore[union-attr]
    if not isinstance(val, tuple | list):
        yield node, f"getitem of {show(source)}, which has one result; index tensors with select or slice"
    elif not isinstance(index, int) or not 0 <= index < len(val):
        yield node, f"getitem takes result {index!r} of {source}, which has {len(val)}"  # type: ignore[str-bytes-safe]
    elif not same_type(node.meta.get("val"), val[index]):
        yield (
            node,
            f"is {type_text(node.meta.get('val'))}, but result {index} of {source} "
            f"is {type_text(val[index])}",
        )


@rule("bodies", "well-formed")
def _bodies(subject: Subject) -> Findings:
    """A control-flow body is an argument of a higher-order operator; those of cond fit their operands."""
    for node in subject.nodes:
        if node.op == "get_attr":
            for user in node.users:
                if not isinstance(user.target, HigherOrderOperator):
                    yield user, f"uses the control-flow body {node.name} as a value"
        elif node.op == "call_function" and node.target is torch.ops.higher_order.cond:
            yield from _cond(node)


def _cond(node: fx.Node) -> Findings:
    if len(node.args) != 4 or not isinstance(node.args[3], tuple | list):
        yield node, "cond takes a predicate, two bodies and a list of operands"
        return
    operands = [arg.meta.get("val") if isinstance(arg, fx.Node) else arg for arg in node.args[3]]
    for branch in node.args[1:3]:
        body = body_of(branch) if isinstance(branch, fx.Node) else None
        if body is None:
            yield node, f"the branch {branch} of cond is no control-flow body"
            continue
        parameters = [n.meta.get("val") for n in body.graph.nodes if n.op == "placeholder"]
        if not same_type(parameters, operands):
            yield node, f"passes {type_text(operands)} to {branch}, which takes {type_text(parameters)}"
        returned = next((n.args[0] for n in body.graph.nodes if n.op == "output"), None)
        values = [v.meta.get("val") if isinstance(v, fx.Node) else v for v in flat(returned)]
        results = list(flat(node.meta.get("val")))
        # Sizes may differ between the branches; the result then has a size of its own.
        if [_kind(v) for v in values] != [_kind(v) for v in results]:
            yield node, f"is {type_text(results)}, but its branch {branch} returns {type_text(values)}"


def _kind(val: Any) -> Any:
    return (val.dtype, val.dim()) if isinstance(val, torch.Tensor) else val is None


@rule("symbols", "well-formed")
def _symbols(subject: Subject) -> Findings:
    """Every symbol of a size is the size of an input, with a range, or comes from a data-dependent call."""
    bound = {
        symbol
        for node, role in subject.inputs
        if role.kind == "user"
        for symbol in _bound_by(node.meta.get("val"))
    }
    reported: set[sympy.Symbol] = set()
    for node in subject.nodes:
        for symbol in free_symbols(node.meta.get("val")):
            if symbol in reported:
                continue
            if symbol in bound:
                if symbol not in subject.program.ranges:
                    reported.add(symbol)
                    yield node, f"the symbol {symbol} has no range in program.ranges"
            elif is_unbacked(symbol):
                if _may_make_symbols(node):
                    bound.add(symbol)
                    reported.add(symbol)  # needs no range
                else:
                    reported.add(symbol)
                    yield node, f"the symbol {symbol} is made by no data-dependent call"
            else:
                reported.add(symbol)
                yield node, f"the symbol {symbol} cannot be read off the shape of any input"


def _bound_by(val: Any) -> Iterator[sympy.Symbol]:
    """The symbols that an input determines: those of dims like ``s0`` or ``2*s0 + 1``."""
    for size in val.shape if isinstance(val, torch.Tensor) else (val,):
        if isinstance(size, torch.SymInt):
            yield from determined_by(size.node.expr)


def _may_make_symbols(node: fx.Node) -> bool:
    """Whether sizes of the node's value may depend on data."""
    target = node.target
    if isinstance(target, OpOverload):
        return is_data_dependent(target) or target.namespace not in ("aten", "prims", "prim")
    # The carried values of a loop are placeholders of its body.
    return isinstance(target, HigherOrderOperator) or (node.op == "placeholder" and "role" not in node.meta)
