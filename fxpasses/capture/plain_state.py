"""State in plain attributes: what the next call of a model would read, and no program can keep.

A model that counts its calls in an attribute (``self.step += 1``) and reads it
computes something else each time; a graph holds what the attribute was. Whether
an attribute that changes plays a part shows in a second trace, from its new value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.capture.source import state_of
from fxpasses.errors import CaptureError
from fxpasses.fingerprint import fingerprint
from fxpasses.program import Program

__all__ = ["LostStateError", "PlainState", "refuse_lost_state", "watched"]

_OF_TORCH = frozenset(torch.nn.Module().__dict__)
_PLAIN = (bool, int, float, complex, str)


class LostStateError(CaptureError):
    """Another door would lose the state as well, with less to tell of it."""


@dataclass(frozen=True)
class Change:
    """An attribute of *owner*, the leaves of its value before the run, and the value after it."""

    path: str
    owner: torch.nn.Module
    attribute: str
    before: list[Any]
    after: Any


@dataclass
class PlainState:
    """The plain attributes that a run of a module changed."""

    changes: list[Change] = field(default_factory=list)


@contextmanager
def watched(root: torch.nn.Module) -> Iterator[PlainState]:
    """What the runs of *root* in the body change; torch gives the old values back after a trace."""
    state = PlainState()
    kept = {id(tensor) for tensor in state_of(root).values()}
    # The leaves by themselves: a container that is changed is the same object still.
    before = {
        (name, attribute): leaves
        for name, module in root.named_modules()
        for attribute, value in module.__dict__.items()
        if attribute not in _OF_TORCH and kept.isdisjoint(map(id, leaves := pytree.tree_leaves(value)))
    }

    def compare(*_: Any) -> None:
        state.changes = [
            Change(
                f"self.{name}.{attribute}".replace("..", "."),
                module,
                attribute,
                before[name, attribute],
                value,
            )
            for name, module in root.named_modules()
            for attribute, value in module.__dict__.items()
            if (name, attribute) in before and _differ(before[name, attribute], pytree.tree_leaves(value))
        ]

    handle = root.register_forward_hook(compare)
    try:
        yield state
    finally:
        handle.remove()


def refuse_lost_state(program: Program, state: PlainState, trace: Callable[[], Program]) -> None:
    """Raise where the next call of the model would compute something else than *program*.

    *trace* traces the model again.

    Raises:
        LostStateError: it names the attributes.
    """
    constants = {id(tensor) for tensor in program.tensors.values()}
    read = any(id(leaf) in constants for change in state.changes for leaf in change.before)
    plain = [(change, after) for change in state.changes if (after := _known(change.after)) is not None]
    if not read and (not plain or _same_from(plain, program, trace)):
        return
    names = ", ".join(change.path for change in state.changes)
    raise LostStateError(
        f"the model assigns {names} as it runs, and its next call would compute something else than this "
        "one; a program keeps state in buffers only: use self.register_buffer and change the buffer in place "
        "(self.step.add_(1)). If only the first call is special, call the model once before the capture"
    )


def _same_from(plain: list[tuple[Change, Any]], program: Program, trace: Callable[[], Program]) -> bool:
    """Whether the model gives the same program from the new values of its attributes."""
    values = [change.owner.__dict__[change.attribute] for change, _ in plain]
    try:
        for change, after in plain:
            change.owner.__dict__[change.attribute] = after
        return fingerprint(trace()) == fingerprint(program)
    finally:
        for (change, _), value in zip(plain, values, strict=True):
            change.owner.__dict__[change.attribute] = value


def _differ(before: list[Any], after: list[Any]) -> bool:
    """Whether tensors were exchanged, or other plain values are others now."""
    if len(before) != len(after):
        return True
    return any(
        a is not b and (isinstance(a, torch.Tensor) or (isinstance(a, _PLAIN) and _hint(b) != a))
        for a, b in zip(before, after, strict=True)
    )


def _known(value: Any) -> Any:
    """*value* as the next trace can start from it; None where it holds what only this one knows."""
    leaves, spec = pytree.tree_flatten(value)
    hints = [_hint(leaf) for leaf in leaves]
    return pytree.tree_unflatten(hints, spec) if all(isinstance(hint, _PLAIN) for hint in hints) else None


def _hint(value: Any) -> Any:
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return value.node.hint if value.node.has_hint() else None
    return value
