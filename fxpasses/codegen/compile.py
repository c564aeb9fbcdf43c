"""`compile`: from a model to a callable, in one step."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxpasses.ambient import exclusive
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
from fxpasses.codegen.warm_start import WarmStart
from fxpasses.errors import CaptureError, InputError
from fxpasses.garbage import apart
from fxpasses.passes.narrow_ranges import narrow_ranges
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


@exclusive()
@apart()
def compile(
    model_or_program: Any,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    *,
    target: Any = "llvm",
    dynamic_shapes: Any = None,
    strict: bool = False,
    checked: bool = True,
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
        checked: look at indices, at the divisors of integers and at asserted tensors
            in each call, and raise as eager PyTorch does. Without it the results that
            depend on a wrong one are arbitrary; no other memory is read even so.
        allow_random: let the model draw random numbers, dropout in training included.
            They come from PyTorch's own generator, in the order of the model: after
            `torch.manual_seed` they are those that the model draws.
        optimize: the pass or `Pipeline` between the canonical form and the kernels;
            ``fxpasses.codegen.optimize.optimizations(target)`` without it, and
            ``Pipeline()`` for none.

    Returns:
        A callable on torch tensors; see `Compiled`. Its weights are a snapshot
        of the model's, and it runs in as many threads as torch does
        (`torch.set_num_threads`).

    Raises:
        CaptureError: the model cannot be captured.
        UnsupportedOperatorError: operators have no lowering, and cannot run in
            PyTorch either or *strict* forbids it.
    """
    resolved = resolve_target(target)
    start = None
    if _is_cached() and optimize is None and dynamic_shapes is None:
        options = {"strict": strict, "checked": checked, "random": allow_random}
        start = WarmStart.of(model_or_program, args, kwargs, resolved, **options)
        found = None if start is None else start.read()
        if found is not None:
            return found
    begin = time.perf_counter()
    program = to_program(model_or_program, args, kwargs, dynamic_shapes, allow_random)
    with nullcontext() if start is None else start.listening(program):
        optimized = _optimized(to_canonical(program), resolved, optimize)
    took = time.perf_counter() - begin
    compiled, code = _built(optimized, resolved, program, strict=strict, checked=checked)
    if start is not None and code is not None and took >= cache.patience():
        start.write(program, optimized, compiled, code)
    return compiled


def to_program(
    model_or_program: Any, args: Any, kwargs: Any, dynamic_shapes: Any, allow_random: bool = False
) -> Program:
    """The captured program; one that is captured already must fit the arguments, where there are any."""
    from fxpasses.passes import CheckInference

    program = _captured(model_or_program, args, kwargs, dynamic_shapes)
    for name, tensor in program.tensors.items():
        if tensor.device.type != "cpu":
            raise InputError(
                f"tensor {name!r} of the model is on the device {tensor.device}, and the program runs on the CPU; "
                "move the model there (model.to('cpu'), or model.to_empty(device='cpu') with its weights loaded)"
            )
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
    checked: bool = True,
    origins: dict[tuple[str, str], fx.Node] | None = None,
) -> Lowered:
    """Lower a program that `optimize` made; *origins* is as for `fxpasses.lower`."""
    islands = None if strict else Islands()
    checks = Checks(program.inputs, elements=checked)
    module = lower(program, islands=islands, checks=checks, origins=origins)
    return Lowered(program, module, tuple(checks.rows), target, islands)


def compile_canonical(
    program: Program,
    target: Any = None,
    *,
    strict: bool = False,
    checked: bool = True,
    shared: Program | None = None,
    optimize: Pass | None = None,
) -> Compiled:
    """Compile a canonical program, or take its code from the cache.

    *shared* is the program whose tensors a user may change.
    """
    target = resolve_target("llvm") if target is None else target
    optimized = _optimized(program, target, optimize)
    return _built(optimized, target, shared or program, strict=strict, checked=checked)[0]


def _is_cached() -> bool:
    return cache.is_on() and can_link()


def _optimized(program: Program, target: Any, optimize: Pass | None) -> Program:
    return (optimizations(target) if optimize is None else optimize)(narrow_ranges(program))


def _built(
    program: Program, target: Any, shared: Program, *, strict: bool, checked: bool
) -> tuple[Compiled, str | None]:
    """The callable of an optimized program, and the key of its code in the cache, where it is there."""
    if not _is_cached():
        return lower_optimized(program, target, strict=strict, checked=checked).build(shared), None
    key = cache.key_of(program, target, strict=strict, checked=checked)
    entry = cache.read(key, cache.Entry.from_data)
    if entry is not None:
        return _assemble(program, target, entry.library, entry.checks, entry.islands, shared), key
    lowered = lower_optimized(program, target, strict=strict, checked=checked)
    start = time.perf_counter()
    code = build(lowered.module, target)
    kept = time.perf_counter() - start >= cache.patience()
    if kept:
        code = open_library(link(code))
        cache.write(key, *cache.Entry(code, lowered.checks, lowered.islands).to_data())
    compiled = _assemble(program, target, code, lowered.checks, lowered.islands, shared)
    return compiled, key if kept else None


def _assemble(
    program: Program,
    target: Any,
    code: Any,
    checks: tuple[Check, ...],
    islands: Islands | None,
    shared: Program | None,
) -> Compiled:
    plan = CallPlan.of(program, checks, captured=shared)
    tensors = own_tensors(program.tensors, (shared or program).tensors.values(), plan)
    return Compiled(program.signature, plan, code, tensors, target=target, islands=islands)
