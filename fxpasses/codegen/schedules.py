"""Schedules for CPU kernels, chosen by rule.

`schedule` gives each kernel of a module loops that run in parallel and in
vectors. A kernel is a row of blocks, each of which computes one buffer. Cheap
elementwise blocks are inlined into those that read them; what remains is
scheduled by the first rule that fits:

==============  ======================================================================
`_product`      a sum of products (matmul): a tile of the output stays in registers
                while the summed axis runs; what follows it is computed in the tile
`_rows`         blocks that share their leading loops (softmax, layer norm): one
                parallel loop over rows, all blocks of a row inside
`_reduction`    a sum, maximum, ... by itself: in vectors along the summed axis or
                across it, whichever is contiguous
`_elementwise`  the rest: outer loops in parallel, the innermost in vectors
==============  ======================================================================

A rule that does not fit leaves the kernel as it was; the schedule primitives
check that each step keeps the meaning.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fxpasses.codegen.padding import pad_summed_axes
from fxpasses.codegen.target import target_features, vector_bytes
from fxpasses.relax import tvm_api as T

__all__ = ["CpuInfo", "schedule", "schedule_function"]

log = logging.getLogger(__name__)

# Below this many elements the start of the threads costs more than it saves.
_PARALLEL_ELEMENTS = 16384

# Intermediate rows up to this size live on the stack of a thread.
_STACK_BYTES = 32768


@dataclass(frozen=True)
class CpuInfo:
    """What the rules need to know of a CPU: bytes in a vector register, and how many there are."""

    vector_bytes: int
    registers: int

    @staticmethod
    def of(target: Any) -> CpuInfo:
        wide = vector_bytes(target)
        known = "avx512f" in target_features(target) or not target_features(target)
        return CpuInfo(wide, 32 if known and wide != 32 else 16)

    def lanes(self, dtype: Any) -> int:
        """Values of *dtype* in a register."""
        return max(self.vector_bytes * 8 // max(dtype.bits, 8), 1)


def schedule(target: Any, trial: Callable[[Any], Any] | None = None) -> Any:
    """The module pass that schedules every kernel for *target*.

    *trial* is called with each scheduled kernel; one for which it raises an
    error stays as it was.
    """
    cpu = CpuInfo.of(target)

    def run(mod: Any, _context: Any) -> Any:
        updates = {}
        for name, function in mod.functions_items():
            if isinstance(function, T.tirx.PrimFunc) and "tirx.is_scheduled" not in (function.attrs or {}):
                updates[name] = _tried(schedule_function(function, cpu), function, trial)
        for name, function in updates.items():
            mod.update_func(name, function)
        return mod

    return T.tvm.transform.module_pass(run, opt_level=0, name="fxpasses.schedule")


def _tried(scheduled: Any, function: Any, trial: Callable[[Any], Any] | None) -> Any:
    if trial is None:
        return scheduled
    try:
        trial(scheduled)
    except (RuntimeError, TypeError, ValueError) as error:
        log.warning("a schedule was left out, because TVM cannot lower it: %s", error)
        return function
    return scheduled


def schedule_function(function: Any, cpu: CpuInfo) -> Any:
    """*function* scheduled; as it was where no rule fits."""
    for inline in (True, False):
        kernel = _Kernel(function, cpu)
        try:
            if inline:
                kernel.inline()
            kernel.pad()
            kernel.schedule()
        except (T.ScheduleError, T.InternalError):
            continue
        return kernel.sch.mod["main"].with_attr("tirx.is_scheduled", True)
    return function


# -- a kernel and its blocks --------------------------------------------------------


class _NoFit(Exception):
    """A rule does not apply to a kernel."""


class _Block:
    """A block of a kernel, as it is now."""

    def __init__(self, kernel: _Kernel, rv: Any) -> None:
        self.kernel, self.rv = kernel, rv
        self.stmt = kernel.sch.get(rv)
        self.name: str = self.stmt.name_hint
        body = self.stmt.body
        self.store = body if isinstance(body, T.tirx.BufferStore) else None

    @cached_property
    def kinds(self) -> str:
        """For each axis ``S`` (of the output), ``R`` (summed) or ``O`` (another)."""
        letters = {T.tirx.IterVar.DataPar: "S", T.tirx.IterVar.CommReduce: "R"}
        return "".join(letters.get(axis.iter_type, "O") for axis in self.stmt.iter_vars)

    @cached_property
    def vars(self) -> list[Any]:
        return [axis.var for axis in self.stmt.iter_vars]

    @cached_property
    def extents(self) -> list[int | None]:
        """The length of each axis; None where it is symbolic."""
        return [_int(axis.dom.extent) for axis in self.stmt.iter_vars]

    @property
    def loops(self) -> list[Any]:
        return list(self.kernel.sch.get_loops(self.rv))

    @cached_property
    def loads(self) -> list[Any]:
        """All loads in the body, the accumulator of a reduction left out."""
        assert self.store is not None
        own = self.store.buffer if "R" in self.kinds else None
        loads: list[Any] = []
        T.tvm_ffi.structural_walk(self.stmt.body, (T.ir.TensorLoad, _returning_none(loads.append)))
        return [load for load in loads if own is None or not load.source.same_as(own)]

    @cached_property
    def is_plain(self) -> bool:
        """Whether every axis is a loop of its own, so that loops can be told from axes."""
        return len(self.loops) == len(self.vars)

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether each step makes one element of the output from no other."""
        return (
            self.store is not None
            and set(self.kinds) <= {"S"}
            and self.stmt.init is None
            and len(self.store.indices) == len(self.vars)
            and all(i.same_as(v) for i, v in zip(self.store.indices, self.vars, strict=True))
        )

    @cached_property
    def is_reduction(self) -> bool:
        """Whether it is a sum, a maximum or the like, with its summed axes last."""
        return (
            self.store is not None
            and self.stmt.init is not None
            and "R" in self.kinds
            and self.kinds == "S" * self.rank + "R" * (len(self.kinds) - self.rank)
            and len(self.store.indices) == self.rank
            and all(i.same_as(v) for i, v in zip(self.store.indices, self.vars, strict=False))
        )

    @property
    def rank(self) -> int:
        """How many axes are not summed."""
        return self.kinds.count("S")

    @cached_property
    def is_padded(self) -> bool:
        """Whether `pad_summed_axes` put a condition into it."""
        found: list[Any] = []
        T.tvm_ffi.structural_walk(
            self.stmt.body, (T.ir.Call, _returning_none(lambda call: found.append(_op_name(call))))
        )
        return "likely" in found

    @cached_property
    def factors(self) -> tuple[Any, Any] | None:
        """The two loads of ``C[...] = C[...] + A[...] * B[...]``, None for another body."""
        if not self.is_reduction or not isinstance(self.store.value, T.tirx.Add):  # type: ignore[union-attr]
            return None
        total, term = self.store.value.a, self.store.value.b  # type: ignore[union-attr]
        if not isinstance(total, T.ir.TensorLoad) or not total.source.same_as(self.store.buffer):  # type: ignore[union-attr]
            return None
        if not isinstance(term, T.tirx.Mul):
            return None
        sides = tuple(s.value if isinstance(s, T.tirx.Cast) else s for s in (term.a, term.b))
        return sides if all(isinstance(s, T.ir.TensorLoad) for s in sides) else None  # type: ignore[return-value]

    @cached_property
    def is_costly(self) -> bool:
        """Whether its value takes more than a few instructions."""
        found: list[Any] = []
        T.tvm_ffi.structural_walk(
            self.stmt.body,
            [
                (T.ir.Call, _returning_none(lambda call: found.append(_op_name(call) not in _CHEAP))),
                (T.tirx.Div, _returning_none(lambda _: found.append(True))),
            ],
        )
        return any(found)

    def lanes(self, cpu: CpuInfo) -> int:
        """Elements that one vector step makes: as many as fit of the widest type."""
        assert self.store is not None
        dtypes = [load.source.dtype for load in self.loads] + [self.store.buffer.dtype]
        return min(map(cpu.lanes, dtypes))

    def loads_of(self, other: _Block) -> list[Any]:
        """The loads of this block that read what *other* makes."""
        assert other.store is not None
        return [load for load in self.loads if load.source.same_as(other.store.buffer)]

    def uses(self, expressions: Any) -> set[int]:
        """The positions of the axes that occur in *expressions*."""
        found: list[Any] = []
        for expression in expressions:
            T.tvm_ffi.structural_walk(expression, (T.tirx.Var, _returning_none(found.append)))
        return {i for i, var in enumerate(self.vars) if any(var.same_as(f) for f in found)}


