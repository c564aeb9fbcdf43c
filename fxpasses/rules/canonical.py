"""Rules of the canonical form, which `canonicalize` brings about."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxpasses.errors import FxpassesError
from fxpasses.program import Input
from fxpasses.rules.subject import (
    NUMBER,
    Call,
    Subject,
    flat,
    free_symbols,
    ints,
    is_unbacked,
    show,
    type_text,
)
from fxpasses.rules.table import Findings, rule
from fxpasses.schema import checks_values, draws_random, is_assertion, is_canonical_target, is_functional

aten = torch.ops.aten

# -- canonical: operators and the form of their calls ------------------------------------------

# Spellings of layout and aliasing; a canonical value has neither.
_LAYOUT_OPS = frozenset(
    {
        "aten::_reshape_alias",
        "aten::_unsafe_view",
        "aten::alias",
        "aten::alias_copy",
        "aten::as_strided",
        "aten::as_strided_copy",
        "aten::clone",
        "aten::contiguous",
        "aten::detach",
        "aten::detach_copy",
        "aten::lift_fresh",
        "aten::lift_fresh_copy",
        "aten::view",
        "aten::view_copy",
    }
)
_LAYOUT_ARGUMENTS = ("device", "layout", "memory_format", "non_blocking", "pin_memory")


@rule("opset", "canonical")
def _opset(subject: Subject) -> Findings:
    """Every operator is of the canonical set: core ATen for inference, what has a lowering, what has no parts."""
    from fxpasses.passes.decompose import has_decomposition

    for call in subject.calls:
        if is_canonical_target(call.op) or call.op._schema.name in _LAYOUT_OPS or is_assertion(call.op):
            continue
        if has_decomposition(call.op) and not _draws(call):
            yield call.node, f"{call.op} is not in the canonical set; decompose_to_core_aten spells it out"


@rule("full-form", "canonical")
def _full_form(subject: Subject) -> Findings:
    """Every positional argument is present, every keyword-only one in kwargs, in the schema's order."""
    for call in subject.calls:
        positional = sum(not argument.kwarg_only for argument in call.arguments)
        keywords = [argument.name for argument in call.arguments if argument.kwarg_only]
        node = call.node
        if len(node.args) != positional or list(node.kwargs) != keywords:
            missing = [argument.name for argument in call.arguments if argument.name not in call.given]
            yield (
                node,
                f"{call.op} lacks {', '.join(missing)}; normalize_kwargs fills in defaults"
                if missing
                else f"arguments of {call.op} are by keyword or out of order; use normalize_kwargs",
            )


@rule("scalars", "canonical")
def _scalars(subject: Subject) -> Findings:
    """No Python number and no size stands in the place of a tensor."""
    for call in subject.calls:
        for argument in call.arguments:
            if not argument.takes_tensor or argument.name not in call.given:
                continue
            for item in flat(call.given[argument.name]):
                value = item.meta.get("val") if isinstance(item, fx.Node) else item
                if isinstance(value, NUMBER):
                    yield (
                        call.node,
                        f"{argument.name!r} of {call.op} is the number {item}; "
                        "use the .Scalar overload or a 0-d full",
                    )


# Arguments of pointwise operators that take no part in type promotion.
_UNPROMOTED = ("condition", "mask")
# Numbers that are operands, so that they are of the kind of the dtype: 2.0 beside floats, 2 beside ints.
_NUMBER_OPERANDS = ("exponent", "fill_value", "max", "min", "other", "self", "value")
# Reductions that would cast their operand on the way in.
_CASTING = frozenset({"aten::sum", "aten::mean", "aten::prod", "aten::cumsum", "aten::cumprod"})


