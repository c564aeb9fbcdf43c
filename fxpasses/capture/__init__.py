"""`capture`: any PyTorch source to one `Program`. Many doors, one room.

Each file is one door: it says how a kind of source is traced. All of them end
in an `ExportedProgram`, and so in the same form.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fxpasses.errors import CaptureError, FxpassesError, InputError
from fxpasses.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from fxpasses.capture.shapes import Captured
    from fxpasses.capture.source import Source

__all__ = ["DOORS", "LADDER", "capture", "is_ready_made"]

DOORS = {
    "export": ("exported", "by_export"),
    "dynamo": ("dynamo", "by_dynamo"),
    "make_fx": ("make_fx", "by_make_fx"),
    "symbolic_trace": ("symbolic", "by_symbolic_trace"),
    "torchscript": ("torchscript", "by_torchscript"),
}
"""Name of each way to trace a module or function, with its file and function."""

LADDER = ("export", "dynamo", "make_fx", "symbolic_trace")
"""The doors that are tried in turn when `capture` is not told which."""


def capture(
    source: Any,
    args: Any = None,
    kwargs: Any = None,
    dynamic_shapes: Any = None,
    via: str | None = None,
    leaf: Any = (),
) -> Program:
    """Capture a model as a `Program`.

    The caller's `torch.autocast` is part of the program, as a region in the code would be.
    Numbers that the code reads out of buffers which it never changes (``if self.ready:``)
    are as at the capture; the program asserts that they still are.
    Several threads capture one after the other.

    Args:
        source: a module, a function or a method of a module; a `GraphModule`
            from `symbolic_trace`, `make_fx` or dynamo; an `ExportedProgram` or
            the path of a ``.pt2`` file; a TorchScript module or function.
        args: tuple of example positional arguments. Their values play no part, nor
            does it matter whether some are one tensor; an `ExportedProgram` and a
            ``.pt2`` file need none.
        kwargs: example keyword arguments.
        dynamic_shapes: the sizes that vary, as `torch.export.export` takes
            them. A size of 1 in the example is no hindrance; a program serves
            batches of 0 and 1 where the code does not treat them differently.
        via: the door, one of `DOORS`. Without it those of `LADDER` are tried in
            turn; ``program.notes`` says which was used (``"via"``) and why
            others were not (``"skipped"``).
        leaf: modules (classes, instances or names) and Python functions to keep
            as one opaque call each.

    Returns:
        A program. It shares the model's parameters; the buffers that it changes
        are copies. The model and the arguments are left as they were.

    Raises:
        InputError: the arguments do not fit the source.
        CaptureError: no door leads through; the message says why, names the
            line and says what to do.
    """
    from fxpasses.capture.source import make_source

    if via is not None and via not in DOORS:
        raise InputError(f"via={via!r} is no door; choose one of {', '.join(map(repr, DOORS))}")
    leaf = tuple(leaf) if isinstance(leaf, tuple | list | set | frozenset) else (leaf,)
    kind, ready = _ready_made(source)
    if ready is not None:
        _refuse(kind, via, "export", dynamic_shapes=dynamic_shapes, leaf=leaf)
        program = _from_exported(ready)
        if args is not None or kwargs is not None:
            signature = program.signature
            signature.check(signature.flatten(tuple(args or ()), dict(kwargs or {})))
        return program.replace(notes={"via": "export", "skipped": {}})
    if kind == "dynamo graph":
        from fxpasses.capture.dynamo import from_dynamo

        _refuse(kind, via, "dynamo", dynamic_shapes=dynamic_shapes, leaf=leaf, kwargs=kwargs)
        return from_dynamo(source, list(args or ()))
    if kind == "TorchScript":
        _refuse(kind, via, "torchscript", leaf=leaf)
    prepared = make_source(source, args, kwargs, dynamic_shapes, leaf)
    doors = (via,) if via is not None else ("torchscript",) if kind == "TorchScript" else LADDER
    return _through(doors, prepared)


def _from_exported(exported: Any) -> Program:
    try:
        return Program.from_exported_program(exported)
    except FxpassesError:
        raise
    except Exception as error:  # of torch, which decomposes the graph, or of the graph's own code
        raise CaptureError(
            f"the ExportedProgram cannot be made a Program: {type(error).__name__}: {error}"
        ) from error


def _through(doors: tuple[str, ...], source: Source) -> Program:
    """The program of the first of *doors* that leads through."""
    from fxpasses.ambient import exclusive, plainly
    from fxpasses.capture.leaf import opaque
    from fxpasses.capture.plain_state import LostStateError
    from fxpasses.capture.reasons import capture_error, reason_of
    from fxpasses.capture.shapes import capture_dynamic
    from fxpasses.capture.source import untouched

    errors: dict[str, BaseException] = {}
    for name in doors:
        try:
            with exclusive(), plainly(), opaque(source), untouched(source):
                program = capture_dynamic(door(name), source)
        except InputError:
            raise
        except LostStateError as error:
            raise capture_error(source, {name: error}) from error
        except Exception as error:  # whatever tracing raises is the reason to try the next door
            errors[name] = error
            continue
        skipped = {other: str(reason_of(error)) for other, error in errors.items()}
        return program.replace(notes={**program.notes, "via": name, "skipped": skipped})
    raise capture_error(source, errors) from next(iter(errors.values()))


def door(name: str) -> Callable[[Source], Captured]:
    """The function behind a name of `DOORS`; its file is imported at first use."""
    import importlib

    file, function = DOORS[name]
    return getattr(importlib.import_module(f"{__name__}.{file}"), function)  # type: ignore[no-any-return]


def _ready_made(source: Any) -> tuple[str, Any]:
    """What *source* is, and its `ExportedProgram` where it is one already."""
    import torch
    from torch import fx
    from torch.export import ExportedProgram

    if isinstance(source, Program):
        raise InputError("this is a Program already; capture takes what it is made from")
    if isinstance(source, ExportedProgram):
        return "an ExportedProgram", source
    if isinstance(source, str | os.PathLike):
        from fxpasses.capture.exported import load_pt2

        return "a .pt2 file", load_pt2(source)
    if isinstance(source, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return "TorchScript", None
    if isinstance(source, fx.GraphModule) and _is_dynamo_graph(source):
        return "dynamo graph", None
    return "a module", None


def is_ready_made(source: Any) -> bool:
    """Whether *source* is a graph already, or a file of one, and no module or function of Python code."""
    import torch
    from torch import fx
    from torch.export import ExportedProgram

    graphs = Program | ExportedProgram | str | os.PathLike | torch.jit.ScriptModule | torch.jit.ScriptFunction
    return isinstance(source, graphs) or (isinstance(source, fx.GraphModule) and _is_dynamo_graph(source))


def _is_dynamo_graph(module: Any) -> bool:
    """Whether *module* is what dynamo gives to a backend."""
    return "dynamo_flat_name_to_original_fqn" in module.meta or any(
        "grapharg" in node.meta for node in module.graph.find_nodes(op="placeholder")
    )


def _refuse(kind: str, via: str | None, only: str, **options: Any) -> None:
    if via is not None and via != only:
        raise InputError(f"{kind} is traced already and has one door, {only!r}; leave out via={via!r}")
    for name, value in options.items():
        if value:
            raise InputError(f"{kind} is traced already, so {name}= comes too late; capture the model itself")