_CHEAP = {
    *(
        "if_then_else",
        "likely",
        "isnan",
        "fabs",
        "floor",
        "ceil",
        "trunc",
        "round",
        "nearbyint",
        "reinterpret",
    ),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "shift_left", "shift_right"),
}


class _Kernel:
    """A kernel while it is scheduled."""

    def __init__(self, function: Any, cpu: CpuInfo) -> None:
        self.cpu = cpu
        self._start(function)

    def _start(self, function: Any) -> None:
        self.sch = T.s_tir.Schedule(T.tvm.IRModule({"main": function}), error_render_level="none")

    def block(self, rv: Any) -> _Block:
        return _Block(self, rv)

    def blocks(self) -> list[_Block]:
        """The blocks in the order in which they run."""
        return [self.block(rv) for rv in self.sch.get_child_blocks(self.sch.get_sblock("root"))]

    def inline(self) -> None:
        """Inline elementwise blocks into those that read them, where that repeats little work."""
        for block in self.blocks():
            readers = [self.block(rv) for rv in self.sch.get_consumers(block.rv)]
            if readers and block.is_elementwise and _worth_inlining(block, readers):
                try:
                    self.sch.compute_inline(block.rv)
                except T.ScheduleError:
                    continue  # it stays a block of its own

    def pad(self) -> None:
        """Pad summed axes that run in vectors to whole ones."""
        sizes = {
            block.name: lanes
            for block in self.blocks()
            if (lanes := _sum_lanes(self, block)) > 1 and _needs_padding(block, lanes)
        }
        if sizes:
            self._start(pad_summed_axes(self.sch.mod["main"], sizes))

    def schedule(self) -> None:
        """Apply the rules to the blocks."""
        blocks = self.blocks()
        if any(0 in block.extents for block in blocks):
            return
        if len(blocks) > 1 and not any(block.factors for block in blocks) and self.attempt(_rows, blocks):
            return
        done = set()
        for block in blocks:
            if block.factors:
                tail = _tail(self, blocks, block)
                if self.attempt(_product, block, tail):
                    done |= {block.name, tail.name if tail is not None else ""}
        for block in blocks:
            if block.name in done:
                continue
            block = self.block(block.rv)
            for rule in (_reduction, _elementwise, _outer):
                if self.attempt(rule, block):
                    break

    def attempt(self, rule: Callable[..., None], *args: Any) -> bool:
        """Apply a rule; where it fails half way, the kernel is as it was before."""
        before = self.sch
        self.sch = before.copy()
        try:
            rule(self, *args)
        except (_NoFit, T.ScheduleError, T.InternalError):
            self.sch = before
            return False
        return True

    # -- steps that rules share ----------------------------------------------------------

    def fuse(self, loops: Sequence[Any]) -> Any:
        """One loop for several."""
        return self.sch.fuse(*loops) if len(loops) > 1 else loops[0]

    def move(self, block: Any, loop: Any, *, after: bool = False) -> None:
        """Compute *block* inside *loop*, before (or after) what is there.

        TVM 0.27 forgets the condition of a block that it moves, so one with a
        condition stays where it is.
        """
        if _int(T.block_realize(self.sch, block).predicate) != 1:
            raise _NoFit
        (self.sch.reverse_compute_at if after else self.sch.compute_at)(
            block, loop, preserve_unit_loops=not after
        )

    def extent(self, loop: Any) -> int | None:
        return _int(self.sch.get(loop).extent)

    def parallel(self, loop: Any, work: float) -> None:
        """Run *loop* in threads, if the *work* (elements, in all) pays for it."""
        if work >= _PARALLEL_ELEMENTS and self.extent(loop) != 1:
            self.sch.parallel(loop)

    def vectorize(self, loop: Any, lanes: int, *, guarded: bool = False) -> None:
        """Run *loop* in vectors: whole ones, and a rest.

        *guarded* says that the loop may run past the end, behind a condition.
        """
        extent = self.extent(loop)
        if lanes < 2 or (extent is not None and extent < 4):
            return
        if extent is not None and extent <= lanes and not guarded:
            self.sch.vectorize(loop)
            return
        outer, inner = self.sch.split(loop, [None, lanes])
        if guarded or extent is None or extent % lanes:
            self.sch.annotate(outer, "pragma_loop_partition_hint", 1)
        self.sch.vectorize(inner)

    def unroll(self, loop: Any) -> None:
        extent = self.extent(loop)
        if extent is not None and 1 < extent <= 16:
            self.sch.unroll(loop)

    def in_registers(self, loops: Sequence[Any]) -> None:
        """Unroll *loops*, and run the last of them as one vector."""
        *outer, last = loops
        if self.extent(last) != 1:
            self.sch.vectorize(last)
        for loop in outer:
            self.unroll(loop)

    def keep_on_stack(self, block: _Block, elements: int | None) -> None:
        """Let what *block* makes, *elements* at a time, live on the stack if it is small."""
        assert block.store is not None
        if elements is not None and elements * block.store.buffer.dtype.bits // 8 <= _STACK_BYTES:
            self.sch.set_scope(block.rv, 0, "local")


