"""`leaf=`: modules and functions that stay one opaque call through every pass.

A leaf becomes an operator of its own in the namespace ``fxpasses_leaf``, named
after the class or function. Its parameters and buffers are operands of the
call, so they stay parameters of the program; two layers that differ in nothing
but their parameters share one operator. What else the module holds is copied
when it is captured: later changes to the model do not reach the program.

The operators live in this process. A program with leaves that is saved to a
file can be loaded where the same model has been captured before.
"""

from __future__ import annotations

import copy
import inspect
import re
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxpasses.capture.source import Source, register_containers, state_of
from fxpasses.errors import CaptureError, InputError

__all__ = ["is_leaf", "opaque"]

NAMESPACE = "fxpasses_leaf"
"""Leaves are operators of this namespace."""
_library: torch.library.Library | None = None
_operators: dict[str, list[_Operator]] = {}
_active: dict[int, torch.nn.Module] = {}
_called: set[types.FunctionType] = set()


@contextmanager
def opaque(source: Source) -> Iterator[None]:
    """Within, each leaf of *source* is one call of an operator of its own.

    Raises:
        InputError: a leaf is nothing that the source has.
    """
    if not source.leaf:
        yield
        return
    modules, functions = _resolve(source)
    forwards = {name: module.__dict__.get("forward") for name, module in modules.items()}
    codes = [(function, function.__code__) for function in functions]
    try:
        for name, module in modules.items():
            _active[id(module)] = module
            module.forward = _opaque_forward(module, name)
        for function in functions:
            _redirect(function)
        yield
        unused = [function.__qualname__ for function in functions if function not in _called]
        if unused:
            raise InputError(f"leaf {unused[0]!r} is never called by {source.label}")
    finally:
        _called.difference_update(functions)
        for name, module in modules.items():
            _active.pop(id(module), None)
            module.__dict__.pop("forward", None)
            if forwards[name] is not None:
                module.forward = forwards[name]
        for function, code in codes:
            function.__code__ = code


def is_leaf(module: object) -> bool:
    """Whether *module* is a leaf of the capture that is going on."""
    return id(module) in _active


def _resolve(source: Source) -> tuple[dict[str, torch.nn.Module], list[types.FunctionType]]:
    """The modules (by name) and functions that ``leaf=`` names."""
    named = dict(source.root.named_modules())
    chosen: dict[str, torch.nn.Module] = {}
    functions: list[types.FunctionType] = []
    for leaf in source.leaf:
        if isinstance(leaf, str):
            found = {leaf: named[leaf]} if leaf in named else {}
        elif isinstance(leaf, type) and issubclass(leaf, torch.nn.Module):
            found = {name: module for name, module in named.items() if isinstance(module, leaf)}
        elif isinstance(leaf, torch.nn.Module):
            found = {name: module for name, module in named.items() if module is leaf}
        elif isinstance(leaf, types.FunctionType):
            functions.append(leaf)
            continue
        else:
            raise InputError(
                f"leaf={leaf!r} is of type {type(leaf).__name__}; a leaf is a module class, a module of the model, "
                "its name, or a Python function (put a builtin into a function of your own)"
            )
        if not found:
            raise InputError(f"leaf={leaf!r} is no part of {source.label}; its modules are {_some(named)}")
        chosen.update(found)
    # A leaf within a leaf is inside the opaque call already.
    outer = {
        name: module
        for name, module in chosen.items()
        if not any(name != other and (other == "" or name.startswith(other + ".")) for other in chosen)
    }
    return outer, functions


def _some(names: dict[str, Any]) -> str:
    listed = [repr(name) for name in names if name]
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "")


# -- modules -----------------------------------------------------------------------------


def _opaque_forward(module: torch.nn.Module, name: str) -> Callable[..., Any]:
    original = module.forward
    try:
        # The parameters are operands; the copy need not hold them too.
        memo = {id(tensor): _placeholder(tensor) for tensor in state_of(module).values()}
        snapshot = copy.deepcopy(module, memo)
    except Exception as error:
        raise CaptureError(
            f"leaf {name!r} of type {type(module).__name__} cannot be copied: {error}\nGive it a __deepcopy__"
        ) from error
    key = ("module", _description(module))

    def run(state: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from fxpasses.capture.make_fx import swapped

        with swapped(snapshot, dict(zip(names, state, strict=True))):
            return snapshot.forward(*args, **kwargs)

    names = list(state_of(module))

    def forward(*args: Any, **kwargs: Any) -> Any:
        state = list(state_of(module).values())
        return _call(type(module).__name__, key, run, state, args, kwargs, f"leaf {name!r}")

    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return forward


def _placeholder(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return (
        torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty
    )


def _description(module: torch.nn.Module) -> tuple[Any, ...]:
    """What makes two modules behave alike, parameters apart."""
    parts: list[Any] = []
    for name, part in module.named_modules():
        plain = {
            key: value
            for key, value in sorted(part.__dict__.items())
            if key not in ("_parameters", "_buffers", "_modules", "forward")
            and not (isinstance(value, dict | list | set) and not value)
        }
        tables = (tuple(part._parameters), tuple(part._buffers), tuple(part._modules))
        parts.append((name, type(part), tables, tuple((key, _frozen(value)) for key, value in plain.items())))
    return tuple(parts)


def _frozen(value: Any) -> Any:
    if isinstance(value, int | float | str | bytes | None | type | torch.dtype):
        return (type(value).__name__, value)
    if isinstance(value, tuple | list):
        return (type(value).__name__, tuple(map(_frozen, value)))
    return _Same(value)


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal only for the very same object, which it keeps alive."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


# -- functions ---------------------------------------------------------------------------


def _redirect(function: types.FunctionType) -> None:
    """Let every call of *function*, by whatever name, go to `_call_function`.

    Its code is exchanged: the function may be known under other names in other
    modules, and all of them mean this one object.
    """
    code = function.__code__
    cells = ", ".join(code.co_freevars)
    source = (
        f"def outer({cells}):\n"
        "    def trampoline(*args, **kwargs):\n"
        f"        {cells or 'None'}\n"  # code for a function with cells must have as many
        "        from fxpasses.capture.leaf import _call_function\n"
        "        return _call_function('KEY', args, kwargs)\n"
        "    return trampoline\n"
    )
    scope: dict[str, Any] = {}
    exec(source, scope)
    made = scope["outer"](*[None] * len(code.co_freevars)).__code__
    original = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    original.__qualname__ = function.__qualname__
    constants = tuple((original, function) if constant == "KEY" else constant for constant in made.co_consts)
    new = made.replace(co_consts=constants, co_name=code.co_name, co_filename=code.co_filename)
    function.__code__ = new


def _call_function(
    pair: tuple[types.FunctionType, types.FunctionType], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    original, function = pair
    _called.add(function)
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, fx.Proxy):  # symbolic_trace: the call is made when its graph is exported
            return leaf.tracer.create_proxy("call_function", function, args, kwargs)

    def run(state: list[torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return original(*args, **kwargs)

    cells = tuple(_Same(cell.cell_contents) for cell in original.__closure__ or ())
    key = ("function", original.__code__, cells)
    name = original.__qualname__
    return _call(name, key, run, [], args, kwargs, f"leaf {name!r}")


# -- operators -----------------------------------------------------------------------------

Run = Callable[[list[torch.Tensor], tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class _Operator:
    """One registered operator: a leaf together with the structure of its call."""

    key: Any
    label: str
    run: Run = field(repr=False)
    in_spec: pytree.TreeSpec
    constants: tuple[Any, ...]
    states: int
    out_spec: pytree.TreeSpec | None = None
    out_constants: tuple[Any, ...] = ()
    op: Any = None

    def evaluate(self, operands: tuple[Any, ...]) -> list[torch.Tensor]:
        """The tensors among the results; None of them is an operand or a view of one."""
        state, rest = list(operands[: self.states]), iter(operands[self.states :])
        leaves = [next(rest) if constant is _OPERAND else constant for constant in self.constants]
        args, kwargs = pytree.tree_unflatten(leaves, self.in_spec)
        tensors = [x for x in operands if isinstance(x, torch.Tensor)]
        versions = [tensor._version for tensor in tensors]
        with torch.no_grad():
            result = self.run(state, args, kwargs)
        if any(tensor._version != version for tensor, version in zip(tensors, versions, strict=True)):
            raise CaptureError(
                f"{self.label} changes its arguments, parameters or buffers in place, which an opaque call cannot; "
                "compute new values, or let it be traced"
            )
        register_containers(result)
        results, out_spec = pytree.tree_flatten(result)
        for x in results:
            if not isinstance(x, torch.Tensor | str | None):
                raise CaptureError(
                    f"{self.label} returns a {type(x).__name__} beside tensors; an opaque call returns tensors only, "
                    "so compute it outside the leaf"
                )
        if self.out_spec is None:
            self.out_spec = out_spec
            self.out_constants = tuple(_OPERAND if isinstance(x, torch.Tensor) else x for x in results)
        found = [x for x in results if isinstance(x, torch.Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        return [x.clone() if x.untyped_storage()._cdata in storages else x for x in found]

    def results(self, values: Any) -> Any:
        """The result of the leaf in its own structure."""
        given = iter([values] if isinstance(values, torch.Tensor) else values)
        assert self.out_spec is not None
        leaves = [next(given) if constant is _OPERAND else constant for constant in self.out_constants]
        return pytree.tree_unflatten(leaves, self.out_spec)


class _Operand:
    """Marks the place of an operand among constants."""

    def __repr__(self) -> str:
        return "operand"


_OPERAND = _Operand()


def _call(
    name: str,
    key: Any,
    run: Run,
    state: list[torch.Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str,
) -> Any:
    leaves, in_spec = pytree.tree_flatten((args, kwargs))
    given = [x for x in leaves if isinstance(x, torch.Tensor | torch.SymInt)]
    constants = tuple(_OPERAND if isinstance(x, torch.Tensor | torch.SymInt) else x for x in leaves)
    operands = (*state, *given)
    if not any(isinstance(x, torch.Tensor) for x in operands):
        raise CaptureError(f"{label} takes no tensor, so it cannot be a call in a graph")
    full_key = (
        key,
        str(in_spec),
        tuple(map(repr, constants)),
        tuple(isinstance(x, torch.Tensor) for x in given),
    )
    clean = re.sub(r"\W+", "_", name.replace("<locals>", "")).strip("_") or "leaf"
    known = _operators.setdefault(clean, [])
    operator = next((one for one in known if one.key == full_key), None)
    if operator is None:
        operator = _Operator(full_key, label, run, in_spec, constants, len(state))
        unique = clean if not known else f"{clean}_{len(known)}"
        _register(operator, unique, operands)
        known.append(operator)
    return operator.results(operator.op(*operands))


def _register(operator: _Operator, name: str, operands: tuple[Any, ...]) -> None:
    """Define the operator; a run outside of the trace tells how many results it has."""
    global _library
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    with disable_proxy_modes_tracing():
        tensors = operator.evaluate(operands)
    if not tensors:
        raise CaptureError(f"{operator.label} returns no tensor, so it cannot be a call in a graph")
    if _library is None:
        _library = torch.library.Library(NAMESPACE, "FRAGMENT")
    parameters = ", ".join(
        f"{'Tensor' if isinstance(x, torch.Tensor) else 'SymInt'} x{i}" for i, x in enumerate(operands)
    )
    single = len(tensors) == 1
    returns = "Tensor" if single else f"({', '.join(['Tensor'] * len(tensors))})"

    def kernel(*operands: Any) -> Any:
        results = operator.evaluate(operands)
        return results[0] if single else tuple(results)

    _library.define(f"{name}({parameters}) -> {returns}", tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library._register_fake(name, kernel)
    operator.op = getattr(getattr(torch.ops, NAMESPACE), name).default
