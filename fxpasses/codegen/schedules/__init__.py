"""Schedules for CPU kernels, chosen by rule.

`schedule` gives each kernel of a module loops that run in parallel and in
vectors. A kernel is a row of blocks, each of which computes one buffer. Cheap
elementwise blocks are inlined into those that read them; what remains is
scheduled by the first rule that fits:

=================  ===================================================================
kernel of blocks   `rows`: a softmax or a norm, all blocks of a row in one loop
each product       `panels` where its right operand is made here; otherwise
                   the first of `TILE_RULES` that fits, with what follows it
each other block   the first of `BLOCK_RULES` that fits
=================  ===================================================================

A product with a turned matrix, of sizes known only at run time, has a second
part for few rows (`for_few_rows`), which is the only one where they are known to be few.

Some rules leave loops whole and annotate them, where a split would cost TVM its
sight of what lies side by side in memory, or needs a last step of another form:
the passes `lanes`, `columns`, `dots`, `turned` and `vectors` of `fxpasses.codegen`
write these out once only loops are left.

A rule that does not fit leaves the kernel as it was; the schedule primitives
check that each step keeps the meaning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fxpasses.codegen.schedules.cells import cells
from fxpasses.codegen.schedules.depthwise import depthwise
from fxpasses.codegen.schedules.elementwise import elementwise, outer, outermost
from fxpasses.codegen.schedules.few import for_few_rows, or_else
from fxpasses.codegen.schedules.inline import inline
from fxpasses.codegen.schedules.kernel import Kernel, NoFit
from fxpasses.codegen.schedules.packed import tiles
from fxpasses.codegen.schedules.panels import maker, panels
from fxpasses.codegen.schedules.products import product, tail_of
from fxpasses.codegen.schedules.reductions import reduction
from fxpasses.codegen.schedules.rows import rows
from fxpasses.codegen.schedules.turned import turned
from fxpasses.codegen.target import CpuInfo
from fxpasses.relax import tvm_api as T

__all__ = ["BLOCK_RULES", "TILE_RULES", "schedule", "schedule_function"]

log = logging.getLogger(__name__)

TILE_RULES = (tiles, cells, depthwise, product)
BLOCK_RULES = (reduction, turned, elementwise, outer, outermost)


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
    for steps in ((inline, _apply_rules), (_apply_rules,)):
        kernel = Kernel(function, cpu)
        try:
            for step in steps:
                step(kernel)
        except (T.ScheduleError, T.InternalError):
            continue
        made = _or_for_few(kernel.sch.mod["main"], function, cpu)
        return made.with_attr("tirx.is_scheduled", True)
    return function


def _or_for_few(made: Any, function: Any, cpu: CpuInfo) -> Any:
    """*made* of *function*, with another part for few rows where that pays."""
    kernel = Kernel(function, cpu)
    try:
        condition = for_few_rows(kernel)
    except (NoFit, T.ScheduleError, T.InternalError):
        return made
    return or_else(kernel.sch.mod["main"], condition, made)


def _apply_rules(kernel: Kernel) -> None:
    blocks = kernel.blocks()
    if any(0 in block.extents for block in blocks):
        return
    products = [block for block in blocks if block.factors or block.cell]
    if len(blocks) > 1 and not products and kernel.attempt(rows, blocks):
        return
    done = set()
    for block in reversed(products):
        if block.name in done:
            continue
        cells_of_it = maker(kernel, block)
        if cells_of_it is not None and kernel.attempt(panels, block, cells_of_it):
            done |= {block.name, cells_of_it.name}
            continue
        tail = tail_of(kernel, blocks, block)
        if any(kernel.attempt(rule, block, tail) for rule in TILE_RULES):
            done |= {block.name, tail.name if tail is not None else ""}
    for block in blocks:
        if block.name not in done:
            any(
                kernel.attempt(rule, kernel.block(block.rv)) for rule in BLOCK_RULES
            )  # up to the first that fits