def _worth_inlining(block: _Block, readers: list[_Block]) -> bool:
    if any(reader.store is None or reader.factors for reader in readers):
        return False  # a product reads each element many times, and wants plain loads
    loads = [(reader, load) for reader in readers for load in reader.loads_of(block)]
    if len(loads) > 4:
        return False
    if not block.is_costly:
        return True
    # Not if the value is used more than once, or for many elements of a reader.
    return len(loads) == 1 and all(_used_once(reader, load) for reader, load in loads)


def _used_once(reader: _Block, load: Any) -> bool:
    used = reader.uses(load.indices)
    return all(i in used or extent == 1 for i, extent in enumerate(reader.extents))


def _tail(kernel: _Kernel, blocks: list[_Block], product: _Block) -> _Block | None:
    """The elementwise block that alone reads a product, and can be computed with it."""
    readers = kernel.sch.get_consumers(product.rv)
    if len(readers) != 1:
        return None
    tail = kernel.block(readers[0])
    names = [block.name for block in blocks]
    before = names[: names.index(product.name) + 1]
    ready = all(kernel.sch.get(rv).name_hint in before for rv in kernel.sch.get_producers(tail.rv))
    return tail if ready and _reads_all(tail, product) else None


def _reads_all(tail: _Block, product: _Block) -> bool:
    """Whether each step of *tail* reads one element of *product*, and no two the same.

    If not, moving it into the loops of the product would lose the steps that
    read nothing, such as the border of a padding.
    """
    if not tail.is_elementwise:
        return False
    for load in tail.loads_of(product):
        axes = [[i for i, var in enumerate(tail.vars) if var.same_as(index)] for index in load.indices]
        if sorted(axis for found in axes for axis in found) != list(range(len(tail.vars))):
            return False
        sizes = [tail.stmt.iter_vars[axis].dom.extent for (axis,) in axes]
        if not all(map(_same, sizes, load.source.shape)):
            return False
    return True


