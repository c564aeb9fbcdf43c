"""One way to run anything that `assert_equivalent` compares, without changing it.

A *subject* is a `Program`, a compiled program, an `nn.Module` or a function.
`open_subject` gives a session: a function of arguments that runs the subject on
copies of its state and of the arguments, and tells everything that the call
did. State carries over from call to call of one session, and is gone with it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.program import Program
from fxpasses.testing.numerics import NoOracle, widened

__all__ = ["Outcome", "Session", "describe", "open_subject", "seeded", "wide_session"]


@dataclass(frozen=True)
class Outcome:
    """What one call did.

    Attributes:
        outputs: the flat outputs.
        spec: their structure.
        inputs: the flat arguments after the call.
        state: buffers and parameters after the call by name; None where the
            subject has none that can be seen.
        changed: the names in `state` that this session has changed.
    """

    outputs: list[Any]
    spec: pytree.TreeSpec
    inputs: list[Any]
    state: Mapping[str, torch.Tensor] | None
    changed: frozenset[str]


Session = Callable[[tuple[Any, ...], dict[str, Any]], Outcome]
Context = Callable[[], contextlib.AbstractContextManager[Any]]


def describe(subject: Any) -> str:
    """A subject in a few words."""
    if isinstance(subject, Program):
        return f"a Program of {sum(n.op == 'call_function' for n in subject.graph.nodes)} calls"
    if isinstance(subject, torch.nn.Module):
        return f"the module {type(subject).__name__}"
    if _is_compiled(subject):
        return f"the compiled program {type(subject).__name__}"
    return f"the function {getattr(subject, '__name__', repr(subject))}"


def open_subject(
    subject: Any, around: Context = contextlib.nullcontext
) -> contextlib.AbstractContextManager[Session]:
    """A session of *subject*; see the module. Each run of its code happens in the context *around*.

    Raises:
        TypeError: it cannot be called.
    """
    if isinstance(subject, Program):
        return contextlib.nullcontext(_ProgramSession(subject, around))
    if isinstance(subject, torch.nn.Module):
        return contextlib.nullcontext(_ModuleSession(subject, around))
    if _is_compiled(subject):
        return _compiled_session(subject, around)
    if callable(subject):
        return contextlib.nullcontext(_FunctionSession(subject, around))
    raise TypeError(
        f"only a Program, a compiled program, an nn.Module or a function can be compared, got {subject!r} "
        f"of type {type(subject).__name__}"
    )


@contextlib.contextmanager
def wide_session(subject: Any) -> Iterator[Session]:
    """A session that computes in float64, with state and arguments widened.

    Raises:
        NoOracle: when it is opened or called: *subject* cannot be followed.
    """
    if _is_compiled(subject):
        raise NoOracle("a compiled program cannot be followed in float64")
    session: Any
    if isinstance(subject, Program):
        session = _ProgramSession(subject, widened, wide=True)
    elif isinstance(subject, torch.nn.Module):
        session = _ModuleSession(subject, widened, wide=True)
    else:
        session = _FunctionSession(subject, widened)

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        args, kwargs = pytree.tree_map(_double, (args, kwargs))
        try:
            return session(args, kwargs)
        except NoOracle:
            raise
        except Exception as error:
            raise NoOracle(f"run in float64 it raises {type(error).__name__}: {error}") from error

    yield call


def _is_compiled(subject: Any) -> bool:
    return callable(subject) and isinstance(getattr(subject, "state", None), Mapping)


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.double()
    if isinstance(value, torch.Tensor) and value.is_complex():
        return value.to(torch.complex128)
    return value


def _copies(args: Any, kwargs: Any) -> tuple[Any, Any, list[Any]]:
    """Arguments with every tensor copied (one that is passed twice, once), and their leaves."""
    known: dict[int, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known.setdefault(id(value), value.detach().clone())

    args, kwargs = pytree.tree_map(copied, (args, kwargs))
    return args, kwargs, pytree.tree_leaves((args, kwargs))


@contextlib.contextmanager
def seeded(around: Context = contextlib.nullcontext) -> Iterator[None]:
    """Without gradients, and so that random operators draw the same numbers in every run."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(0)
    try:
        with torch.no_grad(), around():
            yield
    finally:
        generator.set_state(state)


