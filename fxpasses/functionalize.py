"""`functionalize`: an `ExportedProgram` without calls that change their arguments.

Torch's own functionalisation traces the whole graph again, which costs as much
as the export. Most graphs do not need it: they mutate nothing, or they apply
``relu_`` and its like to a fresh value that nothing else can see. Those are
rewritten in place; for everything else torch does the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import fx
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from fxpasses.errors import CaptureError, source_line
from fxpasses.graph_modules import body_of, copy_graph_module, graph_modules
from fxpasses.schema import bind, is_functional
from fxpasses.tracing.fake_values import fake_value, same_type
from fxpasses.tracing.python_kernels import python_kernels

__all__ = ["functionalize", "replace_fresh_mutations"]

aten = torch.ops.aten

# Operators that change the running statistics they are given although their schema does not
# say so, and the flag that decides it.
_HIDDEN_MUTATION = {
    "aten::batch_norm": "training",
    "aten::_batch_norm_impl_index": "training",
    "aten::native_batch_norm": "training",
    "aten::cudnn_batch_norm": "training",
    "aten::instance_norm": "use_input_stats",
}


# Torch keeps these composites whole where it functionalises: the mutation that one makes
# would be lost with it, and that the others may give back their argument or a view of it.
_DECOMPOSED = {
    op: partial(op._op_dk, DispatchKey.CompositeImplicitAutograd)
    for op in (
        aten.instance_norm.default,
        aten.einsum.default,
        aten.broadcast_tensors.default,
        aten.feature_dropout.default,
        aten.alpha_dropout.default,
        aten.feature_alpha_dropout.default,
    )
}

# In-place operators that change nothing unless they train (argument 2).
_DROPOUTS = frozenset(
    {
        aten.dropout_.default,
        aten.feature_dropout_.default,
        aten.alpha_dropout_.default,
        aten.feature_alpha_dropout_.default,
    }
)

# Composite operators that never return their argument or a view of it.
_FRESH_COMPOSITES = frozenset(
    {
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.conv1d.padding,
        aten.conv2d.padding,
        aten.conv3d.padding,
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
        aten.linear.default,
        aten.matmul.default,
        aten.batch_norm.default,
        aten.layer_norm.default,
        aten.group_norm.default,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.max_pool3d.default,
        aten.adaptive_avg_pool2d.default,
    }
)


def _dropout(input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """As in eager PyTorch: torch's own kernel for tracing gives a copy where nothing is dropped."""
    return aten.native_dropout.default(input, p, train)[0] if train and p else input


def functionalize(exported: ExportedProgram) -> tuple[fx.GraphModule, ExportedProgram]:
    """A functional copy of the graph, and the exported program whose signature fits it.

    Raises:
        CaptureError: a call writes to a tensor whose elements share memory, as those of ``expand`` do.
    """
    module, _ = copy_graph_module(exported.graph_module)
    _refuse_overlapping_writes(module)
    _inline_regions(module)
    has_transforms = any(map(_is_transform, module.graph.nodes))
    if not has_transforms:
        replace_fresh_mutations(module)
    if has_transforms or not _is_functional(module):
        with (
            python_kernels({aten.dropout.default: {DispatchKey.CompositeImplicitAutograd: _dropout}}),
            _untied(exported),
        ):
            exported = exported.run_decompositions(_DECOMPOSED)
        module, _ = copy_graph_module(exported.graph_module)
        _inline_regions(module)
    return module, exported


@contextmanager
def _untied(exported: ExportedProgram) -> Iterator[None]:
    """A copy of a buffer under each name that the graph does not read; AOT autograd fails where it is written to."""
    read = {node.name for node in exported.graph.find_nodes(op="placeholder") if node.users}
    unread = {
        spec.target
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.BUFFER and spec.arg.name not in read
    }
    before = [(held, held.copy()) for held in (exported.state_dict, exported.constants)]
    for held, tensors in before:
        held.update({name: tensors[name].detach().clone() for name in unread & tensors.keys()})
    try:
        yield
    finally:
        for held, tensors in before:
            held.update(tensors)


def _refuse_overlapping_writes(module: fx.GraphModule) -> None:
    """Most of these raise in eager PyTorch; of the others, torch's functionalisation makes other values."""
    for body in graph_modules(module):
        for node in body.graph.nodes:
            if node.op != "call_function" or not isinstance(node.target, OpOverload):
                continue
            for value in _written(node, node.target):
                if any(map(_repeats, value.meta["val"].shape, value.meta["val"].stride())):
                    raise CaptureError(
                        f"{node.target} writes to {value.name!r}, of which several elements are one place in memory, "
                        f"as those of expand are ({source_line(node) or 'no source line'}); write to a copy"
                    )


def _written(node: fx.Node, op: OpOverload) -> Iterator[fx.Node]:
    """The tensors that a call changes."""
    names = [a.name for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if names:
        args, kwargs = bind(op, node.args, node.kwargs)
        if op in _DROPOUTS and not args[2]:
            return
        given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
        for name in names:
            value = given[name]
            if isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor):
                yield value


def _repeats(size: Any, stride: Any) -> bool:
    return isinstance(stride, int) and stride == 0 and not (isinstance(size, int) and size <= 1)


def _is_transform(node: fx.Node) -> bool:
    """Whether *node* begins or ends a region of `torch.func`, whose values are of one sample, or of a gradient."""
    return getattr(node.target, "__module__", None) == "torch._functorch.predispatch"