# -- rules ---------------------------------------------------------------------------


def _product(kernel: _Kernel, block: _Block, tail: _Block | None) -> None:
    """Tile a sum of products: a few rows by a few vectors of the output stay in registers."""
    sch = kernel.sch
    if not block.is_plain:
        raise _NoFit
    m, n = _tile_axes(block)
    trivial = all(_is_trivial(load) for load in block.factors or ())
    rows, vectors, width = _tile(kernel.cpu, block, m, n, trivial)
    columns = vectors * width
    rv = block.rv
    padding = [1] * len(block.vars)
    for axis, size in ((m, rows), (n, columns)):
        extent = block.extents[axis] if axis is not None else size
        if axis is not None and (extent is None or extent % size):
            padding[axis] = size
    copies: list[Any] = []
    if any(size > 1 for size in padding):
        sources = {sch.get(p).name_hint for p in sch.get_producers(rv)}
        sch.pad_einsum(rv, padding)
        copies = [p for p in sch.get_producers(rv) if sch.get(p).name_hint not in sources]
        (back,) = sch.get_consumers(rv)
        if tail is None:
            out = back
        else:
            sch.compute_inline(back)
            out = tail.rv
    else:
        out = tail.rv if tail is not None else sch.cache_write(rv, 0, "local")
    loops = list(sch.get_loops(rv))
    outer = [loop for i, loop in enumerate(loops[: block.rank]) if i not in (m, n)]
    summed = loops[block.rank :]
    n_outer, n_vectors, n_lanes = sch.split(loops[n], [None, vectors, width])
    if m is None:
        tiles, inner = [n_outer], [n_vectors, n_lanes]
    else:
        m_outer, m_inner = sch.split(loops[m], [None, rows])
        tiles, inner = [n_outer, m_outer], [m_inner, n_vectors, n_lanes]
    sch.reorder(*outer, *tiles, *summed, *inner)
    tile = kernel.fuse([*outer, *tiles])
    kernel.parallel(tile, _count(block.extents))
    for copy in copies:
        kernel.move(copy, tile)
        kernel.vectorize(sch.get_loops(copy)[-1], block.lanes(kernel.cpu))
    kernel.move(out, tile, after=True)
    sch.set_scope(rv, 0, "local")
    kernel.in_registers(inner)
    start = sch.decompose_reduction(rv, summed[0])
    kernel.in_registers(sch.get_loops(start)[-len(inner) :])
    *lead, last = sch.get_loops(out)
    if kernel.extent(last) == columns and padding[n] == 1:  # else it stores behind a condition
        kernel.in_registers([*lead[-1:], *sch.split(last, [vectors, width])])


