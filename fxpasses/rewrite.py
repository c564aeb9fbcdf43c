"""`Editor` changes a copy of a program's graph; `@rewrite` makes a pass of a local rule.

Metadata is kept node by node: a new node's ``meta["val"]`` is computed from
those of its arguments when the node is made, so no pass has to trace the whole
graph again.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate, map_arg
from torch.utils import _pytree as pytree

from fxpasses.composites import BY_SHAPE, kernels_by_shape
from fxpasses.errors import FxpassesError, source_line
from fxpasses.fake_kernels import FAKE_KERNELS, fake_kernels
from fxpasses.program import Input, Program, body_of, graph_modules, make_graph_module
from fxpasses.recurrence import RECURRENT_LAYERS, one_step_shapes
from fxpasses.schema import bind, is_pure

if TYPE_CHECKING:
    import sympy

__all__ = ["Editor", "Rewrite", "rewrite"]

_INHERITED_META = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack")


class Editor:
    """Edits a copy of a program; `finish` returns the result.

    Nodes are reached through `nodes` or `graph`. New nodes are inserted before
    the node given to `at`, and inherit its source line::

        g = program.edit()
        for node in g.nodes(aten.silu.default):
            with g.at(node):
                gate = g.call(aten.sigmoid.default, node.args[0])
                g.replace(node, g.call(aten.mul.Tensor, node.args[0], gate))
        program = g.finish()
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.fake_mode = program.fake_mode
        self.tensors: dict[str, torch.Tensor] = dict(program.tensors)
        self.notes: dict[str, Any] = dict(program.notes)
        self.graph_module, self.node_map = copy_graph_module(program.graph_module)
        self.graph = self.graph_module.graph
        self._anchor: fx.Node | None = None
        self._sizes: dict[tuple[fx.Graph, Any], fx.Node] = {}
        self._sources: dict[fx.Graph, dict[Any, tuple[fx.Node, int | None]]] = {}
        self._new: list[fx.Node] = []

    # -- reading -----------------------------------------------------------------

    def nodes(self, *targets: Any) -> list[fx.Node]:
        """The nodes that call one of *targets* (all nodes without any), bodies included."""
        found = []
        for module in graph_modules(self.graph_module):
            found += [n for n in module.graph.nodes if not targets or n.target in targets]
        return found

    def role(self, node: Any) -> Input | None:
        """The role of a placeholder of the top-level graph; None for anything else."""
        if isinstance(node, fx.Node) and node.op == "placeholder":
            return node.meta.get("role")
        return None

    def tensor(self, node: Any) -> torch.Tensor | None:
        """The value of a parameter, buffer or constant that the program never changes.

        None for user inputs, computed values, and buffers that are mutated.
        """
        role = self.role(node)
        if role is None or role.kind == "user":
            return None
        if any(r.target == role.target and r.kind == "buffer_mutation" for r in self._output_roles()):
            return None
        return self.tensors[role.target]

    def _output_roles(self) -> Any:
        return self.graph.output_node().meta["roles"]

    # -- writing -----------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, node: fx.Node) -> Iterator[None]:
        """Insert new nodes before *node*, with its source line."""
        previous, self._anchor = self._anchor, node
        try:
            yield
        finally:
            self._anchor = previous

    def call(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new call of *op* in full schema form, with its ``meta["val"]``.

        A symbolic size among the arguments (``val.shape[0]``) becomes the node
        that computes it.
        """
        anchor = self._anchor if self._anchor is not None else self.graph.output_node()
        if isinstance(op, OpOverload):
            args, kwargs = bind(op, args, kwargs)
        args, kwargs = map_aggregate((args, kwargs), self._materialise)  # type: ignore[assignment]
        with anchor.graph.inserting_before(anchor):
            node = anchor.graph.call_function(op, tuple(args), dict(kwargs))
        for key in _INHERITED_META:
            if key in anchor.meta:
                node.meta[key] = anchor.meta[key]
        node.meta["val"] = self.infer(node)
        self._new.append(node)
        return node

    def infer(self, node: fx.Node) -> Any:
        """The fake value of *node*, from those of its arguments."""
        return fake_value(self.fake_mode, node)

    def update(self, node: fx.Node, *args: Any, **kwargs: Any) -> None:
        """Exchange the arguments of *node* in place, where its value stays the same."""
        with self.at(node):
            node.args, node.kwargs = map_aggregate((args, kwargs), self._materialise)  # type: ignore[misc]

    def replace(self, node: fx.Node, value: Any) -> None:
        """Let all users of *node* use *value* and erase what is then unused.

        *value* is a node, or a tuple with one node for each result of a node
        with several results; None, or a shorter tuple, where nobody uses one.
        The value of a size is a number.

        Raises:
            FxpassesError: dtype or shape differ.
        """
        if isinstance(value, tuple | list):
            for user in list(node.users):
                if user.target is not operator.getitem:
                    raise FxpassesError(f"{node.name} has several results, but {user.name} uses it whole")
                result = value[user.args[1]] if user.args[1] < len(value) else None  # type: ignore[operator]
                if result is None and user.users:
                    raise FxpassesError(f"result {user.args[1]} of {node.name} is used, but not replaced")
                if result is None:
                    self.erase(user)
                else:
                    self.replace(user, result)
            self.erase(node)
            return
        if isinstance(value, int) and not isinstance(node.meta.get("val"), torch.Tensor):
            for user in list(node.users):
                user.args, user.kwargs = fx.map_arg(
                    (user.args, user.kwargs), lambda arg: value if arg is node else arg
                )
            self.erase(node)
            return
        if not isinstance(value, fx.Node):
            raise FxpassesError(f"{node.name} can be replaced by a node only, not by {value!r}")
        if value is node:
            return
        before, after = node.meta.get("val"), value.meta.get("val")
        self._identify_sizes(before, after)
        if not same_type(before, after):
            from fxpasses.fingerprint import SymbolNames

            names = SymbolNames()
            raise FxpassesError(
                f"{node.name}: {names.type_text(before)} cannot be replaced by "
                f"{value.name}: {names.type_text(after)} ({source_line(node) or 'no source line'})"
            )
        node.replace_all_uses_with(value, propagate_meta=False)
        for key in _INHERITED_META:
            if key in node.meta and key not in value.meta and value.op == "call_function":
                value.meta[key] = node.meta[key]
        self.erase(node)

    def _identify_sizes(self, before: Any, after: Any) -> None:
        """Give a data-dependent size of a new call the symbol that it had in the call that is replaced."""
        if not (isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)):
            return
        from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

        for old, new in zip(before.shape, after.shape, strict=False):
            if not (isinstance(old, torch.SymInt) and isinstance(new, torch.SymInt)):
                continue
            known, fresh = old.node.expr, new.node.expr
            data_dependent = {known, fresh} <= free_unbacked_symbols((old, new))
            if known != fresh and data_dependent and fresh not in self._data_dependent_sizes:
                self.fake_mode.shape_env._rename_unbacked_to(fresh, known)

    @cached_property
    def _data_dependent_sizes(self) -> set[Any]:
        """The symbols of data-dependent sizes in the program before the edit."""
        from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

        vals = pytree.tree_leaves([node.meta.get("val") for node in self.program.nodes()])
        return set().union(*(free_unbacked_symbols(val) for val in vals if val is not None))

    def erase(self, node: fx.Node) -> None:
        """Erase *node* if it has no users, and the arguments that only it used."""
        pending = [node]
        while pending:
            dead = pending.pop()
            if dead.users or dead.op in ("placeholder", "output") or dead._erased:
                continue
            if dead is not node and not (is_pure(dead) or dead.op == "get_attr"):
                continue
            pending += dead.all_input_nodes
            dead.graph.erase_node(dead)

    def constant(
        self, tensor: torch.Tensor, name: str = "constant", kind: Literal["param", "constant"] = "constant"
    ) -> fx.Node:
        """A new constant (or parameter) of the program, as a placeholder.

        *name* is made unique among the names of the program's tensors.
        """
        unique, count = name, 0
        while unique in self.tensors:
            count += 1
            unique = f"{name}_{count}"
        tensor = tensor.detach()
        self.tensors[unique] = tensor
        first = next(n for n in self.graph.nodes if n.op != "placeholder" or n.meta["role"].kind == "user")
        with self.graph.inserting_before(first):
            node = self.graph.placeholder("t_" + re.sub(r"\W", "_", unique))
        node.meta["role"] = Input(kind, unique)
        node.meta["val"] = fake_tensor(self.fake_mode, tensor)
        return node

    def symbolic(self, size: torch.SymInt) -> fx.Node:
        """The node that computes a symbolic size from the shapes of the inputs."""
        anchor = self._anchor if self._anchor is not None else self.graph.output_node()
        return self._size_node(anchor, size.node.expr, size.node.shape_env)

    def finish(self) -> Program:
        """The edited program. Tensors that no placeholder stands for any more are dropped."""
        used = {n.meta["role"].target for n in self.graph.find_nodes(op="placeholder")}
        return self.program.replace(
            graph_module=self.graph_module,
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            notes=self.notes,
        )

    # -- sizes -------------------------------------------------------------------

    def _materialise(self, arg: Any) -> Any:
        if isinstance(arg, torch.SymInt):
            return int(arg.node.expr) if arg.node.expr.is_number else self.symbolic(arg)
        return arg

    def _size_node(self, anchor: fx.Node, expr: sympy.Expr, shape_env: Any) -> fx.Node:
        graph = anchor.graph
        known = self._sizes.get((graph, expr))
        if known is not None and not known._erased:
            return known
        sources = self._symbol_sources(graph)
        if expr.is_Symbol and expr in sources:
            source, dim = sources[expr]
            if dim is None:
                return source
            node = self._sym_size(source, dim)
        elif expr.is_Symbol:
            node = self._solved(graph, expr)
        else:
            node = self._arithmetic(anchor, expr, shape_env)
        self._sizes[graph, expr] = node
        return node

    def _sym_size(self, source: fx.Node, dim: int) -> fx.Node:
        place = source.next
        while place.op == "placeholder":
            place = place.next
        with source.graph.inserting_before(place):
            node = source.graph.call_function(torch.ops.aten.sym_size.int, (source, dim))
        node.meta["val"] = source.meta["val"].shape[dim]
        return node

    def _solved(self, graph: fx.Graph, symbol: sympy.Expr) -> fx.Node:
        """A symbol that is no dim itself, from a dim such as ``2*s0`` or ``s0 + 1``."""
        for source in graph.find_nodes(op="placeholder"):
            val = source.meta.get("val")
            for dim, size in enumerate(val.shape if isinstance(val, torch.Tensor) else ()):
                if not isinstance(size, torch.SymInt) or size.node.expr.free_symbols != {symbol}:
                    continue
                slope = size.node.expr.diff(symbol)
                if not slope.is_Integer:
                    continue
                node = self._sym_size(source, dim)
                offset = int(size.node.expr.subs(symbol, 0))
                for function, number, neutral in (
                    (operator.sub, offset, 0),
                    (operator.floordiv, int(slope), 1),
                ):
                    if number != neutral:
                        with graph.inserting_after(node):
                            node = graph.call_function(function, (node, number))
                        node.meta["val"] = fake_value(self.fake_mode, node)
                return node
        raise FxpassesError(f"the size {symbol} is the shape of no input of the graph")

    def _arithmetic(self, anchor: fx.Node, expr: sympy.Expr, shape_env: Any) -> fx.Node:
        from torch.utils._sympy.interp import sympy_interp

        graph = anchor.graph
        symbols = sorted(expr.free_symbols, key=str)
        nodes = {symbol: self._size_node(anchor, symbol, shape_env) for symbol in symbols}
        # After the last operand, so that every later node may use the result.
        place = max(nodes.values()).next
        while place.op == "placeholder":
            place = place.next
        previous = place.prev
        tracer = fx.proxy.GraphAppendingTracer(graph)
        proxies: dict[Any, Any] = {s: fx.Proxy(n, tracer) for s, n in nodes.items()}
        with graph.inserting_before(place):
            result = sympy_interp(_proxy_arithmetic(), proxies, expr)
        node = previous.next
        while node is not place:
            node.meta["val"] = fake_value(self.fake_mode, node)
            node = node.next
        return result.node

    def _symbol_sources(self, graph: fx.Graph) -> dict[Any, tuple[fx.Node, int | None]]:
        from torch.utils._sympy.symbol import SymT, symbol_is_type

        if graph not in self._sources:
            sources: dict[Any, tuple[fx.Node, int | None]] = {}
            for node in graph.nodes:
                val = node.meta.get("val")
                is_tensor = isinstance(val, torch.Tensor)
                for dim, size in enumerate(val.shape if is_tensor else (val,)):
                    if not isinstance(size, torch.SymInt) or not size.node.expr.is_Symbol:
                        continue
                    # A computed value may itself need the size; only what depends on data starts there.
                    if node.op == "placeholder" or symbol_is_type(size.node.expr, SymT.UNBACKED_INT):
                        sources.setdefault(size.node.expr, (node, dim if is_tensor else None))
            self._sources[graph] = sources
        return self._sources[graph]


Rule = Callable[[Editor, fx.Node], Any]


@dataclass(frozen=True)
class Rewrite:
    """A pass made of a local rule for the calls of some operators; see `rewrite`."""

    targets: tuple[Any, ...]
    rule: Rule
    __name__: str = field(default="rewrite")
    __doc__: str | None = field(default=None)

    def __call__(self, program: Program) -> Program:
        targets = set(self.targets)
        if not any(node.target in targets for node in program.nodes()):
            return program
        g = program.edit()
        pending = deque(g.nodes(*targets))
        limit = 1000 + 100 * len(pending)
        changed = False
        while pending:
            node = pending.popleft()
            if node._erased:
                continue
            limit -= 1
            if limit < 0:
                raise FxpassesError(
                    f"{self.__name__} does not come to an end: its rule makes calls that it rewrites again"
                )
            g._new.clear()
            with g.at(node):
                value = self.rule(g, node)
            pending.extend(new for new in g._new if new.target in targets and new is not node)
            if value is None:
                for new in reversed(g._new):
                    g.erase(new)
            elif value is not node:
                users = [user for user in node.users if user.target in targets]
                g.replace(node, value)
                pending.extend(users)
                changed = True
            else:
                changed = True
        return g.finish() if changed else program

    def __repr__(self) -> str:
        return self.__name__


def rewrite(*targets: Any) -> Callable[[Rule], Rewrite]:
    """Decorator: a pass from a rule ``(g, node) -> value`` for calls of *targets*.

    The rule returns the value that takes the node's place (a node, or a tuple
    of nodes for a call with several results), ``node`` itself after changing it
    in place with `Editor.update`, or None to leave it. Calls that the
    rule makes, and users of what it replaced, are visited again.

    ::

        @fxp.rewrite(torch.ops.aten.relu.default)
        def relu_of_relu(g, node):
            (inner,) = node.args
            return inner if inner.target is torch.ops.aten.relu.default else None
    """

    def decorate(rule: Rule) -> Rewrite:
        return Rewrite(targets, rule, getattr(rule, "__name__", "rewrite"), rule.__doc__)

    return decorate


# -- shared helpers ----------------------------------------------------------------


def copy_graph_module(module: fx.GraphModule) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A copy of a graph module and its bodies, with the map from old to new nodes."""
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    bodies: dict[str, torch.nn.Module] = {}
    for node in module.graph.nodes:
        # `Graph.node_copy` looks for symbolic numbers among the arguments, which takes half of its time.
        mapping[node] = copy = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
        copy.args = map_arg(node.args, mapping.__getitem__)
        if node.kwargs:
            copy.kwargs = map_arg(node.kwargs, mapping.__getitem__)
        copy.meta = node.meta.copy()
        body = body_of(node)
        if body is not None and node.target not in bodies:
            bodies[node.target], inner = copy_graph_module(body)
            mapping.update(inner)
    return make_graph_module(graph, bodies), mapping