def _is_functional(module: fx.GraphModule) -> bool:
    """Whether every call leaves its arguments alone, bodies included."""
    for node in module.graph.nodes:
        body = body_of(node)
        if body is not None and not _is_functional(body):
            return False
        if node.op != "call_function":
            continue
        if isinstance(node.target, HigherOrderOperator):
            if node.target.__name__.startswith("wrap_with"):
                return False
        elif isinstance(node.target, OpOverload) and not _leaves_arguments(node, node.target):
            return False
    return True


def _leaves_arguments(node: fx.Node, op: OpOverload) -> bool:
    name = op._schema.name
    if not is_functional(op) or (name.endswith("_") and not name.endswith("__")):
        return False
    flag = _HIDDEN_MUTATION.get(name)
    if flag is None:
        return True
    args, kwargs = bind(op, node.args, node.kwargs)
    names = [argument.name for argument in op._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return not given.get(flag) or (given["running_mean"] is None and given["running_var"] is None)


# -- regions ---------------------------------------------------------------------------

# Where the body of a region, and the first of its operands, stand among the arguments.
_REGIONS = {
    "wrap_with_set_grad_enabled": (1, 2),
    "wrap_with_autocast": (4, 5),
    "tag_activation_checkpoint": (0, 1),
    "invoke_subgraph": (0, 2),
}


def _inline_regions(module: fx.GraphModule) -> None:
    """Put the bodies of regions in their place: inference has no gradients, and computes nothing twice.

    A region of autocast is inlined where autocast is off in it; elsewhere it
    decides dtypes, and torch has to trace it.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, HigherOrderOperator):
            continue
        name = node.target.__name__
        if name not in _REGIONS or (name == "wrap_with_autocast" and node.args[2] is not False):
            continue
        body_at, operands_at = _REGIONS[name]
        getter = node.args[body_at]
        body = body_of(getter)
        if body is None:
            continue
        _inline_regions(body)
        operands = node.args[operands_at:]
        mapping = dict(zip(body.graph.find_nodes(op="placeholder"), operands, strict=True))
        with module.graph.inserting_before(node):
            for inner in body.graph.nodes:
                if inner.op == "placeholder":
                    continue
                if inner.op == "output":
                    results = fx.map_arg(inner.args[0], mapping.__getitem__)
                    break
                mapping[inner] = module.graph.node_copy(inner, mapping.__getitem__)
                inner_body = body_of(inner)
                if inner_body is not None:
                    unique = f"{getter.target}_{inner.target}"
                    module.add_module(unique, inner_body)
                    mapping[inner].target = unique
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        if not getter.users:
            module.graph.erase_node(getter)


# -- mutation that nothing else can see -----------------------------------------------


def replace_fresh_mutations(module: fx.GraphModule) -> None:
    """``relu_(x)`` becomes ``relu(x)`` where *x* is fresh and has no views."""
    position = {node: i for i, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if node.target in _DROPOUTS and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
            continue
        functional = _functional_twin(node)
        if functional is None:
            continue
        changed = node.args[0]
        if not (isinstance(changed, fx.Node) and _is_fresh(changed)):
            continue
        if not all(user is node or user.op == "output" or _is_fresh(user) for user in changed.users):
            continue
        with module.graph.inserting_before(node):
            new = module.graph.call_function(functional, node.args, node.kwargs)
        new.meta.update(node.meta)
        new.meta["val"] = fake_value(node.meta["val"].fake_mode, new)
        if not same_type(new.meta["val"], changed.meta["val"]):
            module.graph.erase_node(new)
            continue
        at = position[new] = position[node]
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
        later = {user for user in changed.users if position[user] > at}
        changed.replace_all_uses_with(new, delete_user_cb=later.__contains__)


def _functional_twin(node: fx.Node) -> OpOverload | None:
    """``aten.relu.default`` for a call of ``aten.relu_.default``, ``pow.Tensor_Scalar`` for one of ``pow_.Scalar``."""
    op: Any = node.target
    is_operator = node.op == "call_function" and isinstance(op, OpOverload) and op.namespace == "aten"
    return _twin(op) if is_operator else None


@cache
def _twin(op: OpOverload) -> OpOverload | None:
    """The functional overload that takes what *op*, which changes one argument, takes."""
    name = op._schema.name.split("::")[1]
    written = [a for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    packet = getattr(aten, name[:-1], None)
    if not name.endswith("_") or name.endswith("__") or len(written) != 1 or packet is None:
        return None
    twins = (getattr(packet, overload) for overload in packet.overloads())
    return next((twin for twin in twins if is_functional(twin) and _takes(twin) == _takes(op)), None)


def _takes(op: OpOverload) -> list[tuple[str, str]]:
    """Names and types of the arguments: overloads of the same name may differ in which of them are tensors."""
    return [(argument.name, str(argument.type)) for argument in op._schema.arguments]


def _is_fresh(node: fx.Node) -> bool:
    """Whether *node* is a call whose result shares no memory with its arguments."""
    op: Any = node.target
    if node.op != "call_function" or not isinstance(op, OpOverload):
        return False
    if any(result.alias_info is not None for result in op._schema.returns):
        # An in-place call gives its argument back; as a user of it, it is handled in its turn.
        return _functional_twin(node) is not None
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")
    return not composite or op in _FRESH_COMPOSITES
