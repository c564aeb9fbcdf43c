"""The outcome of an operator call: is the compiled result that of eager, and where does it run?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

import fxpasses
from fxpasses.errors import FxpassesError
from fxpasses.fingerprint import target_name
from fxpasses.passes import CheckInference, canonicalize
from fxpasses.pipeline import Pipeline
from fxpasses.schema import draws_random
from fxpasses.signature import dtype_name
from fxpasses.testing.numerics import NoOracle, RoundingNoise, widened
from fxpasses.testing.single import Call, calls_program
from fxpasses.testing.tolerance import FLOOR, Reference, compare_tensors

__all__ = ["Outcome", "describe", "judge"]

Kind = Literal["exact", "close", "island", "refused", "undefined", "wrong", "error", "crash"]

NOISE_RUNS = 16
SEED = 0
WEIGHTED_SUMS = ("fft", "stft", "grid_sampler")
UNDEFINED = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "empty_permuted")

# Random numbers are asked for. Those that PyTorch's operators draw are equal for equal seeds.
_CANONICALIZE = Pipeline(CheckInference(allow_random=True), *list(canonicalize)[1:], name="canonicalize")


@dataclass(frozen=True)
class Outcome:
    """What became of one call.

    `kind` is ``exact`` (equal bits), ``close`` (within the rule of
    `fxpasses.testing.tolerance`), ``island`` (runs in PyTorch), ``refused``
    (a clear error), ``undefined`` (uninitialised, or drawn in another order:
    dtype and shape agree), or one of the failures ``wrong``, ``error`` and ``crash``.
    """

    op: str
    dtype: str
    kind: Kind
    detail: str = ""
    call: str = ""


def judge(calls: Sequence[Call]) -> Iterator[list[Outcome]]:
    """The outcomes of *calls*, which are compiled together; one by one where that fails."""
    try:
        program, tensors = calls_program(calls)
    except Exception as error:  # an operator that asks for values of its operands
        if len(calls) == 1:
            yield [_outcome(calls[0], "refused", f"on fake tensors: {error}")]
            return
        for call in calls:
            yield from judge([call])
        return
    try:
        canonical = _CANONICALIZE(program)
        explained = fxpasses.explain(canonical)
        together = len(calls) == 1 or explained.native
        if together:
            compiled = fxpasses.compile(canonical)
            torch.manual_seed(SEED)
            results = compiled(*tensors)
    except Exception as error:
        if len(calls) == 1:
            kind: Kind = "refused" if isinstance(error, FxpassesError) else "error"
            yield [_outcome(calls[0], kind, f"{type(error).__name__}: {error}")]
            return
        together = False
    if not together:
        for call in calls:
            yield from judge([call])
        return
    reason = next((f"{row.op}: {row.reason}" for row in explained if row.kind != "native"), None)
    yield [_compared(call, got, reason) for call, got in zip(calls, results, strict=True)]


def _outcome(call: Call, kind: Kind, detail: str = "") -> Outcome:
    text = describe(call) if kind in ("wrong", "error", "crash", "refused") else ""
    return Outcome(target_name(call[0]), _dtype(call), kind, detail, text)


def _dtype(call: Call) -> str:
    """The dtype that a call is counted under: that of its first tensor, or of its result."""
    leaves = [leaf for leaf in pytree.tree_leaves(call[1:]) if isinstance(leaf, torch.Tensor)]
    if not leaves:
        leaves = [leaf for leaf in pytree.tree_leaves(_run(call)) if isinstance(leaf, torch.Tensor)]
    return dtype_name(leaves[0].dtype)


def _run(call: Call) -> Any:
    op, args, kwargs = call
    torch.manual_seed(SEED)
    with torch.no_grad():
        return op(*args, **kwargs)


def _compared(call: Call, got: Any, island: str | None) -> Outcome:
    flat = [leaf for leaf in pytree.tree_leaves(got) if isinstance(leaf, torch.Tensor)]
    want = [leaf for leaf in pytree.tree_leaves(_run(call)) if isinstance(leaf, torch.Tensor)]
    if len(flat) != len(want):
        return _outcome(call, "wrong", f"{len(flat)} results, expected {len(want)}")
    for a, e in zip(flat, want, strict=True):
        if a.dtype != e.dtype or a.shape != e.shape:
            return _outcome(call, "wrong", f"{a.dtype}{list(a.shape)}, expected {e.dtype}{list(e.shape)}")
    if target_name(call[0]).split(".")[1] in UNDEFINED:
        return _outcome(call, "undefined", island or "")
    if all(_same_bits(a, e) for a, e in zip(flat, want, strict=True)):
        return _outcome(call, "island" if island else "exact", island or "")
    op, args, kwargs = call
    if draws_random(op, args, kwargs):
        return _outcome(call, "undefined", island or "")
    for index, (a, reference) in enumerate(zip(flat, _references(call, want), strict=True)):
        difference = compare_tensors(reference, a)
        if difference is not None and not _is_close_sum(call, a, reference.value):
            return _outcome(
                call,
                "wrong",
                f"result {index}: {difference.count} of {difference.total} differ, at {difference.index} "
                f"got {difference.other}, expected {difference.reference} (oracle {difference.oracle})",
            )
    return _outcome(call, "island" if island else "close", island or "")


def _is_close_sum(call: Call, a: torch.Tensor, e: torch.Tensor) -> bool:
    """Whether a weighted sum inside one operator is right beside its largest element.

    Each element of the result is a sum of many operands. Where they cancel, what
    is left is rounding of the order of the summation, which PyTorch leaves open
    and noise on the operands does not show.
    """
    if not any(name in target_name(call[0]) for name in WEIGHTED_SUMS) or not e.isfinite().all():
        return False
    allowed = FLOOR * torch.finfo(e.dtype).eps * e.abs().max()
    return bool(((a - e).abs() <= allowed).all())


def _same_bits(a: torch.Tensor, e: torch.Tensor) -> bool:
    if a.is_complex():
        a, e = torch.view_as_real(a.resolve_conj()), torch.view_as_real(e.resolve_conj())
    if not a.is_floating_point():
        return bool((a == e).all())
    return bool(((a == e) & (a.signbit() == e.signbit()) | (a.isnan() & e.isnan())).all())


def _references(call: Call, want: list[torch.Tensor]) -> list[Reference]:
    oracles: list[Any] = [None] * len(want)
    try:
        with widened():
            wide = [leaf for leaf in pytree.tree_leaves(_run(call)) if isinstance(leaf, torch.Tensor)]
        if [leaf.shape for leaf in wide] == [leaf.shape for leaf in want]:
            oracles = wide
    except (NoOracle, RuntimeError, NotImplementedError):
        pass  # what runs in no other dtype is compared without an oracle
    runs = []
    for seed in range(NOISE_RUNS):
        with RoundingNoise(seed):
            runs.append([leaf for leaf in pytree.tree_leaves(_run(call)) if isinstance(leaf, torch.Tensor)])
    return [
        Reference(value, oracle, list(noisy), True)
        for value, oracle, *noisy in zip(want, oracles, *runs, strict=True)
    ]


def describe(call: Call) -> str:
    """A call as text; tensors by dtype, shape and, if they are small, values."""

    def text(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        values = f" {leaf.tolist()}" if leaf.numel() <= 8 else ""
        return _Text(f"{dtype_name(leaf.dtype)}{list(leaf.shape)}{values}")

    op, args, kwargs = call
    args, kwargs = pytree.tree_map(text, (args, kwargs))
    parts = [repr(arg) for arg in args] + [f"{name}={value!r}" for name, value in kwargs.items()]
    return f"{target_name(op)}({', '.join(parts)})"


class _Text(str):
    def __repr__(self) -> str:
        return str(self)
