"""`Editor` changes a copy of a program's graph; `@rewrite` makes a pass of a local rule.

Metadata is kept node by node: a new node's ``meta["val"]`` is computed from
those of its arguments when the node is made, so no pass has to trace the whole
graph again.
"""

from __future__ import annotations

import contextlib
import operator
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from fxpasses.errors import FxpassesError, source_line
from fxpasses.graph_modules import copy_graph_module, graph_modules
from fxpasses.program import Input, Program
from fxpasses.schema import bind, is_pure
from fxpasses.signature import known_of_sizes
from fxpasses.size_nodes import SizeNodes
from fxpasses.tracing.fake_values import fake_tensor, fake_value, same_type

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
        self._sizes = SizeNodes(self.fake_mode)
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

    @property
    def anchor(self) -> fx.Node:
        """What new nodes are inserted before: in a decomposition the call that is spelled out."""
        return self._anchor if self._anchor is not None else self.graph.output_node()

    def call(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new call of *op* in full schema form, with its ``meta["val"]``.

        A symbolic size among the arguments (``val.shape[0]``) becomes the node
        that computes it.
        """
        anchor = self.anchor
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
        if not same_type(before, after) and not same_type(before, after, self._asserted):
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
    def _asserted(self) -> list[sympy.Basic]:
        """What each call of the program is held to."""
        return known_of_sizes(self.program)

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
        return self.expression(size.node.expr)

    def expression(self, expr: sympy.Basic) -> fx.Node:
        """The node that computes an expression, or a condition, of the symbols of sizes."""
        anchor = self._anchor if self._anchor is not None else self.graph.output_node()
        return self._sizes.node(anchor.graph, expr)

    def finish(self) -> Program:
        """The edited program. Tensors that no placeholder stands for any more are dropped."""
        used = {n.meta["role"].target for n in self.graph.find_nodes(op="placeholder")}
        return self.program.replace(
            graph_module=self.graph_module,
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            notes=self.notes,
        )

    def _materialise(self, arg: Any) -> Any:
        if isinstance(arg, torch.SymInt):
            return int(arg.node.expr) if arg.node.expr.is_number else self.symbolic(arg)
        return arg


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
