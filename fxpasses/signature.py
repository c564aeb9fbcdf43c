"""`Signature`: how a program is called, and the check of each call.

The signature is plain data (names, dtypes, shapes, pytree structure), so that
an eager `Program` and a compiled one that was loaded from a file refuse a bad
call in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.errors import ArtifactError, InputError
from fxpasses.sizes import evaluate, free_symbols, holds, readable, solve

if TYPE_CHECKING:
    import sympy

    from fxpasses.program import Program

__all__ = [
    "Signature",
    "Value",
    "asserted_sizes",
    "determined_by",
    "dtype_name",
    "evaluate_symbol",
    "known_of_sizes",
    "size_text",
]

Dim = int | str

# Arguments that no pytree opens.
_LEAVES = frozenset({torch.Tensor, torch.nn.Parameter, int, float, bool})


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether *tensor* has dense memory of the CPU to itself; a nested one has no shape either."""
    dense = tensor.is_cpu and tensor.layout == torch.strided
    return dense and not tensor.is_nested and not _is_wrapped(tensor)


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` to ``"float32"``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Value:
    """One flat input or output.

    A tensor has `dtype` and `shape`; each dim is an int or an expression of
    symbols such as ``"2*s0"``. A number that depends on the shapes has
    `symbol`. Anything else is a constant (None included) that is part of the
    program: an input must equal it.
    """

    name: str
    dtype: str | None = None
    shape: tuple[Dim, ...] | None = None
    symbol: str | None = None
    constant: Any = None

    @property
    def is_tensor(self) -> bool:
        return self.dtype is not None

    @cached_property
    def fixed(self) -> tuple[torch.dtype, tuple[int, ...]] | None:
        """Dtype and shape of a tensor without symbolic dims, None for anything else."""
        if self.dtype is None or not all(isinstance(dim, int) for dim in self.shape or ()):
            return None
        return getattr(torch, self.dtype), tuple(self.shape or ())  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.is_tensor:
            assert self.shape is not None
            return f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        return self.symbol if self.symbol is not None else repr(self.constant)


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and structure of a program.

    Attributes:
        inputs: the flat user inputs, in the order of `in_spec`.
        outputs: the flat user outputs, in the order of `out_spec`.
        in_spec, out_spec: pytree structures of ``(args, kwargs)`` and of the result.
        ranges: inclusive bounds of each symbol; None where there is none.
        conditions: what must hold of the sizes beyond that, as text such as ``"s0 <= s1"``.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    ranges: dict[str, tuple[int | None, int | None]]
    conditions: tuple[str, ...] = ()

    @staticmethod
    def of(program: Program) -> Signature:
        """Read the signature off the placeholders and the output of *program*."""
        outputs = [value for role, value in program.outputs if role.kind == "user"]
        return Signature(
            inputs=tuple(_value(n.meta["role"].target, n.meta.get("val")) for n in program.inputs),
            outputs=tuple(
                _value(f"output {i}", v.meta.get("val") if isinstance(v, torch.fx.Node) else v)
                for i, v in enumerate(outputs)
            ),
            in_spec=program.in_spec,
            out_spec=program.out_spec,
            ranges={
                str(symbol): (_finite(bounds.lower), _finite(bounds.upper))
                for symbol, bounds in program.ranges.items()
            },
            conditions=tuple(dict.fromkeys(map(_expression, asserted_sizes(program).values()))),
        )

    # -- a call ------------------------------------------------------------------

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The flat leaves of a call.

        Raises:
            InputError: missing, unexpected or differently nested arguments.
        """
        plain = self._plain_inputs
        if plain is not None and len(args) == plain[0] and len(kwargs) == len(plain[1]):
            try:
                leaves = [*args, *(kwargs[name] for name in plain[1])]
            except KeyError:
                leaves = []
            if leaves and all(type(leaf) in _LEAVES for leaf in leaves):
                return leaves
        args_spec, kwargs_spec = self.in_spec.children()
        names = list(kwargs_spec.context)
        args, kwargs = self._in_place(args, kwargs)
        if set(kwargs) != set(names):
            missing = [name for name in names if name not in kwargs]
            extra = [name for name in kwargs if name not in names]
            problem = f"missing argument {missing[0]!r}" if missing else f"unexpected argument {extra[0]!r}"
            raise InputError(f"{problem}; {self.describe()}")
        if len(args) != args_spec.num_children:
            expected = args_spec.num_children
            if len(args) < expected:
                first = sum(child.num_leaves for child in args_spec.children()[: len(args)])
                name = self.inputs[first].name if first < len(self.inputs) else f"#{len(args)}"
                raise InputError(f"missing argument {name!r}; {self.describe()}")
            raise InputError(
                f"{len(args)} positional arguments given, {expected} expected; {self.describe()}"
            )
        given = (args, {name: kwargs[name] for name in names})
        leaves, spec = pytree.tree_flatten(given)
        if spec != self.in_spec:  # torch.export takes a torch.Size, as any tuple of sizes, for a tuple
            given = pytree.tree_map_only(
                torch.Size, tuple, given, is_leaf=lambda x: isinstance(x, torch.Size)
            )
            leaves, spec = pytree.tree_flatten(given)
        if spec != self.in_spec:
            raise InputError(
                "the arguments are nested differently from those of the capture:\n"
                f"  given:    {_spec_text(spec)}\n  expected: {_spec_text(self.in_spec)}"
            )
        return leaves

    def _in_place(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, those of the capture's positional ones that are given by name at their places."""
        positional = self.in_spec.children()[0].children()
        given = dict(kwargs)
        first = sum(child.num_leaves for child in positional[: len(args)])
        for child in positional[len(args) :]:
            if not child.is_leaf() or self.inputs[first].name not in given:
                break
            args = (*args, given.pop(self.inputs[first].name))
            first += 1
        return args, given

    def check(self, leaves: Sequence[Any]) -> dict[str, int]:
        """Check dtype, rank and shape of each leaf; the value of each symbol.

        Raises:
            InputError: names the argument, what was given and what was expected.
        """
        symbols: dict[str, int] = {}
        for value, leaf in zip(self.inputs, leaves, strict=True):
            if type(leaf) is torch.Tensor and _is_plain(leaf) and (leaf.dtype, leaf.shape) == value.fixed:
                continue
            if value.is_tensor:
                self._check_tensor(value, leaf, symbols)
            elif value.symbol is not None:
                if isinstance(leaf, bool) or not isinstance(leaf, int):
                    raise InputError(f"argument {value.name!r}: an int expected, got {_describe(leaf)}")
                self._bind(value, value.symbol, leaf, symbols, "value")
            elif type(leaf) is not type(value.constant) or leaf != value.constant:
                raise InputError(
                    f"argument {value.name!r}: the program was captured with the constant "
                    f"{value.constant!r}, got {_describe(leaf)}; capture again with the new value"
                )
        for position, index, dim in self._derived_dims:
            self._check_derived(self.inputs[position], index, dim, leaves[position].shape[index], symbols)
        for condition in self.conditions:
            if not holds(condition, symbols):
                self._refuse(condition, symbols)
        return symbols

    def _check_tensor(self, value: Value, leaf: Any, symbols: dict[str, int]) -> None:
        assert value.shape is not None
        if not isinstance(leaf, torch.Tensor):
            raise InputError(f"argument {value.name!r}: a tensor {value} expected, got {_describe(leaf)}")
        if leaf.is_nested or _is_wrapped(leaf):
            raise InputError(
                f"argument {value.name!r}: a plain tensor expected, got "
                f"{'a nested one' if leaf.is_nested else 'one that torch.func (vmap, grad, jvp) has wrapped'}; "
                "transform the model before it is compiled"
            )
        if leaf.device.type != "cpu":
            raise InputError(
                f"argument {value.name!r}: a CPU tensor expected, got one on {leaf.device}; call .cpu() on it"
            )
        if leaf.layout != torch.strided:
            raise InputError(
                f"argument {value.name!r}: a dense tensor expected, got layout {leaf.layout}; "
                "call .to_dense() on it"
            )
        if dtype_name(leaf.dtype) != value.dtype:
            raise InputError(
                f"argument {value.name!r}: expected {value}, got {_describe(leaf)}; "
                f"convert it with .to(torch.{value.dtype})"
            )
        if leaf.dim() != len(value.shape):
            raise InputError(
                f"argument {value.name!r}: expected {len(value.shape)} dims {value}, got {_describe(leaf)}"
            )
        for index, (dim, size) in enumerate(zip(value.shape, leaf.shape, strict=True)):
            if isinstance(dim, int):
                if dim != size:
                    raise InputError(
                        f"argument {value.name!r}: dim {index} is {size}, expected {dim} "
                        f"(expected {value}, got {_describe(leaf)}); a size that varies must be "
                        "named in dynamic_shapes, where Dim.AUTO still fixes one that the code takes for "
                        "a constant (Dim.DYNAMIC says why)"
                    )
            elif dim.isidentifier():
                self._bind(value, dim, size, symbols, f"dim {index}")

    def _bind(self, value: Value, symbol: str, size: int, symbols: dict[str, int], what: str) -> None:
        known = symbols.setdefault(symbol, size)
        if known != size:
            raise InputError(
                f"argument {value.name!r}: {what} is {size}, but {symbol} is {known} by an earlier "
                f"argument (expected {value})"
            )
        low, high = self.ranges.get(symbol, (None, None))
        if (low is not None and size < low) or (high is not None and size > high):
            raise InputError(
                f"argument {value.name!r}: {what} is {size}, outside the range "
                f"[{low if low is not None else '-inf'}, {high if high is not None else 'inf'}] "
                f"that was captured (expected {value}); capture the code with a dim that admits this size, or, where "
                "it treats the size differently, for that size on its own"
            )

    def _check_derived(self, value: Value, index: int, dim: str, size: int, symbols: dict[str, int]) -> None:
        solved = solve(dim, size, symbols)
        if solved is not None:
            name, unknown = solved
            if unknown is None or unknown < 0:
                raise InputError(
                    f"argument {value.name!r}: dim {index} is {size}, which is not {dim} for any size {name}"
                )
            self._bind(value, name, unknown, symbols, f"dim {index} is {size}, so {name}")
        expected = evaluate(dim, symbols)
        if expected is not None and expected != size:
            raise InputError(
                f"argument {value.name!r}: dim {index} is {size}, expected {dim} = {expected} "
                f"with {', '.join(f'{k}={v}' for k, v in symbols.items())}"
            )

    def _refuse(self, condition: str, symbols: dict[str, int]) -> None:
        names: dict[str, str] = {}
        for value in self.inputs:
            if value.symbol is not None:
                names.setdefault(value.symbol, value.name)
            for index, dim in enumerate(value.shape or ()):
                names.setdefault(str(dim), f"{value.name}.shape[{index}]")
        known = {symbol: names.get(symbol, symbol) for symbol in sorted(free_symbols(condition))}
        given = ", ".join(f"{name} is {symbols[symbol]}" for symbol, name in known.items())
        raise InputError(
            f"the program was captured for arguments with {readable(condition, known)}, and {given}; the code does "
            "something else, or fails, for other sizes: capture it for these on their own"
        )

    @cached_property
    def _derived_dims(self) -> list[tuple[int, int, str]]:
        return [
            (position, index, dim)
            for position, value in enumerate(self.inputs)
            for index, dim in enumerate(value.shape or ())
            if isinstance(dim, str) and not dim.isidentifier()
        ]

    @cached_property
    def _plain_inputs(self) -> tuple[int, tuple[str, ...]] | None:
        """How many positional arguments there are, and the names of the others, where none is a container."""
        args_spec, kwargs_spec = self.in_spec.children()
        if not all(child.is_leaf() for spec in (args_spec, kwargs_spec) for child in spec.children()):
            return None
        return args_spec.num_children, tuple(kwargs_spec.context)

    @cached_property
    def _plain_output(self) -> type | None:
        """The type of the result where it is one leaf (`object`), or a tuple or list of leaves."""
        spec = self.out_spec
        if spec.is_leaf():
            return object
        flat = spec.type in (tuple, list) and all(child.is_leaf() for child in spec.children())
        return spec.type if flat else None

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """The flat user outputs in the model's own structure."""
        plain = self._plain_output
        if plain is not None:
            return leaves[0] if plain is object else plain(leaves)
        return pytree.tree_unflatten(list(leaves), self.out_spec)

    def describe(self) -> str:
        """The expected call in a line, for messages."""
        return "expected (" + ", ".join(f"{v.name}: {v}" for v in self.inputs) + ")"

    # -- as data -----------------------------------------------------------------

    def to_json(self) -> str:
        """Text that `from_json` reads back.

        Raises:
            ArtifactError: a container type in the structure cannot be serialised.
        """
        try:
            specs = [pytree.treespec_dumps(spec) for spec in (self.in_spec, self.out_spec)]
        except NotImplementedError as error:
            raise ArtifactError(
                f"the structure of inputs or outputs cannot be saved: {error}; register the "
                "container with torch.export.register_dataclass and a serialized_type_name"
            ) from error
        return json.dumps(
            {
                "inputs": [asdict(v) for v in self.inputs],
                "outputs": [asdict(v) for v in self.outputs],
                "in_spec": specs[0],
                "out_spec": specs[1],
                "ranges": self.ranges,
                "conditions": self.conditions,
            }
        )

    @staticmethod
    def from_json(text: str) -> Signature:
        """Inverse of `to_json`."""
        data = json.loads(text)

        def value(row: dict[str, Any]) -> Value:
            shape = row.pop("shape")
            return Value(**row, shape=None if shape is None else tuple(shape))

        return Signature(
            inputs=tuple(value(row) for row in data["inputs"]),
            outputs=tuple(value(row) for row in data["outputs"]),
            in_spec=pytree.treespec_loads(data["in_spec"]),
            out_spec=pytree.treespec_loads(data["out_spec"]),
            ranges={name: (low, high) for name, (low, high) in data["ranges"].items()},
            conditions=tuple(data["conditions"]),
        )


def asserted_sizes(program: Program) -> dict[torch.fx.Node, sympy.Basic]:
    """The assertions in the graph that are of the sizes of the arguments, and what they say."""
    from fxpasses.schema import checks_values

    target = torch.ops.aten._assert_scalar.default
    nodes = [n for n in program.graph.find_nodes(op="call_function", target=target) if checks_values(n)]
    if not nodes:
        return {}
    known = {s for node in program.inputs for size in _sizes(node) for s in determined_by(size.node.expr)}
    asserted = {node: node.args[0].meta["val"].node.expr for node in nodes}  # type: ignore[union-attr]
    return {node: condition for node, condition in asserted.items() if condition.free_symbols <= known}


def known_of_sizes(program: Program) -> list[sympy.Basic]:
    """What each call is held to: the assertions of sizes in the graph, and the upper ends of ranges."""
    ends = {symbol: bounds.upper for symbol, bounds in program.ranges.items() if bounds.upper.is_Integer}
    return [*asserted_sizes(program).values(), *(symbol <= end for symbol, end in ends.items())]


def _sizes(node: torch.fx.Node) -> list[torch.SymInt]:
    val = node.meta.get("val")
    sizes = val.shape if isinstance(val, torch.Tensor) else (val,)
    return [size for size in sizes if isinstance(size, torch.SymInt)]


def determined_by(size: sympy.Expr) -> frozenset[sympy.Symbol]:
    """The symbol that the size of an argument determines, if it is one like ``s0`` or ``2*s0 + 1``."""
    symbols = size.free_symbols
    return frozenset(s for s in symbols if len(symbols) == 1 and size.diff(s).is_Integer)


def evaluate_symbol(expression: str, symbols: dict[str, int]) -> int | float | bool:
    """The value of a dim or a symbolic output such as ``"2*s0"``."""
    result = evaluate(expression, symbols)
    if result is None:
        raise InputError(f"{expression} has no value: a symbol in it is bound by no input")
    return result


def _value(name: str, val: Any) -> Value:
    if isinstance(val, torch.Tensor):
        shape = tuple(size_text(size) for size in val.shape)
        return Value(name, dtype=dtype_name(val.dtype), shape=shape)
    if isinstance(val, torch.SymInt):
        return Value(name, symbol=_expression(val.node.expr))
    if isinstance(val, torch.SymFloat | torch.SymBool):
        kind = "float" if isinstance(val, torch.SymFloat) else "bool"
        return Value(name, symbol=f"{kind}({_expression(val.node.expr)})")
    return Value(name, constant=val)


def size_text(size: int | torch.SymInt | sympy.Expr) -> Dim:
    """A size as an int, or as the text of its expression."""
    if isinstance(size, int):
        return size
    expression = size.node.expr if isinstance(size, torch.SymInt) else size
    return int(expression) if expression.is_number else _expression(expression)


def _expression(expression: sympy.Expr) -> str:
    import sympy

    return sympy.sstr(expression)


def _finite(bound: Any) -> int | None:
    from torch.utils._sympy.numbers import int_oo

    try:
        return None if bound in (int_oo, -int_oo) else int(bound)
    except (TypeError, OverflowError, ValueError):
        return None


def _describe(leaf: Any) -> str:
    if isinstance(leaf, torch.Tensor):
        return f"{dtype_name(leaf.dtype)}{list(leaf.shape)}"
    return f"{leaf!r} of type {type(leaf).__name__}"


def _spec_text(spec: pytree.TreeSpec) -> str:
    return " ".join(str(spec).split())