@rule("promotion", "canonical")
def _promotion(subject: Subject) -> Findings:
    """No call casts: operands of pointwise calls and cat have one dtype, those of sums their result's."""
    for call in subject.calls:
        name, val = call.op._schema.name, call.node.meta.get("val")
        if call.op.namespace != "aten":
            continue
        pointwise = torch.Tag.pointwise in call.op.tags and name != "aten::_to_copy"
        operands = [node for argument, node in call.tensors() if argument not in _UNPROMOTED]
        dtypes = [node.meta["val"].dtype for node in operands]
        if any(dtype.is_complex for dtype in dtypes):
            continue
        if (pointwise or name in ("aten::cat", "aten::stack")) and len(set(dtypes)) > 1:
            spelled = ", ".join(f"{node.name}: {type_text(node.meta['val'])}" for node in operands)
            yield call.node, f"{call.op} has operands of several dtypes ({spelled}); cast with _to_copy"
            continue
        if not isinstance(val, torch.Tensor):
            continue
        if dtypes and dtypes[0] != val.dtype:
            implicit = pointwise and val.dtype.is_floating_point and not dtypes[0].is_floating_point
            if implicit or name in _CASTING:
                yield (
                    call.node,
                    f"{call.op} casts {dtypes[0]} to {val.dtype} by itself; cast with _to_copy",
                )
                continue
        if pointwise or name == "aten::full":
            dtype = dtypes[0] if dtypes else val.dtype
            for argument in _NUMBER_OPERANDS:
                number = call.given.get(argument)
                if isinstance(number, int | float) and type(number) is not _number_type(dtype, number):
                    yield (
                        call.node,
                        f"{argument!r} of {call.op} is {show(number)}, which is no number of {dtype}",
                    )


def _number_type(dtype: torch.dtype, number: Any) -> type:
    if dtype.is_complex:
        return type(number)
    return float if dtype.is_floating_point else bool if dtype == torch.bool else int


_SCALED = frozenset(
    f"aten::{name}" for name in ("add", "sub", "rsub", "addmm", "addmv", "addbmm", "addr", "baddbmm")
)


@rule("alpha-beta", "canonical")
def _alpha_beta(subject: Subject) -> Findings:
    """alpha and beta of additions and matrix products are 1."""
    for call in subject.calls:
        if call.op._schema.name in _SCALED:
            for name in ("alpha", "beta"):
                factor = call.given.get(name, 1)
                if isinstance(factor, fx.Node) or factor != 1:
                    yield call.node, f"{name} of {call.op} is {factor}; multiply it out"


_DIM_ARGUMENTS = ("axis", "dim", "dim0", "dim1", "dim2", "dims")
# The dim counts places between dims.
_INSERTING = ("aten::unsqueeze", "aten::stack")


@rule("dims", "canonical")
def _dims(subject: Subject) -> Findings:
    """Dims are in [0, rank), and a reduction lists those that it reduces."""
    # Rolling over no dims is not a reduction: it means the flattened tensor.
    for call in subject.calls:
        tensors = call.tensors()
        if call.op.namespace != "aten" or not tensors:
            continue
        operands = [node.meta["val"].dim() for name, node in tensors if name == tensors[0][0]]
        rank = max(operands)
        places = max(1, rank + (call.op._schema.name in _INSERTING))
        for argument in call.arguments:
            if argument.name not in _DIM_ARGUMENTS or argument.name not in call.given:
                continue
            value = call.given[argument.name]
            if argument.may_be_empty and not value and rank > 0 and call.op is not aten.roll.default:
                yield call.node, f"{argument.name!r} of {call.op} is {value}; list the dims"
            outside = [dim for dim in ints(value) if not 0 <= dim < places]
            if outside:
                yield call.node, f"{argument.name!r} of {call.op} is {value}, not within [0, {places})"


@rule("indices", "canonical")
def _indices(subject: Subject) -> Findings:
    """Constant indices are non-negative; the bounds of a slice are explicit and within the dim."""
    for call in subject.calls:
        name, given = call.op._schema.name, call.given
        if name not in _INDEXED:
            continue
        size = _size_at(given.get("self"), given.get("dim", 0))
        for argument in _INDEXED[name]:
            index = given.get(argument)
            if index is None:
                if argument in given:
                    yield call.node, f"{argument!r} of {call.op} is None; spell out the bound"
            elif isinstance(index, int) and index < 0:
                yield call.node, f"{argument!r} of {call.op} is {index}; count from the front"
            elif isinstance(index, int) and isinstance(size, int) and index >= size + (argument != "index"):
                yield call.node, f"{argument!r} of {call.op} is {index}, beyond the size {size} of the dim"
        start, end = given.get("start"), given.get("end")
        if isinstance(start, int) and isinstance(end, int) and 0 <= end < start:
            yield call.node, f"the slice ends at {end}, before its start {start}"


