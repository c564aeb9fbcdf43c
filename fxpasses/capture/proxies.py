"""Proxies that know sizes and dtypes, for `symbolic_trace`.

The proxies of fx know nothing, so that code which asks for ``x.shape`` in an
``if`` cannot be traced with them. These stand for a fake tensor each. Sizes are
those of the fake tensor: plain ints, or `torch.SymInt` where they vary. A branch
on a `SymInt` leaves a guard, and one that is used becomes nodes again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import _symbolic_trace
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxpasses.capture.leaf import is_leaf
from fxpasses.capture.make_fx import swapped
from fxpasses.capture.source import Source, register_containers, state_of
from fxpasses.errors import CaptureError
from fxpasses.tracing.functions import functions_in_graphs

__all__ = ["KnowingTracer", "Proxies"]

_FACTS = frozenset(
    {"device", "dtype", "is_cuda", "is_meta", "is_sparse", "layout", "ndim", "requires_grad", "shape"}
)
_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
_IN_PLACE = (
    *("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"),
    *("iand", "ior", "ixor", "ilshift", "irshift"),
)
_PLAIN = (*_NUMBERS, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


class KnowingProxy(fx.Proxy):
    """A proxy of a value whose type and sizes are known."""

    tracer: KnowingTracer

    @property
    def _known(self) -> Any:
        return self.tracer.values[self.node]

    def __getattr__(self, name: str) -> Any:
        if name in _FACTS and isinstance(self._known, torch.Tensor):
            return getattr(self._known, name)
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(self._known)

    def __int__(self) -> int:
        return self.tracer.concrete(int, self._known)

    def __float__(self) -> float:
        return self.tracer.concrete(float, self._known)

    def __index__(self) -> int:
        return self.tracer.concrete(int, self._known)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


def _changing(operation: Callable[[Any, Any], Any]) -> Callable[[KnowingProxy, Any], Any]:
    """``x += y`` and its like, which Python takes for ``x = x + y`` where a class does not have them."""

    def method(self: KnowingProxy, other: Any) -> Any:
        result = self.tracer.create_proxy("call_function", operation, (self, other), {})
        same = isinstance(result, KnowingProxy) and result._known is self._known
        return self if same else result

    return method


for _name in _IN_PLACE:
    setattr(KnowingProxy, f"__{_name}__", _changing(getattr(operator, _name)))


class KnowingTracer(fx.Tracer):
    """Traces a source with one placeholder for each tensor among its arguments."""

    record_stack_traces = True
    proxy_buffer_attributes = True  # else self.count.add_(1) would count during the trace

    def __init__(
        self, source: Source, mode: Any, leaves: list[Any], spec: pytree.TreeSpec, positions: list[int]
    ):
        super().__init__()
        self.source = source
        self.mode = mode
        self.leaves = leaves
        self.spec = spec
        self.positions = positions
        self.out_spec: pytree.TreeSpec | None = None
        self.values: dict[fx.Node, Any] = {}
        self.evaluating = False
        self.sources: dict[Any, tuple[fx.Node, int | None]] = {}
        self._sizes: dict[tuple[fx.Node, int], fx.Node] = {}
        self._fakes: dict[int, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []  # so that no id is given twice

    # -- what fx asks ------------------------------------------------------------------

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        given = []
        for position in self.positions:
            proxy = self.create_proxy("placeholder", f"x{position}", (), {})
            self.values[proxy.node] = leaf = self.leaves[position]
            self._note_symbols(proxy.node, leaf)
            given.append(leaf if isinstance(leaf, torch.SymInt) else proxy)
        return self._call, given

    def _call(self, *given: Any) -> list[Any]:
        filled = list(self.leaves)
        for position, proxy in zip(self.positions, given, strict=True):
            filled[position] = proxy
        args, kwargs = pytree.tree_unflatten(filled, self.spec)
        root = self.source.root
        buffers = dict(root.named_buffers(remove_duplicate=False))
        result = root.forward(*args, **kwargs)
        for name, buffer in list(root.named_buffers(remove_duplicate=False)):
            if name in buffers and buffer is not buffers[name]:  # self.count = self.count + 1
                path, _, last = name.rpartition(".")
                root.get_submodule(path)._buffers[last] = buffers[name]
                held = self.create_proxy("get_attr", name, (), {})
                self.create_proxy("call_method", "copy_", (held, buffer), {})
        register_containers(result)
        results, self.out_spec = pytree.tree_flatten(result)
        return results

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return KnowingProxy(node, self)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: Any = None,
        type_expr: Any = None,
        *rest: Any,
        **_: Any,
    ) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr)
        if kind == "placeholder":
            return proxy
        value = self._evaluate(kind, target, args, kwargs)
        made = self._note_symbols(proxy.node, value)
        if kind != "get_attr" and _is_plain(value):
            if not made:
                self.graph.erase_node(proxy.node)
            return value
        self.values[proxy.node] = value
        return proxy

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self._number(a)
        return super().create_arg(a)

    def _note_symbols(self, node: fx.Node, value: Any) -> bool:
        """Remember *node* as the source of the symbols in *value* that no earlier node has."""
        found: list[tuple[Any, int | None]] = []
        if isinstance(value, torch.Tensor):
            found = [(size, dim) for dim, size in enumerate(value.shape)]
        elif isinstance(value, torch.SymInt | torch.SymFloat):
            found = [(value, None)]
        new = False
        for size, dim in found:
            if isinstance(size, torch.SymInt | torch.SymFloat):
                for expression in (size.node._expr, size.node.expr):
                    if expression.is_Symbol and expression not in self.sources:
                        self.sources[expression] = (node, dim)
                        new = True
        return new

    def _number(self, number: Any) -> Any:
        """The node that computes a symbolic number."""
        from torch.utils._sympy.interp import sympy_interp
        from torch.utils._sympy.reference import PythonReferenceAnalysis

        expression = number.node.expr
        if expression.is_number:
            return int(expression) if isinstance(number, torch.SymInt) else float(expression)
        # These proxies only write nodes; what they come to is known already.
        writer = fx.proxy.GraphAppendingTracer(self.graph)
        symbols = {symbol: fx.Proxy(self._symbol(symbol), writer) for symbol in expression.free_symbols}
        return sympy_interp(PythonReferenceAnalysis, symbols, expression).node

    def _symbol(self, symbol: Any) -> fx.Node:
        node, dim = self.sources[symbol]
        if dim is None:
            return node
        if (node, dim) not in self._sizes:
            self._sizes[node, dim] = self.create_node("call_method", "size", (node, dim), {})
        return self._sizes[node, dim]

    def record(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The proxy of a call; its value where that holds no tensor."""
        if not any(isinstance(leaf, fx.Proxy) for leaf in pytree.tree_leaves((args, kwargs))):
            value = self._evaluate("call_function", function, args, kwargs)
            if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
                return value
        return self.create_proxy("call_function", function, args, kwargs)

    def create_marker(self, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        """A call of *function* that is recorded and not run."""
        return self.create_node("call_function", function, args, {})

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.evaluating:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self.concrete(bool, self.values[obj.node])

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([obj[i] for i in range(len(self.values[obj.node]))])

    # -- values -------------------------------------------------------------------------

    def concrete(self, kind: Callable[[Any], Any], value: Any) -> Any:
        """``int(value)`` and its like; of a size it leaves a guard, of a tensor it is an error."""
        with self._evaluation():
            return kind(value)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        previous, self.evaluating = self.evaluating, True
        try:
            with self.mode, torch.no_grad(), functions_in_graphs():
                yield
        finally:
            self.evaluating = previous

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        outside = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        versions = [self._fake(tensor)._version for tensor in outside]
        value = self._run(kind, target, args, kwargs)
        if any(self._fake(tensor)._version != v for tensor, v in zip(outside, versions, strict=True)):
            raise CaptureError(
                f"{getattr(target, '__name__', target)} changes a tensor that is no buffer of the model; make it one: "
                "self.register_buffer(name, tensor)"
            )
        return value

    def _run(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = map_aggregate((args, kwargs), self._value)  # type: ignore[misc]
        with self._evaluation():
            if kind == "get_attr":
                return self._fake(_attribute(self.root, target))
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            if kind == "call_module":
                module = self.root.get_submodule(target)
                fakes = {name: self._fake(tensor) for name, tensor in state_of(module).items()}
                with swapped(module, fakes):
                    return _symbolic_trace._orig_module_call(module, *args, **kwargs)
            return target(*args, **kwargs)

    def _value(self, arg: Any) -> Any:
        if isinstance(arg, fx.Proxy):
            return self.values[arg.node]
        return self._fake(arg) if isinstance(arg, torch.Tensor) else arg

    def _fake(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self._fakes:
            self._fakes[id(tensor)] = self.mode.from_tensor(tensor, static_shapes=True)
            self._kept.append(tensor)
        return self._fakes[id(tensor)]


def _attribute(root: torch.nn.Module, target: str) -> Any:
    owner: Any = root
    for part in target.split("."):
        owner = (
            _symbolic_trace._orig_module_getattr(owner, part)
            if part not in owner.__dict__
            else owner.__dict__[part]
        )
    return owner


def _is_plain(value: Any) -> bool:
    """Whether *value* is a constant of the graph; None may be the result of a change in place."""
    if isinstance(value, tuple) and value:
        return all(isinstance(item, _NUMBERS) for item in value)
    return isinstance(value, _PLAIN)


class Proxies(TorchFunctionMode):
    """Records what makes tensors without a proxied tensor: ``torch.zeros(n)``, ``torch.rand(3)``.

    Without it such a call would run once, and its result be a constant.
    """

    def __init__(self, tracer: KnowingTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.tracer.evaluating or func is torch._C._set_grad_enabled:
            return func(*args, **kwargs)
        return self.tracer.record(func, args, kwargs)
