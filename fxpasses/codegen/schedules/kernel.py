"""`Kernel`: a kernel while it is scheduled, and the steps that the rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fxpasses.codegen.schedules.block import Block
from fxpasses.codegen.schedules.expressions import int_value
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import PARALLEL_ELEMENTS

__all__ = ["STACK_BYTES", "VECTORS", "Kernel", "NoFit"]

VECTORS = "fxpasses.vectors"
"""The annotation of a loop that `fxpasses.codegen.vectors` writes out: how many lanes a vector has."""

# Intermediate rows up to this size live on the stack of a thread.
STACK_BYTES = 32768


class NoFit(Exception):
    """A rule does not apply to a kernel."""


class Kernel:
    """A kernel while it is scheduled."""

    def __init__(self, function: Any, cpu: CpuInfo) -> None:
        self.cpu = cpu
        self.start(function)

    def start(self, function: Any) -> None:
        """Go on with *function*."""
        self.sch = T.s_tir.Schedule(T.tvm.IRModule({"main": function}), error_render_level="none")

    def block(self, rv: Any) -> Block:
        return Block(self, rv)

    def blocks(self) -> list[Block]:
        """The blocks in the order in which they run."""
        return [self.block(rv) for rv in self.sch.get_child_blocks(self.sch.get_sblock("root"))]

    def attempt(self, rule: Callable[..., None], *args: Any) -> bool:
        """Apply a rule; where it fails half way, the kernel is as it was before."""
        before = self.sch
        self.sch = before.copy()
        try:
            rule(self, *args)
        except (NoFit, T.ScheduleError, T.InternalError):
            self.sch = before
            return False
        return True

    # -- steps that rules share ----------------------------------------------------------

    def fuse(self, loops: Sequence[Any], *blocks: Block) -> Any:
        """One loop for several around *blocks*.

        Not around one that wraps indices round: where TVM 0.27 makes an address of
        ``(i // 56 + 3) % 56`` and ``(i % 56 + 3) % 56``, it forgets the second 3.
        """
        if len(loops) > 1 and any(block.wraps_round for block in blocks):
            raise NoFit
        return self.sch.fuse(*loops) if len(loops) > 1 else loops[0]

    def without_units(self, loops: Sequence[Any]) -> list[Any]:
        """*loops*, with those of a single step at their end made one with the last of the others."""
        units = 0
        while units < len(loops) - 1 and self.extent(loops[-1 - units]) == 1:
            units += 1
        return [*loops[: -1 - units], self.sch.fuse(*loops[-1 - units :])] if units else [*loops]

    def move(self, block: Any, loop: Any, *, after: bool = False) -> None:
        """Compute *block* inside *loop*, before (or after) what is there.

        TVM 0.27 forgets the condition of a block that it moves, so one with a
        condition stays where it is.
        """
        if int_value(T.block_realize(self.sch, block).predicate) != 1:
            raise NoFit
        (self.sch.reverse_compute_at if after else self.sch.compute_at)(
            block, loop, preserve_unit_loops=not after
        )

    def extent(self, loop: Any) -> int | None:
        return int_value(self.sch.get(loop).extent)

    def parallel(self, loop: Any, work: float) -> None:
        """Run *loop* in threads, if the *work* (elements, in all) pays for it."""
        if work >= PARALLEL_ELEMENTS and self.extent(loop) != 1:
            self.sch.parallel(loop)

    def vectorize(self, loop: Any, lanes: int, *, guarded: bool = False) -> None:
        """Run *loop* in vectors: whole ones, and a rest.

        *guarded* says that the loop may run past the end, behind a condition, at
        which it is split.
        """
        extent = self.extent(loop)
        if lanes < 2 or (extent is not None and extent < 4):
            return
        if extent is not None and extent <= lanes and not guarded:
            self.sch.vectorize(loop)
        elif guarded:
            outer, inner = self.sch.split(loop, [None, lanes])
            self.sch.annotate(outer, "pragma_loop_partition_hint", 1)
            self.sch.vectorize(inner)
        else:
            self.sch.annotate(loop, VECTORS, lanes)

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

    def keep_on_stack(self, block: Block, elements: int | None) -> None:
        """Let what *block* makes, *elements* at a time, live on the stack if it is small."""
        assert block.store is not None
        if elements is not None and elements * block.store.buffer.dtype.bits // 8 <= STACK_BYTES:
            self.sch.set_scope(block.rv, 0, "local")