_INDEXED = {
    "aten::select": ("index",),
    "aten::select_scatter": ("index",),
    "aten::slice": ("start", "end"),
    "aten::slice_scatter": ("start", "end"),
}


def _size_at(node: Any, dim: Any) -> Any:
    val = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(val, torch.Tensor) or not isinstance(dim, int) or not -val.dim() <= dim < val.dim():
        return None
    return val.shape[dim]


@rule("sizes", "canonical")
def _sizes(subject: Subject) -> Findings:
    """Sizes are spelled out, without -1, and symbolic ones are read from the inputs."""
    for call in subject.calls:
        for name in ("size", "shape"):
            if call.op.namespace == "aten" and any(size < 0 for size in ints(call.given.get(name))):
                yield call.node, f"{name!r} of {call.op} is {call.given[name]}; spell out the size"
        if call.op is aten.sym_size.int:
            source, val = call.given.get("self"), call.node.meta.get("val")
            backed = not any(map(is_unbacked, free_symbols(val)))
            if isinstance(source, fx.Node) and source.op == "call_function" and backed:
                yield call.node, f"reads the size of {source.name}, which is computed; read it from an input"
            elif not isinstance(val, torch.SymInt):
                yield call.node, f"reads a size that is always {val}; write the number"


@rule("dtypes", "canonical")
def _dtypes(subject: Subject) -> Findings:
    """Operators that make tensors from nothing, and casts, name their dtype."""
    for call in subject.calls:
        makes = not call.tensors() and call.op.namespace == "aten"
        if (makes or call.op is aten._to_copy.default) and call.given.get("dtype", torch.bool) is None:
            yield call.node, f"{call.op} leaves its dtype to a default that may change; name it"


@rule("layout", "canonical")
def _layout(subject: Subject) -> Findings:
    """Nothing speaks of memory: no views of storage, no copies, no memory_format, device or layout."""
    for call in subject.calls:
        name = call.op._schema.name
        if name in _LAYOUT_OPS:
            yield (
                call.node,
                f"{call.op} says something about memory, not about values; drop it, or use reshape",
            )
            continue
        for argument in _LAYOUT_ARGUMENTS:
            if call.given.get(argument):
                yield call.node, f"{argument!r} of {call.op} is {call.given[argument]}; leave it out"


@rule("results", "canonical")
def _results(subject: Subject) -> Findings:
    """A call with several results is used by getitem alone, one for each index."""
    for node in subject.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), tuple | list):
            continue
        taken: dict[Any, fx.Node] = {}
        for user in node.users:
            if user.target is not operator.getitem or len(user.args) != 2:
                yield user, f"uses {node.name} whole, which has {len(node.meta['val'])} results"
            elif taken.setdefault(user.args[1], user) is not user:
                yield (
                    user,
                    f"takes result {user.args[1]} of {node.name}, and so does {taken[user.args[1]].name}",
                )


@rule("asserts", "canonical")
def _asserts(subject: Subject) -> Findings:
    """No assertions but of values: what others prove is in program.ranges."""
    for call in subject.calls:
        if is_assertion(call.op) and not checks_values(call.node):
            yield call.node, f"{call.op} is an assertion; remove_assertions drops it"


# -- canonical: the program as a whole -----------------------------------------------------------


@rule("dead", "canonical")
def _dead(subject: Subject) -> Findings:
    """Every call and every tensor is used."""
    written = {role.target for role, _ in subject.outputs()}
    for node in subject.nodes:
        if node.users:
            continue
        role = node.meta.get("role")
        if node.op == "placeholder":
            if isinstance(role, Input) and role.kind != "user" and role.target not in written:
                yield node, f"nothing reads the {role.kind} {role.target!r}; eliminate_dead_code drops it"
        elif node.op == "get_attr" or (node.op == "call_function" and not _has_effect(node)):
            yield node, "nothing uses its result; eliminate_dead_code drops it"


def _has_effect(node: fx.Node) -> bool:
    """Assertions and calls that write have a rule of their own."""
    return isinstance(node.target, OpOverload) and (
        is_assertion(node.target) or not is_functional(node.target)
    )