class _ProgramSession:
    def __init__(self, program: Program, around: Context, wide: bool = False) -> None:
        mutated = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
        tensors = {}
        for name, tensor in program.tensors.items():
            plain = tensor.detach()
            plain = _double(plain) if wide else plain
            tensors[name] = plain.clone() if name in mutated else plain
        self.program = program.replace(tensors=tensors)
        self.around, self.wide = around, wide
        self.changed = frozenset(name for name in mutated if name is not None)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        args, kwargs, leaves = _copies(args, kwargs)
        program = self.program
        flat = program.signature.flatten(args, kwargs)
        if not self.wide:
            program.signature.check(flat)
        with seeded(self.around):
            values = program.execute(flat)
        with torch.no_grad():
            user = [
                v for v, role in zip(values, program.output.meta["roles"], strict=True) if role.kind == "user"
            ]
            user = [v.clone() if isinstance(v, torch.Tensor) else v for v in user]
            arguments = {n.meta["role"].target: leaf for n, leaf in zip(program.inputs, flat, strict=True)}
            writes = [
                (
                    program.tensors[role.target]
                    if role.kind == "buffer_mutation"
                    else arguments[role.target],
                    value.clone(),
                )
                for value, role in zip(values, program.output.meta["roles"], strict=True)
                if role.kind != "user"
            ]
            for target, value in writes:
                target.copy_(value)
        outputs, spec = pytree.tree_flatten(program.signature.unflatten(user))
        return Outcome(outputs, spec, leaves, _snapshot(program.tensors, self.changed), self.changed)


class _ModuleSession:
    def __init__(self, module: torch.nn.Module, around: Context, wide: bool = False) -> None:
        self.module = copy.deepcopy(module)
        if wide:
            self.module = self.module.double()
        self.around = around
        self.before = {name: (tensor, tensor._version) for name, tensor in self._tensors().items()}
        # What is changed through `.data` leaves the version as it was.
        self.buffers = {name: buffer.detach().clone() for name, buffer in self.module.named_buffers()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            **dict(self.module.named_parameters(remove_duplicate=False)),
            **dict(self.module.named_buffers(remove_duplicate=False)),
        }

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        args, kwargs, leaves = _copies(args, kwargs)
        with seeded(self.around):
            result = self.module(*args, **kwargs)
        outputs, spec = pytree.tree_flatten(pytree.tree_map(_detached, result))
        state = self._tensors()
        changed = {
            name
            for name, tensor in state.items()
            if name not in self.before
            or self.before[name][0] is not tensor
            or self.before[name][1] != tensor._version
            or (name in self.buffers and not _same_values(self.buffers[name], tensor))
        }
        return Outcome(outputs, spec, leaves, _snapshot(state, changed), frozenset(changed))


def _same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    inexact = a.is_floating_point() or a.is_complex()
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) if inexact else torch.equal(a, b)


class _FunctionSession:
    def __init__(self, function: Callable[..., Any], around: Context) -> None:
        self.function, self.around = function, around

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        args, kwargs, leaves = _copies(args, kwargs)
        with seeded(self.around):
            result = self.function(*args, **kwargs)
        outputs, spec = pytree.tree_flatten(pytree.tree_map(_detached, result))
        return Outcome(outputs, spec, leaves, None, frozenset())


@contextlib.contextmanager
def _compiled_session(compiled: Any, around: Context) -> Iterator[Session]:
    before = _snapshot(compiled.state, compiled.state)
    function = _FunctionSession(compiled, around)

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
        outcome = function(args, kwargs)
        state = _snapshot(compiled.state, compiled.state)
        return Outcome(outcome.outputs, outcome.spec, outcome.inputs, state, frozenset(state))

    try:
        yield call
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                compiled.state[name].copy_(tensor)


def _snapshot(tensors: Mapping[str, torch.Tensor], changing: Container[str]) -> dict[str, torch.Tensor]:
    """The tensors as they are now: copies of those that change."""
    return {
        name: tensor.detach().clone() if name in changing else tensor.detach()
        for name, tensor in tensors.items()
    }


def _detached(value: Any) -> Any:
    """A copy: the result may be a view of an argument that changes later."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
