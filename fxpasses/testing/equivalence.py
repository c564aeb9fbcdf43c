"""`assert_equivalent`: two things compute the same, outputs and mutations alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.errors import EquivalenceError
from fxpasses.pipeline import Pass, pass_name
from fxpasses.program import Program
from fxpasses.signature import dtype_name
from fxpasses.testing.numerics import NoOracle, RoundingNoise
from fxpasses.testing.snippet import reproduction
from fxpasses.testing.subjects import Outcome, Session, describe, open_subject, wide_session
from fxpasses.testing.tolerance import Difference, Reference, compare_tensors, largest_difference
from fxpasses.testing.values import Inputs, sample_inputs

__all__ = ["assert_equivalent", "compare_each"]

_NOISE_RUNS = 4
_MORE_NOISE_RUNS = 12
"""Where values seem to differ: a few runs move one of thousands of elements too little by chance."""


def assert_equivalent(
    a: Any,
    b: Any,
    inputs: Any = None,
    *,
    kwargs: dict[str, Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    calls: int = 1,
) -> None:
    """Assert that *a* and *b* give the same outputs and the same mutations.

    Each of them is a `Program`, a compiled program, an `nn.Module` or a
    function. They run on copies of their state and of *inputs*, so that nothing
    is changed. Compared are the structure of the outputs, and of every output,
    mutated argument and mutated buffer (by name) dtype, shape and values.

    How far values may lie apart follows from the computation itself: see
    `fxpasses.testing.tolerance`. The reference is *a*, or *b* where only that
    can be followed.

    Args:
        inputs: the arguments, or the only one, if that is a tensor. None: made
            by `sample_inputs`, if one of the two is a program.
        kwargs: arguments by name.
        rtol, atol: tolerances for floating point values in the place of the
            rule; what is not given is 0 then.
        calls: how often to call, with the state that the calls before left.

    Raises:
        EquivalenceError: tells what differs, where and by how much, and ends
            with code that shows the difference again. It is an AssertionError.
    """
    arguments = _arguments(a, b, inputs, kwargs)
    problem = _compare(a, b, arguments, rtol, atol, calls)
    if problem is not None:
        again = reproduction(a, b, arguments, rtol, atol, calls)
        raise EquivalenceError(f"{problem}\n\na is {describe(a)}, b is {describe(b)}\n{again}")


def compare_each(
    inputs: Any = None, kwargs: dict[str, Any] | None = None
) -> Callable[[Program, Pass, Program], float]:
    """A hook for `Pipeline` that runs the program before and after each pass.

    It returns the largest absolute difference of outputs and mutations, which
    the history then shows::

        fxp.Pipeline(*passes, hook=compare_each(inputs))

    Args:
        inputs: the arguments; None: made by `sample_inputs` for each program.

    Raises:
        EquivalenceError: structure, dtype or shape of a result changed, or a
            mutation got lost.
    """

    def hook(before: Program, pass_: Pass, after: Program) -> float:
        if before is after:
            return 0.0
        arguments = _arguments(before, after, inputs, kwargs)
        with open_subject(before) as first, open_subject(after) as second:
            x, y = first(arguments.args, arguments.kwargs), second(arguments.args, arguments.kwargs)
        problem = _structure_problem(x, y)
        largest = 0.0
        for pair in _pairs(x, y, arguments, before, after):
            problem = problem or _type_problem(pair)
            if problem is not None:
                break
            if isinstance(pair.a, torch.Tensor):
                largest = max(largest, largest_difference(pair.a, pair.b))
        if problem is not None:
            raise EquivalenceError(f"pass {pass_name(pass_)!r} changed the results: {problem}")
        return largest

    return hook


# -- the comparison ------------------------------------------------------------------------


@dataclass
class _Pair:
    """A result of both sides, and what is known of the reference's."""

    name: str
    a: Any
    b: Any
    oracle: Any = None
    noisy: list[Any] = field(default_factory=list)


def _arguments(a: Any, b: Any, inputs: Any, kwargs: dict[str, Any] | None) -> Inputs:
    if inputs is None:
        program = next((x for x in (a, b) if isinstance(x, Program)), None)
        if program is None:
            raise TypeError(
                "assert_equivalent needs inputs, as neither side is a Program that tells what they are"
            )
        return sample_inputs(program)
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    return Inputs(inputs, {**getattr(inputs, "kwargs", {}), **(kwargs or {})})