@rule("twins", "canonical")
def _twins(subject: Subject) -> Findings:
    """No two pure calls are equal."""
    from fxpasses.passes.eliminate_common_subexpressions import call_key

    if subject.broken:
        return
    for module in subject.modules:
        first: dict[Any, fx.Node] = {}
        for node in module.graph.nodes:
            if node.target is operator.getitem:
                continue  # see the rule "results"
            key = call_key(node)
            if key is not None and first.setdefault(key, node) is not node:
                yield (
                    node,
                    f"computes what {first[key].name} does; eliminate_common_subexpressions merges them",
                )


@rule("folded", "canonical")
def _folded(subject: Subject) -> Findings:
    """What depends on constants alone is computed, up to a size limit."""
    from fxpasses.passes.fold_constants import fold_constants, foldable

    if subject.broken:
        return
    constant = foldable(subject.program, fold_constants.max_bytes)
    for node in constant:
        computed = node.op == "call_function" and node.all_input_nodes
        needed = any(user not in constant for user in node.users)
        if computed and needed and isinstance(node.meta["val"], torch.Tensor):
            yield node, "depends on constants alone; fold_constants computes it"


@rule("storages", "canonical")
def _storages(subject: Subject) -> Findings:
    """Tensors that are the same elements in memory have one placeholder."""
    written = {role.target for role, _ in subject.outputs()}
    first: dict[Any, str] = {}
    for node, role in subject.inputs:
        tensor = subject.program.tensors.get(role.target)
        if role.kind == "user" or role.target in written or tensor is None or tensor.numel() == 0:
            continue
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype)
        key = (*place, tuple(tensor.shape), tensor.stride())
        if first.setdefault(key, role.target) != role.target:
            yield node, f"{role.target!r} is {first[key]!r} in memory; normalize_params merges them"


# Batch norms that would update running statistics, and their flag.
_TRAINING = {
    "aten::_batch_norm_impl_index": "training",
    "aten::_batch_norm_with_update": None,
    "aten::_batch_norm_with_update_functional": None,
    "aten::_native_batch_norm_legit": "training",
    "aten::_native_batch_norm_legit_functional": "training",
    "aten::batch_norm": "training",
    "aten::cudnn_batch_norm": "training",
    "aten::native_batch_norm": "training",
}
_DROPOUT_ARGUMENTS = {"dropout", "dropout_p", "train", "training"}


@rule("inference", "canonical")
def _inference(subject: Subject) -> Findings:
    """No dropout in effect, unless notes["allow_random"] asks for it, and no batch norm that learns."""
    random = subject.program.notes.get("allow_random")
    for call in subject.calls:
        name = call.op._schema.name
        if not random and _draws(call) and _drops_out(call):
            yield call.node, f"{call.op} drops values at random; capture the model in eval mode"
        elif name in _TRAINING and call.given.get("running_mean") is not None:
            flag = _TRAINING[name]
            if flag is None or call.given.get(flag, True):
                yield call.node, f"{call.op} updates running statistics; capture the model in eval mode"


@rule("random", "canonical")
def _random(subject: Subject) -> Findings:
    """No random operators, unless the program asks for them with notes["allow_random"]."""
    if subject.program.notes.get("allow_random"):
        return
    for call in subject.calls:
        if _draws(call) and not _drops_out(call):
            yield (
                call.node,
                f"{call.op} draws random numbers; allow it with CheckInference(allow_random=True)",
            )


def _draws(call: Call) -> bool:
    try:
        return draws_random(call.op, call.node.args, call.node.kwargs)
    except FxpassesError:  # does not bind: a violation of "arguments"
        return False


def _drops_out(call: Call) -> bool:
    return not _DROPOUT_ARGUMENTS.isdisjoint(argument.name for argument in call.arguments)


@rule("order", "canonical")
def _order(subject: Subject) -> Findings:
    """Nodes have the order and the names that order_nodes gives."""
    from fxpasses.passes.order_nodes import order_nodes

    if subject.broken:
        return
    ordered = order_nodes(subject.program)
    for module, other in zip(subject.modules, ordered.graph_modules(), strict=False):
        for node, wanted in zip(module.graph.nodes, other.graph.nodes, strict=False):
            if (node.op, node.name) != (wanted.op, wanted.name):
                yield node, f"stands where order_nodes puts {wanted.name!r}"
                break
