"""``torch.compile(model, backend="fxpasses")``.

`torch.compile` finds `fxpasses` through the entry point of that name. AOT
autograd makes each graph functional and takes care of mutation, aliasing and
gradients; what it hands over, forward or backward, is compiled like any
program. Parameters are arguments of such a graph, so changing them in place
(by an optimizer, or `load_state_dict`) works as in eager PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils import _pytree as pytree

from fxpasses.codegen.compile import compile
from fxpasses.codegen.memory_order import in_memory_order
from fxpasses.codegen.shared_results import split_off_views
from fxpasses.errors import UnsupportedOperatorError, source_line
from fxpasses.graph_modules import body_of, copy_graph_module, make_graph_module
from fxpasses.program import Input, Output, Program
from fxpasses.tracing.composites import composite_kernels
from fxpasses.tracing.fake_values import fake_tensor

__all__ = ["fxpasses", "program_of_graph"]

aten = torch.ops.aten


def fxpasses(
    graph_module: fx.GraphModule, example_inputs: Sequence[Any], **options: Any
) -> Callable[..., Any]:
    """The backend that `torch.compile` calls; *options* are `strict` and `target` of `fxpasses.compile`.

    A model may be in training mode: dropout draws from PyTorch's generator, and batch norms learn.
    """
    from torch._decomp import get_decompositions
    from torch._dynamo.backends.common import aot_autograd

    given = {**options.pop("options", {}), **options}
    unknown = given.keys() - {"strict", "target"}
    if unknown:
        raise TypeError(
            f"torch.compile(backend='fxpasses') has no option {sorted(unknown)[0]!r}; "
            "it has strict and target"
        )

    def compiler(
        module: fx.GraphModule, inputs: Sequence[Any], visible: Callable[[], slice]
    ) -> Callable[..., Any]:
        from functorch.compile import make_boxed_func

        module, finish = split_off_views(module)
        module, turn = in_memory_order(module, visible() if finish is None else slice(None))
        with unset_fake_temporarily():
            compiled = compile(program_of_graph(module), allow_random=True, **given)
        if finish is None and turn is None:
            return make_boxed_func(compiled)

        def call(*args: Any) -> Sequence[Any]:
            results = compiled(*args)
            results = results if turn is None else turn(results)
            return results if finish is None else finish(*results)

        return make_boxed_func(call)

    backend = aot_autograd(
        fw_compiler=partial(compiler, visible=_of_the_user),
        bw_compiler=partial(compiler, visible=lambda: slice(0)),
        inference_compiler=partial(compiler, visible=lambda: slice(None)),
        decompositions=get_decompositions(_LEARNING) | _WITHOUT_ALPHA,
    )
    with composite_kernels():
        return backend(graph_module, example_inputs)  # type: ignore[no-any-return]


def _of_the_user() -> slice:
    """The results of a graph that trains that are not kept for its derivative alone."""
    context = torch._guards.TracingContext.try_get()
    metadata = None if context is None else context.fw_metadata
    return slice(None if metadata is None else metadata.num_forward_returns)


# The forms in which batch norms that learn reach a backend.
_LEARNING = (
    aten._native_batch_norm_legit_functional.default,
    aten._batch_norm_with_update_functional.default,
    aten.native_batch_norm_backward.default,
    aten.batch_norm_backward.default,
)


def _without_alpha(op: OpOverload) -> Callable[..., Any]:
    def scaled(self: Any, other: Any, *, alpha: Any = 1) -> Any:
        varies = any(isinstance(number, torch.SymInt | torch.SymFloat) for number in (other, alpha))
        is_one = isinstance(alpha, int) and alpha == 1
        return op(self, other * alpha) if varies and not is_one else NotImplemented

    return scaled


# AOT autograd makes tensors of numbers that vary from call to call, and loses alpha on the way.
_WITHOUT_ALPHA = {op: _without_alpha(op) for op in (aten.add.Tensor, aten.sub.Tensor)}


def _held(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    value = operator.attrgetter(str(node.target))(module)
    if isinstance(value, torch.Tensor):
        return value
    takes = next((f"{user.target} ({source_line(user)})" for user in node.users), node.name)
    raise UnsupportedOperatorError(
        f"{takes} takes a {type(value).__name__}, which a program cannot hold; branches and bodies of loops "
        "that change their operands do: let them return the new values"
    )


def program_of_graph(module: fx.GraphModule) -> Program:
    """The program of a functional graph of ATen calls with flat inputs and outputs.

    Its placeholders are user inputs; a tensor that it reaches by ``get_attr``
    is a constant.
    """
    graph = fx.Graph()
    tensors: dict[str, torch.Tensor] = {}
    bodies: dict[str, torch.nn.Module] = {}
    mapping: dict[fx.Node, fx.Node] = {}
    vals = pytree.tree_leaves([node.meta.get("val") for node in module.graph.nodes])
    fake_mode = next((val.fake_mode for val in vals if isinstance(val, FakeTensor)), None)
    for node in module.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        body = body_of(node)
        if body is not None:
            bodies[name], _ = copy_graph_module(body)
        elif name not in tensors:
            tensors[name] = _held(module, node).detach()
            mapping[node] = graph.placeholder(name.replace(".", "_"))
            mapping[node].meta.update(role=Input("constant", name), val=fake_tensor(fake_mode, tensors[name]))
    constants = {constant.meta["role"].target: constant for constant in mapping.values()}
    ranges: dict[Any, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target in constants:
            mapping[node] = constants[node.target]
            continue
        mapping[node] = graph.node_copy(node, mapping.__getitem__)
        mapping[node].meta.setdefault("val", None)  # an assertion gives nothing
        if node.op == "placeholder":
            mapping[node].meta["role"] = Input("user", node.name)
        for val in pytree.tree_leaves(mapping[node].meta["val"]):
            for size in val.shape if isinstance(val, torch.Tensor) else (val,):
                if isinstance(size, torch.SymInt):
                    known = size.node.shape_env.var_to_range
                    ranges.update((s, known[s]) for s in size.node.expr.free_symbols if s in known)
    count = len(module.graph.find_nodes(op="placeholder"))
    output = graph.output_node()
    values = tuple(output.args[0])  # type: ignore[arg-type]
    output.args = (values,)
    output.meta["roles"] = (Output("user"),) * len(values)
    return Program(
        graph_module=make_graph_module(graph, bodies),
        tensors=tensors,
        in_spec=pytree.tree_structure((tuple(range(count)), {})),
        out_spec=pytree.tree_structure(values),
        ranges=ranges,
    )
