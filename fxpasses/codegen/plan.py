"""`CallPlan`: how a call of a compiled program becomes a call of ``main``, as plain data.

It says which of the user's flat arguments go in, where each output comes
from, what is written back, and which index arguments must lie in a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx

from fxpasses.errors import LoweringError, source_line
from fxpasses.rewrite import same_type
from fxpasses.signature import Dim, size_text

if TYPE_CHECKING:
    from fxpasses.program import Program

__all__ = ["CallPlan", "IndexCheck", "Source", "Write"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Source:
    """Where a returned value comes from.

    ``computed``: result `index` of ``main``. ``input``: the flat user argument
    `index`. ``tensor``: the program's tensor `name`. ``value``: a number or
    constant that the signature tells.
    """

    kind: Literal["computed", "input", "tensor", "value"]
    index: int = -1
    name: str = ""


@dataclass(frozen=True)
class Write:
    """A value that is written to the flat user argument `index`, or to the buffer `name`."""

    source: Source
    index: int = -1
    name: str = ""


@dataclass(frozen=True)
class IndexCheck:
    """The elements of the flat user argument `index` must lie in ``[low, high)``."""

    index: int
    low: Dim
    high: Dim
    op: str


@dataclass(frozen=True)
class CallPlan:
    """See the module.

    Attributes:
        inputs: the flat user arguments that are tensors, in the order of ``main``.
        sizes: the sizes that ``main`` takes as one shape after them, as text.
        tensors: the program's tensors that follow, by name.
        outputs: where each user output comes from.
        writes: the mutations.
        checks: the ranges of index arguments.
    """

    inputs: tuple[int, ...]
    sizes: tuple[str, ...]
    tensors: tuple[str, ...]
    outputs: tuple[Source, ...]
    writes: tuple[Write, ...]
    checks: tuple[IndexCheck, ...]

    @staticmethod
    def of(program: Program) -> CallPlan:
        """The plan for the ``main`` that `fxpasses.relax.emit.lower` makes of *program*."""
        from fxpasses.relax.emit import returned_nodes, size_parameters

        user = program.inputs
        position = {node: index for index, node in enumerate(user)}
        number = {node: index for index, node in enumerate(returned_nodes(program))}
        buffers = {n.meta["role"].target: n for n in program.placeholders if n not in position}
        arguments = {n.meta["role"].target: n for n in user}

        def source(value: Any) -> Source:
            if not isinstance(value, fx.Node) or not isinstance(value.meta["val"], torch.Tensor):
                return Source("value")
            if value in number:
                return Source("computed", index=number[value])
            if value in position:
                return Source("input", index=position[value])
            return Source("tensor", name=value.meta["role"].target)

        outputs, writes = [], []
        for role, value in program.outputs:
            if role.kind == "user":
                outputs.append(source(value))
                continue
            assert role.target is not None  # of a mutation
            target = (buffers if role.kind == "buffer_mutation" else arguments)[role.target]
            if not same_type(target.meta["val"], value.meta["val"]):
                raise LoweringError(
                    f"{role.target!r} would change its type: the new value {value.name!r} is "
                    f"{value.meta['val']}, it was {target.meta['val']} ({source_line(value)}); "
                    "keep its shape and dtype, for example by copy_ into it"
                )
            writes.append(Write(source(value), position.get(target, -1), role.target))
        return CallPlan(
            inputs=tuple(i for i, node in enumerate(user) if isinstance(node.meta["val"], torch.Tensor)),
            sizes=tuple(str(size_text(expression)) for expression in size_parameters(program)),
            tensors=tuple(n.meta["role"].target for n in program.placeholders if n not in position),
            outputs=tuple(outputs),
            writes=tuple(writes),
            checks=tuple(dict.fromkeys(_index_checks(program, position))),
        )

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the buffers that a call changes."""
        return tuple(write.name for write in self.writes if write.index < 0)

    def to_data(self) -> dict[str, Any]:
        """Lists and dicts for JSON."""
        return asdict(self)

    @staticmethod
    def from_data(data: dict[str, Any]) -> CallPlan:
        """Inverse of `to_data`."""
        return CallPlan(
            inputs=tuple(data["inputs"]),
            sizes=tuple(data["sizes"]),
            tensors=tuple(data["tensors"]),
            outputs=tuple(Source(**row) for row in data["outputs"]),
            writes=tuple(Write(**{**row, "source": Source(**row["source"])}) for row in data["writes"]),
            checks=tuple(IndexCheck(**row) for row in data["checks"]),
        )


# -- ranges of indices ---------------------------------------------------------------

# Calls that hand on every element of their first argument and nothing else: what
# an index check must hold for behind them, it must hold for before them.
_SAME_ELEMENTS = {
    aten.reshape.default,
    aten.view.default,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dims,
    aten.expand.default,
    aten.flip.default,
}

Bound = tuple[
    Any, Any, bool
]  # the index node, the size that bounds it, whether negative ones count from the end


def _by_dim(index: int, dim: int | None = None) -> Callable[[tuple[Any, ...]], Iterator[Bound]]:
    """Argument *index* indexes dim *dim* of argument 0 (argument 1 is the dim where it is None)."""

    def bounds(args: tuple[Any, ...]) -> Iterator[Bound]:
        data = args[0].meta["val"]
        if data.dim():
            yield args[index], data.shape[args[1] if dim is None else dim], False

    return bounds


def _advanced(args: tuple[Any, ...]) -> Iterator[Bound]:
    for dim, index in enumerate(args[1]):
        if isinstance(index, fx.Node) and index.meta["val"].dtype != torch.bool:
            yield index, args[0].meta["val"].shape[dim], True


_INDEXING: dict[Any, Callable[[tuple[Any, ...]], Iterator[Bound]]] = {
    aten.embedding.default: _by_dim(1, 0),
    aten.gather.default: _by_dim(2),
    aten.index_select.default: _by_dim(2),
    aten.index.Tensor: _advanced,
    aten.index_put.default: _advanced,
    aten.index_add.default: _by_dim(2),
    aten.index_copy.default: _by_dim(2),
    aten.index_fill.int_Scalar: _by_dim(2),
    aten.scatter.src: _by_dim(2),
    aten.scatter.value: _by_dim(2),
    aten.scatter_add.default: _by_dim(2),
    aten.scatter_reduce.two: _by_dim(2),
    aten.take.default: lambda args: iter([(args[1], args[0].meta["val"].numel(), True)]),
}


def _index_checks(program: Program, position: dict[fx.Node, int]) -> Iterator[IndexCheck]:
    for node in program.graph.nodes:
        if node.target not in _INDEXING:
            continue
        for index, size, negative in _INDEXING[node.target](node.args):
            origin = _origin(index)
            if origin in position:
                high = size_text(size)
                low: Dim = 0
                if negative:
                    low = -high if isinstance(high, int) else f"-({high})"
                yield IndexCheck(position[origin], low, high, str(node.target))


def _origin(node: fx.Node) -> fx.Node:
    """The node whose elements are those of the index *node*, in another shape or a wider dtype."""
    while node.target in _SAME_ELEMENTS or node.target is aten._to_copy.default:
        before, after = node.args[0].meta["val"].dtype, node.meta["val"].dtype
        if before != after and (not _is_int(before) or after.itemsize < before.itemsize):
            break
        node = node.args[0]
    return node


def _is_int(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool
