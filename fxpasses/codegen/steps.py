"""Calls of operators as plain data: those of an island, and those that made the weights of a program.

An argument is JSON data. A dict with one key stands for what JSON has not:

==================  ==========================================================
``tensor``          a tensor handed over, by position
``complex``         a tensor of complex numbers, handed over as pairs of their parts
``number``          the value of a tensor handed over
``size``            a size handed over, by position
``result``          a result of an earlier step: ``[step, position]``
``dtype`` ...       a ``torch.dtype``, ``layout``, ``memory_format``, ``device``
``tuple``           a tuple of arguments
``dict``            a dict of them
``op``              an operator, by its qualified name
``body``            a graph that the operator calls: its steps and what it returns
==================  ==========================================================
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from fxpasses.capture.leaf import NAMESPACE as LEAVES
from fxpasses.errors import (
    ArtifactError,
    IndexRangeError,
    LinAlgError,
    RunError,
    UnsupportedOperatorError,
    source_line,
)
from fxpasses.graph_modules import body_of
from fxpasses.schema import SYMBOLIC_BUILTINS, bind, is_read
from fxpasses.signature import dtype_name

__all__ = ["Recorder", "Step", "Where", "encode", "op_name", "run_steps"]

Where = tuple[int, int]
"""A result: which step, and which of its results."""


@dataclass(frozen=True)
class Step:
    """One call: the operator's qualified name, its arguments, why it is here, and the user's line."""

    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    reason: str = ""
    source: str | None = None

    def reads(self) -> Iterator[int]:
        """The earlier steps whose results it takes."""
        pending: list[Any] = [*self.args, *self.kwargs.values()]
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending += value
            elif isinstance(value, dict):
                ((kind, inner),) = value.items()
                if kind == "result":
                    yield inner[0]
                elif kind in ("tuple", "dict"):
                    pending += inner.values() if kind == "dict" else inner


# -- writing -------------------------------------------------------------------------


def encode(arg: Any, refer: Callable[[Any], Any]) -> Any:
    """*arg* as data; *refer* gives that of a value which the steps have, and else `NotImplemented`.

    Raises:
        TypeError: there is none.
    """
    found = refer(arg)
    if found is not NotImplemented:
        return found
    if isinstance(arg, torch.dtype):
        return {"dtype": dtype_name(arg)}
    for kind in (torch.device, torch.layout, torch.memory_format):
        if isinstance(arg, kind):
            return {kind.__name__: str(arg).removeprefix("torch.")}
    if isinstance(arg, OpOverload):
        return {"op": op_name(arg)}
    if isinstance(arg, tuple | list):
        items = [encode(item, refer) for item in arg]
        return {"tuple": items} if isinstance(arg, tuple) else items
    if isinstance(arg, dict) and all(isinstance(key, str) for key in arg):
        return {"dict": {key: encode(value, refer) for key, value in arg.items()}}
    if arg is None or isinstance(arg, bool | int | float | str):
        return arg
    raise TypeError(f"its argument {arg!r} of type {type(arg).__name__} cannot be handed to it")


class Recorder:
    """Writes calls of a graph down as steps.

    Args:
        outer: the value of a node that is computed elsewhere.
        reasons: why a node runs in PyTorch.
        inputs: what is handed over in any case, in order: tensors or numbers.

    Attributes:
        steps: the calls so far.
        tensors, tensor_nodes: what is handed over, and the nodes that these are.
        sizes: the sizes that are handed over.
        vals: the ``meta["val"]`` of each result.
    """

    def __init__(
        self,
        outer: Callable[[fx.Node], Any],
        reasons: Mapping[fx.Node, str],
        inputs: Sequence[fx.Node] = (),
    ) -> None:
        self.steps: list[Step] = []
        self.tensors: list[Any] = []
        self.tensor_nodes: list[fx.Node] = list(inputs)
        self.sizes: list[Any] = []
        self.vals: dict[Where, Any] = {}
        self._inputs = frozenset(inputs)
        self._outer = outer
        self._reasons = reasons
        self._where: dict[fx.Node, Where] = {}
        self._step: dict[fx.Node, int] = {}

    def add(self, node: fx.Node) -> None:
        """Append the call *node*; picking one of several results is no call of its own."""
        if node.target is operator.getitem:
            base, position = node.args
            self._where[node] = (self._step[base], position)  # type: ignore[index, assignment]
            return
        args, kwargs = node.args, node.kwargs
        if isinstance(node.target, OpOverload):
            args, kwargs = bind(node.target, args, kwargs)  # type: ignore[arg-type]
        encoded = [self._encode(arg, node) for arg in args]
        named = {name: self._encode(arg, node) for name, arg in kwargs.items()}
        self._step[node] = index = len(self.steps)
        self._where[node] = (index, 0)
        vals = node.meta.get("val")
        for position, val in enumerate(vals if isinstance(vals, tuple | list) else (vals,)):
            self.vals[index, position] = val
        reason = self._reasons.get(node, "")
        self.steps.append(Step(op_name(node.target), encoded, named, reason, source_line(node)))

    def results(self, nodes: Iterable[fx.Node]) -> list[tuple[fx.Node, Where]]:
        """The results that calls other than *nodes* need, each once, with a node that it is."""
        inside = set(nodes)
        found: dict[Where, fx.Node] = {}
        for node in inside:
            if isinstance(node.meta["val"], tuple | list):
                continue
            if any(user not in inside for user in node.users):
                found.setdefault(self._where[node], node)
        return sorted(((node, where) for where, node in found.items()), key=lambda pair: pair[1])

    def enter(self, nodes: Iterable[fx.Node], values: Mapping[Where, Any], env: dict[fx.Node, Any]) -> None:
        """Set the value of each of *nodes* in *env* that is handed back."""
        for node in nodes:
            vals = node.meta["val"]
            if isinstance(vals, tuple | list):
                step = self._step[node]
                env[node] = tuple(values.get((step, position)) for position in range(len(vals)))
            else:
                env[node] = values.get(self._where[node])

    def _encode(self, arg: Any, node: fx.Node) -> Any:
        try:
            return encode(arg, lambda value: self._refer(value, node))
        except TypeError as error:
            raise UnsupportedOperatorError(
                f"{node.target} cannot run as an island: {error} ({source_line(node) or f'node {node.name}'})"
            ) from error

    def _refer(self, arg: Any, node: fx.Node) -> Any:
        return self._encode_node(arg, node) if isinstance(arg, fx.Node) else NotImplemented

    def _encode_node(self, arg: fx.Node, node: fx.Node) -> Any:
        if arg in self._where:
            return {"result": list(self._where[arg])}
        body = body_of(arg)
        if body is not None:
            return {"body": _body(body)}
        val = arg.meta["val"]
        if arg in self._inputs and not is_read(val):
            return {"tensor": self.tensor_nodes.index(arg)}
        if isinstance(val, torch.Tensor) or is_read(val):
            if arg not in self.tensor_nodes:
                self.tensor_nodes.append(arg)
                self.tensors.append(self._outer(arg))
            return {_kind(val): self.tensor_nodes.index(arg)}
        if isinstance(val, torch.SymInt):
            self.sizes.append(self._outer(arg))
            return {"size": len(self.sizes) - 1}
        return self._encode(val, node)


def _kind(val: Any) -> str:
    if not isinstance(val, torch.Tensor):
        return "number"
    return "complex" if val.is_complex() else "tensor"


def _body(module: fx.GraphModule) -> dict[str, Any]:
    """A graph that an operator calls; its inputs are handed over like tensors."""
    inputs = module.graph.find_nodes(op="placeholder")
    recorder = Recorder(lambda node: node, {}, inputs)
    for node in module.graph.nodes:
        if node.op == "call_function":
            recorder.add(node)
    if len(recorder.tensor_nodes) > len(inputs) or recorder.sizes:
        raise UnsupportedOperatorError("a body uses a size of its surroundings")
    returned = module.graph.output_node().args[0]
    return {
        "steps": [asdict(step) for step in recorder.steps],
        "returned": recorder._encode(returned, module.graph.output_node()),
    }


def op_name(target: Any) -> str:
    if isinstance(target, OpOverload):
        return f"{target._schema.name}.{target._schema.overload_name or 'default'}"
    if isinstance(target, HigherOrderOperator):
        return f"higher_order::{target.__name__}"
    return f"python::{target.__name__}"


# -- making --------------------------------------------------------------------------


@dataclass
class _Frame:
    """The values that the arguments of a call are read from."""

    tensors: Sequence[Any]
    sizes: Sequence[int]
    done: list[tuple[Any, ...]] = field(default_factory=list)


_Read = Callable[[_Frame], Any]


def run_steps(
    steps: Sequence[Step], results: Sequence[Where]
) -> Callable[[Sequence[torch.Tensor], Sequence[int]], list[Any]]:
    """The function ``(tensors, sizes) -> results`` that makes the calls.

    It raises `RunError` where a kernel of PyTorch refuses values.

    Raises:
        ArtifactError: an operator is not registered in this process.
    """
    made = _calls(steps, frozenset(step for step, _ in results))

    def run(tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[Any]:
        done = made(_Frame(tensors, sizes))
        return [done[step][position] for step, position in results]

    return run


def _calls(
    steps: Sequence[Step], kept: frozenset[int] | None = None
) -> Callable[[_Frame], list[tuple[Any, ...]]]:
    """What makes the calls. Results of steps that are not *kept* go when the last step has read them."""
    calls = [
        (_resolve(step.op), _reader(step.args), {name: _reader(arg) for name, arg in step.kwargs.items()})
        for step in steps
    ]
    last = {read: index for index, step in enumerate(steps) for read in (index, *step.reads())}
    dropped: list[list[int]] = [[] for _ in steps]
    for read, index in last.items():
        if kept is not None and read not in kept:
            dropped[index].append(read)

    def run(frame: _Frame) -> list[tuple[Any, ...]]:
        for (op, args, kwargs), over, step in zip(calls, dropped, steps, strict=True):
            try:
                value = op(*args(frame), **{name: read(frame) for name, read in kwargs.items()})
            except tuple(_ERRORS) as error:
                own = _ERRORS.get(type(error))
                if own is None:  # an error of the operator's own kind
                    raise
                raise own(f"{step.op} in PyTorch: {error} ({step.source or 'no source line'})") from error
            frame.done.append(tuple(value) if isinstance(value, tuple | list) else (value,))
            del value
            for index in over:
                frame.done[index] = ()
        return frame.done

    return run


_ERRORS: dict[type[Exception], type[RunError]] = {
    IndexError: IndexRangeError,
    RuntimeError: RunError,
    torch.linalg.LinAlgError: LinAlgError,
}
"""By what kernels of PyTorch raise, what a program raises, which is of that kind as well."""


def _reader(arg: Any) -> _Read:
    """What reads an argument; names are looked up now, and not at each call."""
    if isinstance(arg, list):
        readers = [_reader(item) for item in arg]
        return lambda frame: [read(frame) for read in readers]
    if not isinstance(arg, dict):
        return lambda frame: arg
    ((kind, value),) = arg.items()
    if kind in _READERS:
        return _READERS[kind](value)
    constant = _CONSTANTS[kind](value)
    return lambda frame: constant


def _tuple(items: list[Any]) -> _Read:
    read = _reader(items)
    return lambda frame: tuple(read(frame))


def _dict(items: Mapping[str, Any]) -> _Read:
    readers = {key: _reader(value) for key, value in items.items()}
    return lambda frame: {key: read(frame) for key, read in readers.items()}


_READERS: dict[str, Callable[[Any], _Read]] = {
    "tensor": lambda i: lambda frame: frame.tensors[i],
    "complex": lambda i: lambda frame: torch.view_as_complex(frame.tensors[i]),
    "number": lambda i: lambda frame: frame.tensors[i].item(),
    "size": lambda i: lambda frame: frame.sizes[i],
    "result": lambda where: lambda frame: frame.done[where[0]][where[1]],
    "tuple": _tuple,
    "dict": _dict,
}


def _attribute(name: str) -> Any:
    return getattr(torch, name)


def _body_call(body: Mapping[str, Any]) -> Callable[..., Any]:
    run = _calls([Step(**step) for step in body["steps"]])
    returned = _reader(body["returned"])

    def call(*inputs: Any) -> Any:
        frame = _Frame(inputs, ())
        run(frame)
        return returned(frame)

    return call


_BUILTINS = {function.__name__: function for function in SYMBOLIC_BUILTINS}


def _resolve(name: str) -> Any:
    namespace, _, op = name.partition("::")
    if namespace == "python":
        return _BUILTINS[op]
    if namespace == "higher_order":
        return getattr(torch.ops.higher_order, op)
    op, _, overload = op.rpartition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), op), overload)
    except AttributeError as error:
        raise ArtifactError(
            f"the program calls the operator {name}, which is not registered in this process; "
            + (
                "capture the model with the same leaf= first"
                if namespace == LEAVES
                else f"import the library that defines {namespace}::{op} first"
            )
        ) from error


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "dtype": _attribute,
    "layout": _attribute,
    "memory_format": _attribute,
    "device": torch.device,
    "op": _resolve,
    "body": _body_call,
}