def _compare(
    a: Any, b: Any, arguments: Inputs, rtol: float | None, atol: float | None, calls: int
) -> str | None:
    """What differs, in words; None if nothing does."""
    ruled = rtol is None and atol is None
    with ExitStack() as stack:
        first, second = (stack.enter_context(open_subject(x)) for x in (a, b))
        reference, swapped = _reference(a, b)
        followers = _Followers(reference, stack) if ruled and reference is not None else None
        for number in range(calls):
            x = first(arguments.args, arguments.kwargs)
            y = second(arguments.args, arguments.kwargs)
            when = f" of call {number + 1}" if calls > 1 else ""
            problem = _structure_problem(x, y)
            if problem is not None:
                return problem + when
            pairs = list(_pairs(x, y, arguments, a, b))
            problem = next((p for p in map(_type_problem, pairs) if p is not None), None)
            if problem is not None:
                return problem + when
            if followers is not None:
                followers.call(arguments, y if swapped else x, pairs, a, b)
            problem = _values_problem(pairs, swapped, followers, rtol, atol)
            if problem is not None and followers is not None and followers.followed:
                followers.more_noise(arguments, y if swapped else x, pairs, a, b, number + 1)
                problem = _values_problem(pairs, swapped, followers, rtol, atol)
            if problem is not None:
                return problem + when
    return None


def _reference(a: Any, b: Any) -> tuple[Any, bool]:
    """The side that can be followed, and whether that is *b*."""
    for subject, swapped in ((a, False), (b, True)):
        if isinstance(subject, Program | torch.nn.Module):
            return subject, swapped
    for subject, swapped in ((a, False), (b, True)):
        if not hasattr(subject, "state"):
            return subject, swapped
    return None, False


class _Followers:
    """The further runs of the reference: in float64, and with noise."""

    def __init__(self, reference: Any, stack: ExitStack) -> None:
        self.reference, self.stack = reference, stack
        self.reason: str | None = None
        """Why there is no oracle."""
        self.wide: Any = None
        try:
            self.wide = stack.enter_context(wide_session(reference))
        except NoOracle as error:
            self.reason = str(error)
        self.noises: list[RoundingNoise] = []
        self.noisy = [self._noisy() for _ in range(_NOISE_RUNS)]
        self.always = isinstance(reference, Program)

    @property
    def followed(self) -> bool:
        return self.always or any(noise.calls for noise in self.noises)

    def call(self, arguments: Inputs, plain: Outcome, pairs: list[_Pair], a: Any, b: Any) -> None:
        """Run again, and put the results beside those in *pairs*."""
        if self.wide is not None:
            try:
                outcome = self.wide(arguments.args, arguments.kwargs)
                oracles = list(_pairs(plain, outcome, arguments, a, b))
                if [p.name for p in oracles] == [p.name for p in pairs]:
                    for pair, oracle in zip(pairs, oracles, strict=True):
                        pair.oracle = oracle.b if _same_shape(pair.a, oracle.b) else None
            except NoOracle as error:
                self.wide, self.reason = None, str(error)
        for session in self.noisy:
            _add_noisy(pairs, plain, session(arguments.args, arguments.kwargs), arguments, a, b)

    def more_noise(
        self, arguments: Inputs, plain: Outcome, pairs: list[_Pair], a: Any, b: Any, calls: int
    ) -> None:
        """Put more runs with noise beside the results of the last of *calls* calls."""
        for _ in range(_MORE_NOISE_RUNS):
            session = self._noisy()
            outcome = [session(arguments.args, arguments.kwargs) for _ in range(calls)][-1]
            _add_noisy(pairs, plain, outcome, arguments, a, b)

    def _noisy(self) -> Session:
        """The reference with noise of a seed that was not used before."""
        noise = RoundingNoise(len(self.noises))
        self.noises.append(noise)
        return self.stack.enter_context(open_subject(self.reference, noise.again))


def _add_noisy(
    pairs: list[_Pair], plain: Outcome, outcome: Outcome, arguments: Inputs, a: Any, b: Any
) -> None:
    for pair, noisy in zip(pairs, _pairs(plain, outcome, arguments, a, b), strict=True):
        if _same_shape(pair.a, noisy.b):
            pair.noisy.append(noisy.b)


def _same_shape(a: Any, b: Any) -> bool:
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape


def _structure_problem(x: Outcome, y: Outcome) -> str | None:
    if x.spec != y.spec:
        return f"the outputs are nested differently:\n  a: {_spec_text(x.spec)}\n  b: {_spec_text(y.spec)}"
    for first, second, names in ((x, y, "ab"), (y, x, "ba")):
        for name in sorted(first.changed):
            if second.state is None or name not in second.state:
                assert first.state is not None
                if second.state is None or names == "ab":
                    reason = (
                        "which has no state that can be seen"
                        if second.state is None
                        else "which has no such buffer"
                    )
                    return f"buffer {name!r} is changed by {names[0]}, but not by {names[1]}, {reason}"
    return None


def _pairs(x: Outcome, y: Outcome, arguments: Inputs, a: Any, b: Any) -> Iterator[_Pair]:
    """Outputs, arguments after the call, and the buffers that one of the two changes."""
    only = len(x.outputs) == 1
    for index, (left, right) in enumerate(zip(x.outputs, y.outputs, strict=True)):
        yield _Pair("the output" if only else f"output {index}", left, right)
    program = next((p for p in (a, b) if isinstance(p, Program)), None)
    names = [f"#{index}" for index in range(len(x.inputs))]
    if program is not None and not arguments.kwargs:
        names = [repr(node.meta["role"].target) for node in program.inputs]
    for name, left, right in zip(names, x.inputs, y.inputs, strict=True):
        if isinstance(left, torch.Tensor):
            yield _Pair(f"argument {name} after the call", left, right)
    if x.state is not None and y.state is not None:
        for name in sorted(x.changed | y.changed):
            if name in x.state and name in y.state:
                yield _Pair(f"buffer {name!r} after the call", x.state[name], y.state[name])


def _type_problem(pair: _Pair) -> str | None:
    a, b = pair.a, pair.b
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype:
            return f"{pair.name} has dtype {dtype_name(a.dtype)} in a and {dtype_name(b.dtype)} in b"
        if a.shape != b.shape:
            return f"{pair.name} has shape {list(a.shape)} in a and {list(b.shape)} in b"
        return None
    if type(a) is not type(b) or isinstance(a, torch.Tensor):
        return f"{pair.name} is {_short(a)} in a and {_short(b)} in b"
    if isinstance(a, float):
        same = (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-12)
    else:
        same = bool(a == b)
    return None if same else f"{pair.name} is {a!r} in a and {b!r} in b"


def _values_problem(
    pairs: list[_Pair], swapped: bool, followers: _Followers | None, rtol: float | None, atol: float | None
) -> str | None:
    """The first pair whose values differ, in words."""
    found = (_value_problem(pair, swapped, followers, rtol, atol) for pair in pairs)
    return next((problem for problem in found if problem is not None), None)


def _value_problem(
    pair: _Pair, swapped: bool, followers: _Followers | None, rtol: float | None, atol: float | None
) -> str | None:
    if not isinstance(pair.a, torch.Tensor):
        return None
    value, other = (pair.b, pair.a) if swapped else (pair.a, pair.b)
    followed = followers is not None and followers.followed
    noisy = pair.noisy if followed else []
    difference = compare_tensors(Reference(value, pair.oracle, noisy, followed), other, rtol=rtol, atol=atol)
    if difference is None:
        return None
    return _text(pair, difference, swapped, followers.reason if followers is not None else None)


def _text(pair: _Pair, d: Difference, swapped: bool, no_oracle: str | None) -> str:
    of_a, of_b = (d.other, d.reference) if swapped else (d.reference, d.other)
    tensor = pair.a
    lines = [
        f"{pair.name} ({dtype_name(tensor.dtype)}{list(tensor.shape)}) differs in {d.count} of {d.total} "
        f"element{'s' if d.total != 1 else ''}",
        f"  worst at {list(d.index)}: a has {of_a!r}, b has {of_b!r}"
        + (f"; float64 oracle {d.oracle!r}" if isinstance(d.oracle, float | complex) else ""),
    ]
    if isinstance(d.reference, bool | int):
        lines.append(f"  rule: {d.rule}")
    else:
        center = "the oracle" if d.oracle is not None else ("b" if swapped else "a")
        side = "a" if swapped else "b"
        lines.append(f"  |{side} - {center}| is {d.error:.3g}, allowed {d.allowed:.3g} (rule: {d.rule})")
    if no_oracle is not None:
        lines.append(f"  there is no float64 oracle: {no_oracle}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {dtype_name(value.dtype)}{list(value.shape)}"
    return repr(value)


def _spec_text(spec: pytree.TreeSpec) -> str:
    return " ".join(str(spec).split())
