"""`mask_vectors`: vectors of which only the first lanes are there, as many as shows at run time.

A pass that writes loops puts a vector that may run past the end into `first_lanes`.
This one runs when the vectors are written out, and makes each load from memory and
each store to it a masked one. What TVM has left as a loop over lanes asks before
each of them.
"""

from __future__ import annotations

from typing import Any

from fxpasses.codegen.loop_writer import at_place
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.relax import tvm_api as T

__all__ = ["first_lanes", "mask_vectors", "may_be_masked"]

_MASKED = "fxpasses.masked"

# Masked stores of narrower elements are where LLVM 22 goes wrong: see `fxpasses.codegen.build`.
_LEAST_BITS = 32


def first_lanes(count: Any, vector: Any) -> Any:
    """The first *count* steps of *vector*, a loop over its lanes around a single statement."""
    if may_be_masked(vector):
        return T.tirx.AttrStmt(T.tirx.IntImm("int32", 0), _MASKED, count, vector)
    return T.tirx.IfThenElse(
        count >= vector.extent, vector, _one_by_one(count, vector, T.tirx.ForKind.SERIAL)
    )


def may_be_masked(vector: Any) -> bool:
    """Whether what *vector*, a loop over its lanes, takes to memory is one masked store."""
    store = vector.body
    if not isinstance(store, T.tirx.BufferStore):  # behind a condition, as of a concatenation
        return False
    if store.buffer.scope() == "local":
        return True
    return store.buffer.dtype.bits >= _LEAST_BITS and _step(store.indices[-1], vector.loop_var) == 1


def mask_vectors() -> Any:
    """The pass."""

    def run(function: Any, _mod: Any, _context: Any) -> Any:
        return T.tvm_ffi.structural_map(function, [(T.tirx.AttrStmt, _masked)])

    return T.tirx.transform.prim_func_pass(run, opt_level=0, name="fxpasses.mask_vectors")


def _masked(statement: Any) -> Any:
    if statement.attr_key != _MASKED:
        return statement
    count, body = statement.value, statement.body
    if isinstance(body, T.tirx.For):
        return _one_by_one(count, body, body.kind)

    def load(node: Any) -> Any:
        return _load(node, count)

    def store(node: Any) -> Any:
        return _store(node, count)

    return T.tvm_ffi.structural_map(body, [(T.ir.TensorLoad, load), (T.tirx.BufferStore, store)])


def _one_by_one(count: Any, loop: Any, kind: Any) -> Any:
    within = T.tirx.IfThenElse(loop.loop_var < count, loop.body, None)
    return T.tirx.For(loop.loop_var, loop.min, loop.extent, kind, within)


def _load(load: Any, count: Any) -> Any:
    index = load.indices[-1]
    lanes = int(index.ty.dtype.lanes)
    if lanes == 1 or load.source.scope() == "local":
        return load
    mask = _mask(count, lanes)
    if isinstance(index, T.tirx.Ramp) and int_value(index.stride) == 1 and str(load.source.dtype) != "bool":
        return T.tirx.op.masked_load(str(load.ty.dtype), load.source, *load.indices, mask)
    first = T.tirx.Broadcast(
        T.tirx.IntImm(_scalar(index), 0), lanes
    )  # some element, for lanes that are not there
    return T.tirx.BufferLoad(load.source, [*load.indices[:-1], T.tirx.Select(mask, index, first)])


def _store(store: Any, count: Any) -> Any:
    """*store* behind one to the stack, which the passes for what values are made of know."""
    if store.buffer.scope() == "local":
        return store
    tirx = T.tirx
    lanes = int(store.indices[-1].ty.dtype.lanes)
    made = tirx.decl_buffer((lanes,), str(store.buffer.dtype), "made", scope="local", layout=None)
    places = [tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)]
    value = tirx.BufferLoad(made, places)
    masked = tirx.op.masked_store(store.buffer, value, *store.indices, _mask(count, lanes))
    return tirx.SeqStmt(
        [tirx.AllocBuffer(made), tirx.BufferStore(made, store.value, places), tirx.Evaluate(masked)]
    )


def _mask(count: Any, lanes: int) -> Any:
    """Whether each lane is among the first *count*."""
    tirx = T.tirx
    some = tirx.min(count, tirx.IntImm(_scalar(count), lanes)).astype("int32")
    lane = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)
    return lane < tirx.Broadcast(some, lanes)


def _step(index: Any, lane: Any) -> int | None:
    """How far apart two neighbours are."""
    return int_value(T.Analyzer().simplify(at_place(index, {lane: lane + 1}) - index))


def _scalar(value: Any) -> str:
    return str(value.ty.dtype.with_lanes(1))
