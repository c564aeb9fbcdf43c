"""Islands: calls that run in PyTorch inside the compiled program.

An operator without a lowering (of a custom library, for one) becomes a call of
one packed function. It views TVM's tensors as torch tensors, without a copy,
runs the operator, and hands its results back. What it calls is plain data, so
that it can be saved with the program.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from fxpasses.errors import ArtifactError, UnsupportedOperatorError, source_line
from fxpasses.relax import tvm_api as T
from fxpasses.schema import bind, is_functional
from fxpasses.signature import dtype_name

__all__ = ["Island", "Islands"]

_FUNCTION = "fxpasses.island"


@dataclass(frozen=True)
class Island:
    """One call: the operator's qualified name, its arguments as JSON data, and why it is here.

    In the arguments ``{"tensor": 0}`` stands for the first tensor handed over,
    ``{"size": 0}`` for the first size, ``{"dtype": "float32"}`` for a dtype.
    """

    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    reason: str
    source: str | None = None


class Islands:
    """The islands of one compiled program, under a key that its code refers to.

    Attributes:
        rows: one for each call; the code names them by position.
        reasons: the nodes that became islands, and why, while a program is emitted.
    """

    def __init__(self, key: str | None = None, rows: Sequence[Island] = ()) -> None:
        self.key = uuid.uuid4().hex if key is None else key
        self.rows: list[Island] = list(rows)
        self.reasons: dict[fx.Node, str] = {}
        self._calls: dict[int, Callable[..., Any]] = {}
        self._failed = threading.local()

    # -- while the program is emitted ------------------------------------------------

    @staticmethod
    def refusal(node: fx.Node) -> str | None:
        """Why *node* cannot be an island; None if it can."""
        if not isinstance(node.target, OpOverload):
            return "control flow and Python functions cannot run as an island"
        if not is_functional(node.target):
            return "it changes its arguments"
        value = node.meta.get("val")
        values = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(value, torch.Tensor) for value in values):
            return "its result is no tensor"
        return None

    def emit(self, builder: Any, node: fx.Node, reason: str) -> Any:
        """Emit *node* as a call into PyTorch; one Relax value for each result."""
        tensors: list[Any] = []
        sizes: list[Any] = []

        def encode(arg: Any) -> Any:
            if isinstance(arg, fx.Node):
                if isinstance(arg.meta["val"], torch.Tensor):
                    tensors.append(builder.env[arg])
                    return {"tensor": len(tensors) - 1}
                if isinstance(arg.meta["val"], torch.SymInt):
                    sizes.append(builder.env[arg])
                    return {"size": len(sizes) - 1}
                arg = arg.meta["val"]
            if isinstance(arg, torch.dtype):
                return {"dtype": dtype_name(arg)}
            for kind in (torch.device, torch.layout, torch.memory_format):
                if isinstance(arg, kind):
                    return {kind.__name__: str(arg).removeprefix("torch.")}
            if isinstance(arg, tuple | list):
                return [encode(item) for item in arg]
            if arg is None or isinstance(arg, bool | int | float | str):
                return arg
            raise UnsupportedOperatorError(
                f"{node.target} cannot run as an island: its argument {arg!r} of type "
                f"{type(arg).__name__} cannot be handed to it ({source_line(node) or f'node {node.name}'})"
            )

        args, kwargs = bind(node.target, node.args, node.kwargs)  # type: ignore[arg-type]
        args_, kwargs_ = [encode(arg) for arg in args], {name: encode(arg) for name, arg in kwargs.items()}
        vals = node.meta["val"] if isinstance(node.meta["val"], tuple | list) else (node.meta["val"],)
        schema = node.target._schema  # type: ignore[union-attr]
        name = f"{schema.name}.{schema.overload_name or 'default'}"
        self.rows.append(Island(name, args_, kwargs_, reason, source_line(node)))
        self.reasons[node] = reason
        _register()
        relax = T.relax
        types = [T.TensorType(dtype=dtype_name(val.dtype), ndim=val.dim()) for val in vals]
        call = builder.emit(
            relax.op.call_pure_packed(
                _FUNCTION,
                T.ir.StringImm(self.key),
                relax.prim_value(len(self.rows) - 1),
                relax.ShapeExpr(sizes),
                *tensors,
                ty_args=[relax.TupleType(types)],
            )
        )
        results = [
            builder.match_cast(builder.emit(relax.TupleGetItem(call, index)), val)
            for index, val in enumerate(vals)
        ]
        return results if isinstance(node.meta["val"], tuple | list) else results[0]

    # -- while it runs ---------------------------------------------------------------

    def activate(self) -> Islands:
        """Make the calls reachable from compiled code, for as long as the result is held.

        Raises:
            ArtifactError: an operator is not registered in this process.
        """
        for index in range(len(self.rows)):
            self._call(index)
        _register()
        return _ACTIVE.setdefault(self.key, self)

    def run(self, index: int, sizes: Sequence[int], tensors: Sequence[Any]) -> list[Any]:
        """Run island *index* on TVM tensors; its results as TVM tensors of their own memory."""
        from fxpasses.codegen.runtime import prepare

        inputs = [torch.from_dlpack(tensor) for tensor in tensors]
        with torch.no_grad():
            try:
                results = self._call(index)(inputs, sizes)
            except Exception as error:
                self._failed.error = error
                raise
            taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
            results = [
                result.clone() if result.untyped_storage().data_ptr() in taken else result
                for result in results
            ]
        return [prepare(result) for result in results]

    def take_error(self) -> Exception | None:
        """The exception that an island of this thread ended with, once.

        On its way through TVM it loses its type.
        """
        error: Exception | None = getattr(self._failed, "error", None)
        self._failed.error = None
        return error

    def _call(self, index: int) -> Callable[..., Any]:
        if index not in self._calls:
            row = self.rows[index]
            op = _resolve(row.op)

            def call(tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> Any:
                args = _decode(row.args, tensors, sizes)
                kwargs = {name: _decode(arg, tensors, sizes) for name, arg in row.kwargs.items()}
                return pytree.tree_leaves(op(*args, **kwargs))

            self._calls[index] = call
        return self._calls[index]

    # -- as data -----------------------------------------------------------------------

    def to_data(self) -> dict[str, Any]:
        """Lists and dicts for JSON."""
        return {"key": self.key, "rows": [asdict(row) for row in self.rows]}

    @staticmethod
    def from_data(data: dict[str, Any]) -> Islands:
        """Inverse of `to_data`."""
        return Islands(data["key"], [Island(**row) for row in data["rows"]])


_ACTIVE: WeakValueDictionary[str, Islands] = WeakValueDictionary()


@cache
def _register() -> None:
    def island(key: str, index: int, sizes: Sequence[int], *tensors: Any) -> list[Any]:
        return _ACTIVE[str(key)].run(int(index), [int(size) for size in sizes], tensors)

    T.tvm_ffi.register_global_func(_FUNCTION, island, override=True)


def _resolve(name: str) -> OpOverload:
    qualified, _, overload = name.rpartition(".")
    namespace, _, op = qualified.partition("::")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), op), overload)
    except AttributeError as error:
        raise ArtifactError(
            f"the program calls the operator {name}, which is not registered in this process; "
            f"import the library that defines {namespace}::{op} first"
        ) from error


def _decode(arg: Any, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> Any:
    if isinstance(arg, list):
        return [_decode(item, tensors, sizes) for item in arg]
    if not isinstance(arg, dict):
        return arg
    ((kind, value),) = arg.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "size":
        return sizes[value]
    if kind == "device":
        return torch.device(value)
    return getattr(torch, value)  # dtype, layout, memory_format
