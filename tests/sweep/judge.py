"""The outcome of an operator call: is the compiled result that of eager, and where does it run?"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from fxpasses.errors import FxpassesError
from fxpasses.fingerprint import target_name
from fxpasses.schema import draws_random, is_pointwise
from fxpasses.signature import dtype_name
from fxpasses.testing.numerics import HALF, NoOracle, RoundingNoise, is_exact, widened
from fxpasses.testing.single import Call
from fxpasses.testing.tolerance import Reference, compare_tensors
from tests.sweep.alternatives import excuses
from tests.sweep.edges import Variant
from tests.sweep.positions import is_ordering, positions_problem
from tests.sweep.systems import Answer, System, fxpasses_answers

__all__ = ["FAILURES", "Outcome", "describe", "judge"]

Kind = Literal["exact", "close", "island", "refused", "raises", "undefined", "wrong", "error", "crash"]

NOISE_RUNS = 16
SEED = 0
FAILURES = ("wrong", "error", "crash")
LEFT_OPEN = {torch.ops.aten._ctc_loss.default: (1,), torch.ops.aten._ctc_loss.Tensor: (1,)}
"""Results that PyTorch leaves in part as the memory was: they are not compared."""

UNDEFINED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted")


@dataclass(frozen=True)
class Outcome:
    """What became of one call.

    `kind` is ``exact`` (equal bits), ``close`` (within the rule of
    `fxpasses.testing.tolerance`), ``island`` (runs in PyTorch), ``refused``
    (a clear error), ``raises`` (an error, as in eager), ``undefined``
    (uninitialised, or drawn in another order: dtype and shape agree), or one
    of the failures ``wrong``, ``error`` and ``crash``. `edge` is the name of a row of
    `tests.sweep.edges.EDGES`, or empty.
    """

    op: str
    dtype: str
    kind: Kind
    detail: str = ""
    call: str = ""
    edge: str = ""


def judge(variants: Sequence[Variant], system: System = fxpasses_answers) -> list[Outcome | None]:
    """The outcome of each call, None for a variant that eager does not accept.

    *system* answers many calls at once where that works. Those that draw random
    numbers are made by themselves, with the seed that eager has, and so are
    those that eager raises an error for.
    """
    outcomes: dict[int, Outcome | None] = {}
    together: dict[int, tuple[Variant, Any]] = {}
    for place, variant in enumerate(variants):
        expected = _eager(variant.call)
        if isinstance(expected, Exception) and not variant.may_raise:
            outcomes[place] = None
        elif isinstance(expected, Exception) or draws_random(*variant.call):
            outcomes[place] = _judge_one(variant, expected, system)
        else:
            together[place] = variant, expected
    judged = _judge(list(together.values()), system)
    outcomes.update(zip(together, judged, strict=True))
    return [
        outcome and replace(outcome, edge=variant.edge)
        for (_, outcome), variant in zip(sorted(outcomes.items()), variants, strict=True)
    ]


def _judge(pairs: Sequence[tuple[Variant, Any]], system: System) -> list[Outcome]:
    """Halves where something goes wrong, until it is known which call it is."""
    if len(pairs) <= 1:
        return [_judge_one(*pair, system) for pair in pairs]
    try:
        answers = system([variant.call for variant, _ in pairs])
    except Exception:  # the call that raises it is judged alone in the end, and keeps it
        half = len(pairs) // 2
        return _judge(pairs[:half], system) + _judge(pairs[half:], system)
    return [_compared(*pair, answer) for pair, answer in zip(pairs, answers, strict=True)]


def _judge_one(variant: Variant, expected: list[torch.Tensor] | Exception, system: System) -> Outcome:
    call = variant.call
    torch.manual_seed(SEED)
    try:
        (answer,) = system([call])
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if isinstance(expected, Exception):
            return _outcome(call, "raises", text)
        if variant.edge and _of_an_island(error):
            return _outcome(call, "undefined", f"PyTorch raises this on another road: {text}")
        return _outcome(call, "refused" if isinstance(error, FxpassesError) else "error", text)
    if isinstance(expected, Exception):
        return _outcome(call, "wrong", f"a result, where eager raises {type(expected).__name__}: {expected}")
    return _compared(variant, expected, answer)


def _of_an_island(error: Exception) -> bool:
    """Whether PyTorch raised it, in an island."""
    places = {
        frame.filename.rpartition("fxpasses/")[2] for frame in traceback.extract_tb(error.__traceback__)
    }
    return "codegen/steps.py" in places and not isinstance(error, FxpassesError)


def _outcome(call: Call, kind: Kind, detail: str = "") -> Outcome:
    text = describe(call) if kind in (*FAILURES, "refused") else ""
    return Outcome(target_name(call[0]), _dtype(call), kind, detail, text)


def _dtype(call: Call) -> str:
    """The dtype that a call is counted under: that of its first tensor, or of its result."""
    leaves = _tensors(call[1:])
    if not leaves:
        result = _eager(call)
        leaves = [torch.empty(())] if isinstance(result, Exception) else result
    return dtype_name(leaves[0].dtype)


def _eager(call: Call) -> list[torch.Tensor] | Exception:
    """The tensors that eager gives, or the error that it raises."""
    op, args, kwargs = call
    torch.manual_seed(SEED)
    try:
        with torch.no_grad():
            return _determined(op, _tensors(op(*args, **kwargs)))
    except Exception as error:
        return error


def _determined(op: Any, results: list[torch.Tensor]) -> list[torch.Tensor]:
    return [result for place, result in enumerate(results) if place not in LEFT_OPEN.get(op, ())]


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _compared(variant: Variant, want: list[torch.Tensor], answer: Answer) -> Outcome:
    call, island = variant.call, answer.island
    got = _determined(call[0], answer.tensors)
    if len(got) != len(want):
        return _outcome(call, "wrong", f"{len(got)} results, expected {len(want)}")
    for a, e in zip(got, want, strict=True):
        if a.dtype != e.dtype or a.shape != e.shape:
            return _outcome(call, "wrong", f"{a.dtype}{list(a.shape)}, expected {e.dtype}{list(e.shape)}")
    if target_name(call[0]).split(".")[1] in UNDEFINED:
        return _outcome(call, "undefined", island)
    if all(_same_bits(a, e) for a, e in zip(got, want, strict=True)):
        return _outcome(call, "island" if island else "exact", island)
    if draws_random(*call):
        return _outcome(call, "undefined", island)
    references = _references(call, want)
    problem = _problem(call, references, want, got)
    if problem is None:
        return _outcome(call, "island" if island else "close", island)
    if variant.edge:
        for reason, excused in excuses(call, want, got):
            if _problem(call, references, want, excused) is None:
                return _outcome(call, "undefined", reason)
    return _outcome(call, "wrong", problem)


def _problem(
    call: Call, references: list[Reference], want: list[torch.Tensor], got: list[torch.Tensor]
) -> str | None:
    """What is wrong with *got*, if something is."""
    if is_ordering(call):
        return positions_problem(call, want, got)
    for index, (reference, tensor) in enumerate(zip(references, got, strict=True)):
        difference = compare_tensors(reference, tensor)
        if difference is not None:
            return (
                f"result {index}: {difference.count} of {difference.total} differ, at {difference.index} "
                f"got {difference.other}, expected {difference.reference} (oracle {difference.oracle})"
            )
    if _is_exact(call) and not all(_same_bits(a, e) for a, e in zip(got, want, strict=True)):
        return "the sign of a zero"
    return None


def _is_exact(call: Call) -> bool:
    """Of a Python function, the noise says which of its results are exact."""
    return isinstance(call[0], OpOverload) and is_exact(*call)


def _same_bits(a: torch.Tensor, e: torch.Tensor) -> bool:
    if a.is_complex():
        a, e = torch.view_as_real(a.resolve_conj()), torch.view_as_real(e.resolve_conj())
    if not a.is_floating_point():
        return bool((a == e).all())
    return bool(((a == e) & (a.signbit() == e.signbit()) | (a.isnan() & e.isnan())).all())


def _references(call: Call, want: list[torch.Tensor]) -> list[Reference]:
    if _is_exact(call):
        return [Reference(value, None, [value], True) for value in want]
    oracles: list[Any] = [None] * len(want)
    try:
        with widened():
            wide = _eager(call)
    except NoOracle as error:
        wide = error
    # What runs in no other dtype is compared without an oracle.
    if _same_shapes(wide, want):
        oracles = wide  # type: ignore[assignment]
    runs = []
    # The operands of a pointwise call are known to the bit, however much a change of them is
    # worth (`sin` of 1e8), and half types round what comes of them once.
    pointwise = is_pointwise(call[0])
    for seed in range(0 if pointwise and _dtype(call) in _HALVES else NOISE_RUNS):
        with RoundingNoise(seed, operands=not pointwise):
            runs += [_eager(call), _rehearsed(call, want)]
    if getattr(call[0], "overload", call[0]) in CANCELLING and _dtype(call) not in _HALVES:
        runs.append([want[0] + torch.finfo(want[0].dtype).eps * call[1][0].abs()])
    accepted = [run for run in runs if _same_shapes(run, want)]
    return [
        Reference(value, oracle, list(noisy), True)
        for value, oracle, *noisy in zip(want, oracles, *accepted, strict=True)
    ]


CANCELLING = frozenset({torch.ops.aten.gelu.default})
"""Pointwise operators whose formula loses digits, PyTorch's own by luck not at each number: ``1 + erf(x)``
below zero is as exact as 1 is, and so is the result as the operand is."""

_HALVES = tuple(map(dtype_name, HALF))
_NARROW = {torch.float64: torch.float32, torch.complex128: torch.complex64}
_SCALE = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


def _rehearsed(call: Call, want: list[torch.Tensor]) -> list[torch.Tensor] | Exception:
    """Results that are as far off as eager's are in double precision.

    No wider dtype says how far that is, so the error is that of single
    precision, scaled down; it is small by luck in one run, and not under the
    noise of many.
    """
    if not any(value.dtype in _NARROW for value in want):
        return want
    run = _eager((call[0], *pytree.tree_map(_narrow, call[1:])))
    if isinstance(run, Exception) or not _same_shapes(run, want):
        return run
    moved = []
    for value, single in zip(want, run, strict=True):
        error = torch.where((single - value).isfinite(), (single - value).abs(), 0) * _SCALE
        if "upsample" in target_name(call[0]) and error.numel():
            # Places between pixels are rounded too, and no noise moves them.
            error = error.amax(-1, keepdim=True).expand_as(error)
        moved.append(value + error if value.dtype in _NARROW else value)
    return moved


def _narrow(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.to(_NARROW.get(leaf.dtype, leaf.dtype))
    return _NARROW.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf


def _same_shapes(run: list[torch.Tensor] | Exception, want: list[torch.Tensor]) -> bool:
    return not isinstance(run, Exception) and [r.shape for r in run] == [w.shape for w in want]


def describe(call: Call) -> str:
    """A call as text; tensors by dtype, shape and, if they are small, values."""

    def text(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        values = f" {leaf.tolist()}" if leaf.numel() <= 8 else ""
        values += "" if leaf.is_contiguous() else f" strides {list(leaf.stride())}"
        return _Text(f"{dtype_name(leaf.dtype)}{list(leaf.shape)}{values}")

    op, args, kwargs = call
    args, kwargs = pytree.tree_map(text, (args, kwargs))
    parts = [repr(arg) for arg in args] + [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{target_name(op)}({', '.join(parts)})"


class _Text(str):
    def __repr__(self) -> str:
        return str(self)