_BY_PYTHON = frozenset(
    getattr(torch.ops.aten, f"{name}{rank}d").vec
    for name in ("upsample_nearest", "_upsample_nearest_exact")
    for rank in (1, 2, 3)
)
"""Operators whose fake kernels fail on an empty batch, and whose decompositions in Python do not."""


def fake_value(fake_mode: Any, node: fx.Node) -> Any:
    """Run a call on the fake values of its arguments."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def value(arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return body_of(arg) if arg.op == "get_attr" else arg.meta["val"]
        return arg

    args, kwargs = map_aggregate((node.args, node.kwargs), value)  # type: ignore[misc]
    shape_env: ShapeEnv | None = fake_mode.shape_env
    with contextlib.ExitStack() as stack:
        stack.enter_context(fake_mode)
        stack.enter_context(torch.no_grad())
        if shape_env is not None:
            stack.enter_context(shape_env.suppress_guards())
            # Symbols of data-dependent sizes wait for nobody to bind them.
            stack.enter_context(shape_env.ignore_fresh_unbacked_symbols())
        if node.target in _BY_PYTHON or any(
            isinstance(x, torch.Tensor) and x._has_symbolic_sizes_strides for x in pytree.tree_leaves(args)
        ):
            stack.enter_context(enable_python_dispatcher())  # some kernels in C++ would fix the sizes
        if node.target in RECURRENT_LAYERS:
            stack.enter_context(one_step_shapes())
        if node.target in FAKE_KERNELS:
            stack.enter_context(fake_kernels())
        if node.target in BY_SHAPE:
            stack.enter_context(kernels_by_shape())
            stack.enter_context(enable_python_dispatcher())  # torch looks at these kernels under it alone
        return node.target(*args, **kwargs)  # type: ignore[operator]


def fake_tensor(fake_mode: Any, tensor: torch.Tensor) -> torch.Tensor:
    """A fake stand-in of a parameter or constant, of static shape."""
    with torch.no_grad():
        return fake_mode.from_tensor(tensor.detach(), static_shapes=True)


@cache
def _proxy_arithmetic() -> Any:
    """How an expression of sizes is spelled on proxies; `math` and true division look at numbers, not at those."""
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    class ProxyArithmetic(PythonReferenceAnalysis):  # type: ignore[misc]
        @staticmethod
        def int_truediv(a: Any, b: Any) -> Any:
            return a / b

        @staticmethod
        def floor_to_int(x: Any, dtype: Any) -> Any:
            return _on_proxy(math.floor, x)

        @staticmethod
        def ceil_to_int(x: Any, dtype: Any) -> Any:
            return _on_proxy(math.ceil, x)

        @staticmethod
        def trunc_to_int(x: Any, dtype: Any) -> Any:
            return _on_proxy(math.trunc, x)

        @staticmethod
        def round_to_int(a: Any, dtype: Any) -> Any:
            return _on_proxy(round, a)

    return ProxyArithmetic


def _on_proxy(function: Callable[..., Any], x: Any) -> Any:
    return x.tracer.create_proxy("call_function", function, (x,), {})


def same_type(a: Any, b: Any) -> bool:
    """Whether two ``meta["val"]`` have one dtype and shape (or one structure of such)."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.dim() == b.dim() and all(map(same_size, a.shape, b.shape))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same_type, a, b))
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    return same_size(a, b)


def same_size(a: Any, b: Any) -> bool:
    """Whether two sizes are provably equal."""
    a, b = (getattr(getattr(x, "node", None), "expr", x) for x in (a, b))
    if a is b or a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    import sympy

    if not all(isinstance(x, sympy.Expr) or type(x) is int for x in (a, b)):
        return False
    return bool(sympy.expand(_without_exact_divisions(sympy.sympify(a - b))) == 0)


def _without_exact_divisions(expression: Any) -> Any:
    """*expression* with ``n**2 // n`` and the like, which is how a size of -1 comes out, as ``n``."""
    import sympy
    from torch.utils._sympy.functions import FloorDiv

    def quotient(division: Any) -> Any:
        exact = sympy.cancel(division.args[0] / division.args[1])
        return exact if sympy.fraction(exact)[1] == 1 else division

    return expression.replace(lambda part: isinstance(part, FloorDiv), quotient)
