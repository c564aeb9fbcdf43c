"""`compile`: from a model to a callable, in one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_symbols
from torch.utils import _pytree as pytree

from fxpasses.codegen import cache
from fxpasses.codegen.artifact import load as load
from fxpasses.codegen.build import build
from fxpasses.codegen.explain import explain as explain
from fxpasses.codegen.island import Islands
from fxpasses.codegen.library import can_link, link, open_library
from fxpasses.codegen.optimize import optimizations
from fxpasses.codegen.plan import CallPlan
from fxpasses.codegen.runtime import Compiled, own_tensors
from fxpasses.codegen.target import resolve_target
from fxpasses.errors import CaptureError
from fxpasses.pipeline import Pass
from fxpasses.program import Program
from fxpasses.relax.checks import Check, Checks
from fxpasses.relax.emit import lower

__all__ = [
    "Lowered",
    "compile",
    "compile_canonical",
    "explain",
    "load",
    "lower_optimized",
    "to_canonical",
    "to_program",
]

aten = torch.ops.aten


def compile(
    model_or_program: Any,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    target: Any = "llvm",
    dynamic_shapes: Any = None,
    strict: bool = False,
    allow_random: bool = False,
    optimize: Pass | None = None,
) -> Compiled:
    """Compile a model for the CPU.

    Args:
        model_or_program: whatever `fxpasses.capture` takes, or a `Program`.
        args: example arguments for the capture; a `Program` needs none.
        kwargs: example keyword arguments.
        target: a TVM target; ``"llvm"`` is the CPU of this machine.
        dynamic_shapes: the sizes that vary, as for `torch.export.export`.
        strict: refuse operators without a lowering; otherwise they run in
            PyTorch inside the compiled program (`fxpasses.explain` lists them).
        allow_random: let the model draw random numbers, dropout in training included.
            They come from PyTorch's own generator, in the order of the model: after
            `torch.manual_seed` they are those that the model draws.
        optimize: the pass or `Pipeline` between the canonical form and the kernels;
            ``fxpasses.codegen.optimize.optimizations(target)`` without it, and
            ``Pipeline()`` for none.

    Returns:
        A callable on torch tensors; see `Compiled`. Its weights are a snapshot
        of the model's.

    Raises:
        CaptureError: the model cannot be captured.
        UnsupportedOperatorError: operators have no lowering, and cannot run in
            PyTorch either or *strict* forbids it.
    """
    resolved = resolve_target(target)
    program = to_program(model_or_program, args, kwargs, dynamic_shapes, allow_random)
    return compile_canonical(
        to_canonical(program), resolved, strict=strict, shared=program, optimize=optimize
    )


def to_program(
    model_or_program: Any, args: Any, kwargs: Any, dynamic_shapes: Any, allow_random: bool = False
) -> Program:
    """The captured program; one that is captured already must fit the arguments, where there are any."""
    from fxpasses.passes import CheckInference

    program = _captured(model_or_program, args, kwargs, dynamic_shapes)
    return CheckInference(allow_random=True)(program) if allow_random else program


def _captured(model_or_program: Any, args: Any, kwargs: Any, dynamic_shapes: Any) -> Program:
    if not isinstance(model_or_program, Program):
        from fxpasses.capture import capture

        return capture(model_or_program, args, kwargs, dynamic_shapes=dynamic_shapes)
    if dynamic_shapes is not None:
        raise CaptureError(
            "dynamic_shapes says how to capture a model, and this Program is captured already; "
            "give it to fxpasses.capture"
        )
    if args is not None:
        signature = model_or_program.signature
        signature.check(signature.flatten(tuple(args), dict(kwargs or {})))
    return model_or_program


def to_canonical(program: Program) -> Program:
    """*program* in canonical form."""
    from fxpasses.passes import canonicalize

    return canonicalize(program)


@dataclass(frozen=True)
class Lowered:
    """A program on its way to code.

    Attributes:
        program: in the form that *target* is given.
        module: what was emitted for it.
        checks: what its last result tells of, where there are any.
        target: of TVM.
        islands: what runs in PyTorch; None where nothing may.
    """

    program: Program
    module: Any
    checks: tuple[Check, ...]
    target: Any
    islands: Islands | None

    def build(self, shared: Program | None = None) -> Compiled:
        """The callable; *shared* is the program whose tensors a user may change."""
        code = build(self.module, self.target)
        return _assemble(self.program, self.target, code, self.checks, self.islands, shared)


def lower_optimized(
    program: Program,
    target: Any,
    *,
    strict: bool = False,
    origins: dict[tuple[str, str], fx.Node] | None = None,
) -> Lowered:
    """Lower a program that `optimize` made; *origins* is as for `fxpasses.lower`."""
    islands = None if strict else Islands()
    checks = Checks(program.inputs)
    module = lower(program, islands=islands, checks=checks, origins=origins)
    return Lowered(program, module, tuple(checks.rows), target, islands)


def with_true_sizes(program: Program) -> Program:
    """*program* for those sizes of its inputs at which its values have the sizes that capture found.

    Capture takes ``x[1:]`` to have one row less than x, and ``x[:1]`` to have one, also where x has none.
    """
    inputs = {symbol for node in program.inputs for symbol in free_symbols(node.meta["val"])}
    ranges = dict(program.ranges)
    for symbol, conditions in _conditions(program).items():
        bounds = ranges.get(symbol)
        if symbol not in inputs or bounds is None or not bounds.lower.is_Integer:
            continue
        least = int(bounds.lower)
        while least < _MOST_ROWS and not all(condition(least) for condition in conditions):
            least += 1
        if int(bounds.lower) < least <= bounds.upper:
            ranges[symbol] = type(bounds)(sympy.Integer(least), bounds.upper)
    return program if ranges == dict(program.ranges) else program.replace(ranges=ranges)


_MOST_ROWS = 64


def _conditions(program: Program) -> dict[Any, list[Callable[[int], bool]]]:
    """By symbol, what must hold of its value, from the sizes that depend on it alone."""
    found: dict[Any, list[Callable[[int], bool]]] = {}
    for node in program.nodes():
        if node.target is aten.slice.Tensor:
            _add(found, _slice_sizes(node), _is_size_of_slice)
        for val in pytree.tree_leaves(node.meta.get("val")):
            for size in val.shape if isinstance(val, torch.Tensor) else ():
                _add(found, [size], lambda size: size >= 0)
    return found


def _add(
    found: dict[Any, list[Callable[[int], bool]]], sizes: Sequence[Any], holds: Callable[..., bool]
) -> None:
    if None in sizes:
        return
    numbers = [_number_of(size) for size in sizes]
    symbols = {symbol for number in numbers for symbol in number.free_symbols}
    if len(symbols) == 1:
        (symbol,) = symbols

        def condition(value: int) -> bool:
            try:
                return holds(*(int(number.xreplace({symbol: sympy.Integer(value)})) for number in numbers))
            except ZeroDivisionError:  # no size
                return False

        found.setdefault(symbol, []).append(condition)


def _slice_sizes(node: fx.Node) -> list[Any]:
    source, dim, start, end, step = node.args
    return [node.meta["val"].shape[dim], source.meta["val"].shape[dim], start, end, step]  # type: ignore[union-attr, index]


def _is_size_of_slice(size: int, whole: int, start: int, end: int, step: int) -> bool:
    return size == len(range(whole)[start:end:step])


def _number_of(value: Any) -> Any:
    if isinstance(value, fx.Node):
        value = value.meta["val"]
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(value)


def compile_canonical(
    program: Program,
    target: Any = None,
    *,
    strict: bool = False,
    shared: Program | None = None,
    optimize: Pass | None = None,
) -> Compiled:
    """Compile a canonical program, or take its code from the cache.

    *shared* is the program whose tensors a user may change.
    """
    target = resolve_target("llvm") if target is None else target
    shared = shared or program
    program = with_true_sizes(program)
    program = (optimizations(target) if optimize is None else optimize)(program)
    if not (cache.is_on() and can_link()):
        return lower_optimized(program, target, strict=strict).build(shared)
    key = cache.key_of(program, target, strict=strict)
    entry = cache.read(key)
    if entry is not None:
        return _assemble(program, target, entry.library, entry.checks, entry.islands, shared)
    lowered = lower_optimized(program, target, strict=strict)
    start = time.perf_counter()
    code = build(lowered.module, target)
    if time.perf_counter() - start >= cache.patience():
        code = open_library(link(code))
        cache.write(key, cache.Entry(code, lowered.checks, lowered.islands))
    return _assemble(program, target, code, lowered.checks, lowered.islands, shared)


def _assemble(
    program: Program,
    target: Any,
    code: Any,
    checks: tuple[Check, ...],
    islands: Islands | None,
    shared: Program | None,
) -> Compiled:
    plan = CallPlan.of(program, checks)
    tensors = own_tensors(program.tensors, (shared or program).tensors.values(), plan.state)
    return Compiled(program.signature, plan, code, tensors, target=target, islands=islands)
