"""Islands: groups of calls that run in PyTorch inside the compiled program.

An operator without a lowering (of a custom library, for one) runs in PyTorch.
Calls that follow each other become one island: compiled code calls one packed
function, which views TVM's tensors as torch tensors without a copy, makes the
calls, and hands their results back. What an island does is plain data, so that
it can be saved with the program.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from fxpasses.ambient import plainly
from fxpasses.codegen.callbacks import ISLAND, enter
from fxpasses.codegen.steps import Recorder, Step, run_steps
from fxpasses.errors import RunError
from fxpasses.relax import tvm_api as T
from fxpasses.schema import SYMBOLIC_BUILTINS, is_functional
from fxpasses.signature import dtype_name, size_text

__all__ = ["Island", "Islands"]


@dataclass(frozen=True)
class Island:
    """Calls that are made one after the other.

    Attributes:
        steps: the calls.
        results: which of their results are handed back, as (step, position).
        types: what the program takes each result for, as (dtype, shape); None for a size that varies.
        bytes: how much memory the tensors take that go in and out; text where it depends on sizes.
    """

    steps: tuple[Step, ...]
    results: tuple[tuple[int, int], ...]
    types: tuple[tuple[str, tuple[int | None, ...]], ...] = ()
    bytes: int | str = 0


class Islands:
    """The islands of one compiled program, under a key that its code refers to.

    Attributes:
        rows: one for each island; the code names them by position.
        members: the nodes of each island, while a program is emitted.
        reasons: the nodes that became part of an island, and why, while a program is emitted.
    """

    def __init__(self, key: str | None = None, rows: Sequence[Island] = ()) -> None:
        self.key = uuid.uuid4().hex if key is None else key
        self.rows: list[Island] = list(rows)
        self.members: list[list[fx.Node]] = []
        self.reasons: dict[fx.Node, str] = {}
        self._calls: dict[int, Callable[..., list[Any]]] = {}

    # -- while the program is emitted ------------------------------------------------

    @staticmethod
    def refusal(node: fx.Node) -> str | None:
        """Why *node* cannot be part of an island; None if it can."""
        if (
            not isinstance(node.target, OpOverload | HigherOrderOperator)
            and node.target not in SYMBOLIC_BUILTINS
        ):
            return "a Python function is no data that can be kept"
        if not is_functional(node.target):
            return "it changes its arguments"
        value = node.meta["val"]
        values = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(value, _RESULTS) for value in values):
            return "a result of it is neither a tensor nor a number"
        return None

    def clear(self) -> None:
        """Forget all rows: the program is emitted again."""
        self.rows, self.members, self.reasons = [], [], {}

    def emit(self, b: Any, nodes: Sequence[fx.Node], reasons: Mapping[fx.Node, str]) -> None:
        """Emit the calls *nodes* as one island, and enter their results into ``b.env``."""
        relax = T.relax
        b.node = nodes[0]
        recorder = Recorder(b.env.__getitem__, reasons)
        for node in nodes:
            recorder.add(node)
        wanted = recorder.results(nodes)
        vals = [_handed_back(recorder.vals[where]) for _, where in wanted]
        self.rows.append(
            Island(
                tuple(recorder.steps),
                tuple(where for _, where in wanted),
                tuple(map(_type, vals)),
                _bytes([*recorder.tensor_nodes, *(node for node, _ in wanted)]),
            )
        )
        self.members.append(list(nodes))
        self.reasons.update((node, reasons[node]) for node in nodes if node in reasons)
        _register()
        types = [_type_without_sizes(b, val) for val in vals]
        call = b.emit(
            relax.op.call_pure_packed(
                ISLAND,
                T.ir.StringImm(self.key),
                relax.prim_value(len(self.rows) - 1),
                relax.ShapeExpr(recorder.sizes),
                *recorder.tensors,
                ty_args=[relax.TupleType(types)],
            )
        )
        values = {}
        for index, ((node, where), val) in enumerate(zip(wanted, vals, strict=True)):
            b.node = node
            value = b.match_cast(b.emit(relax.TupleGetItem(call, index)), val)
            values[where] = _entered(b, value, recorder.vals[where])
        recorder.enter(nodes, values, b.env)

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
        # The program was captured without the caller's modes, such as autocast or a default device.
        with plainly(), torch._C.DisableTorchFunction():
            results = [_as_tensor(value) for value in self._call(index)(inputs, sizes)]
            _check_types(self.rows[index], results)
            taken = {tensor.untyped_storage().data_ptr() for tensor in inputs}
            own = []
            for result in results:
                if result.untyped_storage().data_ptr() in taken:
                    result = result.clone(memory_format=torch.contiguous_format)
                taken.add(result.untyped_storage().data_ptr())
                own.append(result)
        return [prepare(result) for result in own]

    def _call(self, index: int) -> Callable[..., list[Any]]:
        if index not in self._calls:
            row = self.rows[index]
            self._calls[index] = run_steps(row.steps, row.results)
        return self._calls[index]

    # -- as data -----------------------------------------------------------------------

    @property
    def ops(self) -> list[str]:
        """The qualified name of each operator that runs in PyTorch, once, in order."""
        return list(dict.fromkeys(step.op for row in self.rows for step in row.steps))

    def to_data(self) -> dict[str, Any]:
        """Lists and dicts for JSON."""
        return {"key": self.key, "rows": [asdict(row) for row in self.rows]}

    @staticmethod
    def from_data(data: dict[str, Any]) -> Islands:
        """Inverse of `to_data`."""
        rows = [
            Island(
                tuple(Step(**step) for step in row["steps"]),
                tuple((step, position) for step, position in row["results"]),
                tuple((dtype, tuple(shape)) for dtype, shape in row["types"]),
                row["bytes"],
            )
            for row in data["rows"]
        ]
        return Islands(data["key"], rows)


_ACTIVE: WeakValueDictionary[str, Islands] = WeakValueDictionary()


@cache
def _register() -> None:
    def island(key: str, index: int, sizes: Sequence[int], *tensors: Any) -> list[Any]:
        return _ACTIVE[str(key)].run(int(index), [int(size) for size in sizes], tensors)

    enter(ISLAND, island)


_KINDS = {
    torch.SymFloat: torch.float64,
    torch.SymBool: torch.bool,
    torch.SymInt: torch.int64,
    float: torch.float64,
    bool: torch.bool,
    int: torch.int64,
}
_RESULTS = (torch.Tensor, *_KINDS, type(None))


def _handed_back(val: Any) -> torch.Tensor:
    """What a result is on its way back: numbers are tensors without dims."""
    return val if isinstance(val, torch.Tensor) else torch.empty((), dtype=_KINDS[type(val)], device="meta")


def _entered(b: Any, value: Any, val: Any) -> Any:
    """What calls that follow take for a result: an integer is a size, a constant stays one."""
    if not isinstance(val, torch.SymInt):
        return val if isinstance(val, int | float) else value
    b.bind_size(val, value)
    return b.size(val)


def _type(val: torch.Tensor) -> tuple[str, tuple[int | None, ...]]:
    return dtype_name(val.dtype), tuple(size if isinstance(size, int) else None for size in val.shape)


def _check_types(row: Island, results: Sequence[torch.Tensor | None]) -> None:
    """Raise where an operator's kernel gives another dtype or shape than its fake kernel told of."""
    for result, (dtype, shape), (step, position) in zip(results, row.types, row.results, strict=False):
        fits = (
            result is not None
            and dtype == dtype_name(result.dtype)
            and len(shape) == result.dim()
            and all(size in (None, real) for size, real in zip(shape, result.shape, strict=True))
        )
        if not fits:
            found = "no tensor" if result is None else f"{dtype_name(result.dtype)}{list(result.shape)}"
            told = ", ".join("?" if size is None else str(size) for size in shape)
            raise RunError(
                f"result {position} of {row.steps[step].op} is {found}, but its fake kernel told of {dtype}[{told}]"
            )


def _type_without_sizes(b: Any, val: torch.Tensor) -> Any:
    whole = b.type(val)
    return T.TensorType(dtype=whole.dtype, ndim=whole.ndim)


def _as_tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor | None):
        return value
    return torch.tensor(value, dtype=_KINDS[type(value)])


def _bytes(nodes: Sequence[fx.Node]) -> int | str:
    total: Any = 0
    for node in nodes:
        vals = node.meta["val"]
        for val in vals if isinstance(vals, tuple | list) else (vals,):
            if isinstance(val, torch.Tensor):
                total = total + val.numel() * val.element_size()
    return size_text(total)