def _tile_axes(block: _Block) -> tuple[int | None, int]:
    """The axes of the rows (None: there is none) and of the vectors of a product's tile."""
    left, right = (block.uses(load.indices) for load in block.factors or ())
    n = block.rank - 1
    if n < 0:
        raise _NoFit
    if n in left and n not in right:
        left, right = right, left
    if n in left or n not in right:
        raise _NoFit
    others = [axis for axis in range(n) if axis in left and axis not in right]
    return (others[-1] if others else None), n


def _is_trivial(load: Any) -> bool:
    """Whether each index is an axis by itself."""
    return all(isinstance(index, T.tirx.Var | T.tirx.IntImm) for index in load.indices)


def _tile(cpu: CpuInfo, block: _Block, m: int | None, n: int, can_pad: bool) -> tuple[int, int, int]:
    """The tile that is kept in registers: rows, vectors in a row, elements in a vector."""
    assert block.store is not None
    lanes = cpu.lanes(block.store.buffer.dtype)
    vectors, width = _columns(block.extents[n], lanes, can_pad)
    if m is None:
        return 1, vectors, width
    height = block.extents[m]
    most = max(min(cpu.registers * 3 // 4 // (vectors * -(-width // lanes)), 14), 1)
    if height is not None and height <= most:
        return height, vectors, width
    if height is not None:
        for rows in range(most, max(most // 2, 1) - 1, -1):
            if height % rows == 0:
                return rows, vectors, width
    if not can_pad:
        raise _NoFit
    if height is None:
        return min(most, 8), vectors, width
    rows = min(range(max(most // 2, 1), most + 1), key=lambda rows: (-(-height // rows) * rows, -rows))
    return rows, vectors, width


def _columns(extent: int | None, lanes: int, can_pad: bool) -> tuple[int, int]:
    """How many vectors of how many elements make a row of the tile."""
    if extent is None:
        if not can_pad:
            raise _NoFit
        return 2, lanes
    if extent <= lanes:
        return 1, extent
    for width in range(lanes, lanes // (2 if can_pad else 4), -1):
        if extent % width == 0:
            count = extent // width
            return max(vectors for vectors in (4, 3, 2, 1) if count % vectors == 0), width
    if not can_pad:
        if extent > 2 * lanes:
            raise _NoFit
        return 1, extent
    return min((4, 3, 2), key=lambda vectors: -(-extent // (vectors * lanes)) * vectors), lanes


def _rows(kernel: _Kernel, blocks: list[_Block]) -> None:
    """Blocks that share their leading axes: one parallel loop over rows, all blocks inside."""
    sch = kernel.sch
    if not all(block.is_plain and (block.is_elementwise or block.is_reduction) for block in blocks):
        raise _NoFit
    *inner, last = blocks
    reductions = [block for block in blocks if block.is_reduction]
    if not reductions or len(sch.get_output_blocks("root")) != 1:
        raise _NoFit
    shared = min(block.rank for block in reductions)
    if shared == 0 or (len(last.vars) <= shared and not last.is_reduction):
        raise _NoFit
    if any(block.rank < shared for block in blocks) or any(_vector_axis(b) is not None for b in reductions):
        raise _NoFit
    work = max(_count(block.extents) for block in blocks)
    sizes = {block.name: _maybe_product(block.extents[shared : block.rank]) for block in inner}
    lanes = {block.name: block.lanes(kernel.cpu) for block in blocks}
    parts = {block.name: _split_sum(kernel, block) for block in reductions}
    row = kernel.fuse(sch.get_loops(last.rv)[:shared])
    kernel.parallel(row, work)
    for block in reversed(blocks):
        if block is not last:
            kernel.move(block.rv, row)
            kernel.keep_on_stack(block, sizes[block.name])
        part = parts.get(block.name)
        if part is not None:
            kernel.move(part, row)
            _vector_sum(kernel, part, block)
    for block in blocks:
        if block.is_elementwise:
            loops = sch.get_loops(block.rv)[1:]
            if loops:
                kernel.vectorize(loops[-1], lanes[block.name])


def _sum_lanes(kernel: _Kernel, block: _Block) -> int:
    """Into how many lanes a reduction along contiguous memory is split; 1 to leave it whole."""
    if (
        not (block.is_reduction and block.is_plain and block.rank)
        or block.factors
        or _vector_axis(block) is not None
    ):
        return 1
    lanes = block.lanes(kernel.cpu)
    summed = block.extents[block.rank :]
    count = _maybe_product(summed)
    if count is not None and count < 2 * lanes:
        return 1
    if (count is None or count % lanes) and (len(summed) > 1 or not _can_pad(block)):
        return 1
    return lanes


def _needs_padding(block: _Block, lanes: int) -> bool:
    count = _maybe_product(block.extents[block.rank :])
    return count is None or count % lanes != 0


def _can_pad(block: _Block) -> bool:
    """Whether its value combines the accumulator and one term, and starts from what changes nothing."""
    assert block.store is not None
    tirx = T.tirx
    value = block.store.value
    combines = isinstance(value, tirx.Add | tirx.Mul | tirx.Max | tirx.Min)
    return (
        combines
        and isinstance(block.stmt.init, tirx.BufferStore)
        and _is_neutral(value, block.stmt.init.value)
    )


def _is_neutral(value: Any, start: Any) -> bool:
    """Whether *start* changes nothing in a sum, product, maximum or minimum."""
    number = getattr(start, "value", None)
    if number is None:
        return False
    if isinstance(value, T.tirx.Add | T.tirx.Mul):
        return float(number) == (0 if isinstance(value, T.tirx.Add) else 1)
    dtype = start.ty.dtype
    bound = T.tirx.min_value(dtype) if isinstance(value, T.tirx.Max) else T.tirx.max_value(dtype)
    worst = -math.inf if isinstance(value, T.tirx.Max) else math.inf
    return float(number) in (float(bound.value), worst)


def _split_sum(kernel: _Kernel, block: _Block) -> Any:
    """Split the summed axes of *block* into a sum for each lane and a sum of the lanes.

    Returns the block that sums for each lane; None where the axis stays whole.
    """
    sch = kernel.sch
    lanes = _sum_lanes(kernel, block)
    if lanes == 1:
        return None
    _, inner = sch.split(kernel.fuse(block.loops[block.rank :]), [None, lanes])
    return sch.rfactor(inner, block.rank)


def _vector_sum(kernel: _Kernel, part: Any, block: _Block) -> None:
    """Run the block of `_split_sum`, which is at its row by now, in vectors."""
    sch = kernel.sch
    # Its axes, and so its loops below the row, are the lane, those of the output, and the steps.
    lane, *_, steps = sch.get_loops(part)[1:]
    sch.reorder(steps, lane)
    sch.vectorize(lane)
    start = sch.decompose_reduction(part, steps)
    sch.vectorize(sch.get_loops(start)[-1])
    if block.is_padded:
        sch.annotate(steps, "pragma_loop_partition_hint", 1)
    sch.set_scope(part, 0, "local")


def _vector_axis(block: _Block) -> int | None:
    """The axis of the output along which the main operand of a reduction is contiguous, if one is."""
    load = max(block.loads, key=lambda load: len(block.uses(load.indices)), default=None)
    if load is None or not len(load.indices):
        return None
    return max((axis for axis in block.uses([load.indices[-1]]) if block.kinds[axis] == "S"), default=None)


def _reduction(kernel: _Kernel, block: _Block) -> None:
    """A reduction by itself."""
    sch = kernel.sch
    if not (block.is_reduction and block.is_plain and block.rank):
        raise _NoFit
    work = _count(block.extents)
    lanes = block.lanes(kernel.cpu)
    axis = _vector_axis(block)
    loops = block.loops
    if axis is None:
        part = _split_sum(kernel, block)
        row = kernel.fuse(sch.get_loops(block.rv)[: block.rank])
        kernel.parallel(row, work)
        if part is not None:
            kernel.move(part, row)
            _vector_sum(kernel, part, block)
        return
    others = [loop for i, loop in enumerate(loops[: block.rank]) if i != axis]
    summed = loops[block.rank :]
    extent = kernel.extent(loops[axis])
    if extent is None or extent > 4 * lanes:
        outer, inner = sch.split(
            loops[axis], [None, 4 * lanes if extent is None or extent >= 64 * lanes else lanes]
        )
        others.append(outer)
    else:
        inner = loops[axis]
    sch.reorder(*others, *summed, inner)
    if others:
        kernel.parallel(kernel.fuse(others), work)
    size = kernel.extent(inner)
    if size is not None and size > 1:
        sch.vectorize(inner)
        sch.vectorize(sch.get_loops(sch.decompose_reduction(block.rv, summed[0]))[-1])


def _elementwise(kernel: _Kernel, block: _Block) -> None:
    """Outer loops in parallel, the innermost in vectors."""
    if not (block.is_elementwise and block.is_plain and block.vars):
        raise _NoFit
    lanes = block.lanes(kernel.cpu)
    loops = block.loops
    flat = _flat_axes(block)
    outer, inner = loops[: len(loops) - flat], kernel.fuse(loops[len(loops) - flat :])
    guarded = False
    if not outer:
        extent = kernel.extent(inner)
        size = _chunk(extent, lanes)
        if size is not None:
            guarded = extent is None or extent % size != 0
            chunk, inner = kernel.sch.split(inner, [None, size])
            outer = [chunk]
    if outer:
        kernel.parallel(kernel.fuse(outer), _count(block.extents))
    kernel.vectorize(inner, lanes, guarded=guarded)


def _flat_axes(block: _Block) -> int:
    """How many of the last axes all operands run through as one stretch of memory, or not at all."""
    assert block.store is not None
    count = 1
    while count < len(block.vars):
        axes = range(len(block.vars) - count - 1, len(block.vars))
        accesses = [(load.source, load.indices) for load in block.loads]
        accesses.append((block.store.buffer, block.store.indices))
        if not all(_is_stretch(block, buffer, indices, axes) for buffer, indices in accesses):
            break
        count += 1
    return count


def _is_stretch(block: _Block, buffer: Any, indices: Any, axes: range) -> bool:
    if not block.uses(indices) & set(axes):
        return True
    if len(indices) < len(axes):
        return False
    tail = list(zip(indices, buffer.shape, strict=True))[-len(axes) :]
    whole = all(
        index.same_as(block.vars[axis]) and _same(size, block.stmt.iter_vars[axis].dom.extent)
        for (index, size), axis in zip(tail, axes, strict=True)
    )
    return whole and not block.uses(indices[: len(indices) - len(axes)]) & set(axes)


def _chunk(extent: int | None, lanes: int) -> int | None:
    """How much of a flat loop one thread takes at a time; None to take all of it."""
    if extent is None:
        return 64 * lanes
    if extent < _PARALLEL_ELEMENTS:
        return None
    if extent % lanes == 0:
        vectors = extent // lanes
        return lanes * max(size for size in range(1, 129) if vectors % size == 0)
    return 64 * lanes


def _outer(kernel: _Kernel, block: _Block) -> None:
    """A block of any other form: its leading loops over the output in parallel."""
    count = len(block.kinds) - len(block.kinds.lstrip("S"))
    if not (count and block.is_plain):
        raise _NoFit
    kernel.parallel(kernel.fuse(block.loops[:count]), _count(block.extents))


# -- small helpers --------------------------------------------------------------------


def _int(value: Any) -> int | None:
    return int(value) if isinstance(value, T.tirx.IntImm) else None


def _same(a: Any, b: Any) -> bool:
    return bool(T.tvm_ffi.structural_equal(a, b)) or (_int(a) is not None and _int(a) == _int(b))


def _maybe_product(extents: Sequence[int | None]) -> int | None:
    """The product of *extents*, None where one is symbolic."""
    return None if None in extents else math.prod(extents)  # type: ignore[arg-type]


def _count(extents: Sequence[int | None]) -> float:
    """The number of elements, infinite where it is symbolic."""
    count = _maybe_product(extents)
    return math.inf if count is None else count


def _op_name(call: Any) -> str:
    return str(getattr(call.op, "name", "")).rpartition(".")[2]


def _returning_none(function: Callable[[Any], Any]) -> Callable[[Any], None]:
    """The function for a walk, which takes a returned value as an instruction."""

    def run(node: Any) -> None:
        function(node)

    return run
