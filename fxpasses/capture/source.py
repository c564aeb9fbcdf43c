"""`Source`: what is captured, as a module with arguments, whatever it was given as."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from fxpasses.errors import InputError

__all__ = [
    "Source",
    "make_source",
    "register_containers",
    "sharing_state",
    "state_of",
    "told_apart",
    "untouched",
    "without_transforms",
]

_PLAIN_LEAVES = (torch.Tensor, int, float, complex, bool, str, type(None))
_CHOICES = (torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True)
class Source:
    """A module and the arguments that it is traced with.

    `root` is the user's own module, or a module made around a function; names
    of parameters and buffers are those that the user knows. `label` is how
    messages call it, and `free` holds the tensors that a function reaches
    without being given them.
    """

    root: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any = None
    label: str = ""
    leaf: tuple[Any, ...] = ()
    free: tuple[torch.Tensor, ...] = field(default=(), repr=False)

    def replace(self, **changes: Any) -> Source:
        """A copy with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    @property
    def place(self) -> str | None:
        """``file:line`` where the traced function is defined."""
        function = inspect.unwrap(getattr(self.root, "forward", None) or self.root)
        code = getattr(function, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else None

    def state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name; a tied one under each of its names."""
        return state_of(self.root)


def make_source(
    source: Any, args: Any, kwargs: Any, dynamic_shapes: Any = None, leaf: tuple[Any, ...] = ()
) -> Source:
    """The `Source` of a module or a callable.

    Raises:
        InputError: the arguments do not fit; the message names the one.
    """
    root, label, free = _as_module(source)
    if torch.is_autocast_enabled("cpu"):
        root = _in_autocast(root)
    args, kwargs = _arguments(args, kwargs, label)
    try:
        inspect.signature(root.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"the example arguments do not fit {label}: {error}") from error
    register_containers((args, kwargs))
    for path, leaf_value in pytree.tree_flatten_with_path((args, kwargs))[0]:
        if not isinstance(leaf_value, _PLAIN_LEAVES):
            where = (
                f"args{pytree.keystr(path[1:])}" if path[0].idx == 0 else f"kwargs{pytree.keystr(path[1:])}"
            )
            raise InputError(
                f"{where} of {label} is of type {type(leaf_value).__name__}, which a graph cannot take; "
                + (_CHOICE_ADVICE.format(leaf_value) if isinstance(leaf_value, _CHOICES) else _TYPE_ADVICE)
            )
    args, kwargs = told_apart((args, kwargs), (*state_of(root).values(), *free))
    return Source(root, args, kwargs, dynamic_shapes, label, leaf, free)


_CHOICE_ADVICE = (
    "it is a part of the program: capture a function without that argument, such as lambda x: model(x, {})"
)
_TYPE_ADVICE = "pass tensors and numbers, or register the type with torch.utils._pytree.register_pytree_node"


def _arguments(args: Any, kwargs: Any, label: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(args, torch.Tensor):
        raise InputError(
            f"args of {label} is a single tensor; write (x,), a tuple of the positional arguments"
        )
    if isinstance(args, Mapping):
        raise InputError(f"args of {label} is a dict; keyword arguments go into kwargs=")
    if args is None:
        args = ()
    if not isinstance(args, tuple | list):
        raise InputError(
            f"args of {label} is of type {type(args).__name__}; write a tuple of the positional arguments"
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"kwargs of {label} is of type {type(kwargs).__name__}; write a dict")
    return tuple(args), dict(kwargs or {})


def told_apart(tree: Any, held: tuple[torch.Tensor, ...]) -> Any:
    """*tree* with memory of its own for each tensor, and none of what the model holds.

    Tracers know tensors by identity: a graph of ``a - b`` captured with one tensor for
    both would compute ``b - b``, whatever it is called with. AOT autograd fails where one
    of two views is written to.
    """
    seen = {_memory(tensor) for tensor in held}

    def apart(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if _memory(leaf) in seen:
            plain = leaf.detach()
            own = plain.clone() if plain.is_contiguous() else copy.deepcopy(plain)  # which keeps strides
            leaf = own.requires_grad_(leaf.requires_grad)
        seen.add(_memory(leaf))
        return leaf

    return pytree.tree_map(apart, tree)


def _memory(tensor: torch.Tensor) -> int:
    """What tells the memory of *tensor* from that of others; *tensor* itself where it has none to be asked for."""
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # it is sparse, or a wrapper of others
        return id(tensor)


def _as_module(source: Any) -> tuple[torch.nn.Module, str, tuple[torch.Tensor, ...]]:
    if isinstance(source, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        from fxpasses.capture.torchscript import as_module

        name = getattr(source, "original_name", None) or getattr(source, "name", None)
        return as_module(source), name or type(source).__name__, ()
    if isinstance(source, torch.nn.Module):
        source = getattr(source, "_orig_mod", source)  # a module that torch.compile wrapped
        return source, type(source).__name__, _free_tensors(source)
    if isinstance(source, types.MethodType) and isinstance(source.__self__, torch.nn.Module):
        owner = source.__self__
        root = _twin(owner)
        root.forward = types.MethodType(source.__func__, root)
        return root, source.__qualname__, _free_tensors(owner)
    if not callable(source):
        raise InputError(
            f"a {type(source).__name__} cannot be captured; give a module, a function, a GraphModule, an "
            "ExportedProgram, a path of a .pt2 file or a TorchScript module"
        )
    label = getattr(source, "__qualname__", None) or type(source).__name__
    modules, tensors = _free_values(source)
    root = torch.nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    root.forward = _as_function(source)
    held = [tensor for module in modules.values() for tensor in _free_tensors(module)]
    return root, label, (*tensors, *held)


def _twin(root: torch.nn.Module) -> torch.nn.Module:
    """A module of the class of *root*, with what *root* has; its `forward` may be exchanged."""
    twin = sharing_state(root)
    twin.__dict__.update({name: value for name, value in root.__dict__.items() if name not in twin.__dict__})
    twin.__class__ = type(root)
    return twin


def _in_autocast(root: torch.nn.Module) -> torch.nn.Module:
    """*root* with the caller's autocast as a region of its own, which a graph keeps."""
    twin = _twin(root)
    inside = twin.forward
    options = {"dtype": torch.get_autocast_dtype("cpu"), "cache_enabled": torch.is_autocast_cache_enabled()}

    @functools.wraps(inside)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", **options):
            return inside(*args, **kwargs)

    twin.forward = forward
    return twin


def _as_function(source: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isfunction(source):
        _keep_lines(source)
        return source

    def forward(*args: Any, **kwargs: Any) -> Any:
        return source(*args, **kwargs)

    try:
        signature = inspect.signature(source)
    except ValueError:  # some builtins do not tell theirs
        signature = inspect.Signature(
            [
                inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
            ]
        )
    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward


def _keep_lines(function: types.FunctionType) -> None:
    """Let torch note the lines of *function* on the calls it makes; else only those of methods named forward."""
    keep = getattr(torch.fx.proxy, "_register_stack_trace_anchor", None)
    if keep is not None:
        keep(function)


def _free_values(source: Any) -> tuple[dict[str, torch.nn.Module], list[torch.Tensor]]:
    """Modules and tensors that a function reaches through its closure, globals or partial."""
    values: dict[str, Any] = {}
    while isinstance(source, functools.partial):
        values.update({f"arg{i}": value for i, value in enumerate(source.args)}, **source.keywords)
        source = source.func
    if isinstance(source, types.MethodType):
        values["self"] = source.__self__
        source = source.__func__
    source = inspect.unwrap(source)
    if inspect.isfunction(source):
        try:
            names = inspect.getclosurevars(source)
            values.update(names.globals, **names.nonlocals)
        except ValueError:  # a cell that is still empty
            values.update(source.__globals__)
            values = {name: value for name, value in values.items() if name in source.__code__.co_names}
    modules = {
        name: value
        for name, value in values.items()
        if isinstance(value, torch.nn.Module) and not isinstance(value, torch.jit.ScriptModule)
    }
    tensors = [value for value in values.values() if isinstance(value, torch.Tensor)]
    return modules, tensors


def _free_tensors(root: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Tensors that the methods of a model reach and that are no parameters or buffers.

    They are plain attributes of modules, and globals of the modules' own code.
    """
    found: dict[int, torch.Tensor] = {}
    classes: set[type] = set()
    for module in root.modules():
        found.update({id(v): v for v in module.__dict__.values() if isinstance(v, torch.Tensor)})
        classes.update(type(module).__mro__)
    for cls in classes:
        if cls.__module__.startswith("torch."):
            continue
        for method in vars(cls).values():
            code = getattr(method, "__code__", None)
            if code is not None:
                values = [method.__globals__.get(name) for name in code.co_names]
                found.update({id(v): v for v in values if isinstance(v, torch.Tensor)})
    return tuple(found.values())


def state_of(root: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; a tied one under each of its names."""
    return {
        **dict(root.named_parameters(remove_duplicate=False)),
        **dict(root.named_buffers(remove_duplicate=False)),
    }


def sharing_state(root: torch.nn.Module, forward: Callable[..., Any] | None = None) -> torch.nn.Module:
    """A bare module with the very parameters, buffers and children of *root*."""
    module = torch.nn.Module()
    for name in ("training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
        module.__dict__[name] = root.__dict__[name]
    if forward is not None:
        forward.__signature__ = inspect.signature(root.forward)  # type: ignore[attr-defined]
        module.forward = forward
    return module


def register_containers(tree: Any) -> None:
    """Let torch take apart the dataclasses and caches in *tree*, as it does dicts and tuples.

    Registration is for the whole process, as by `torch.export.register_dataclass`.
    """
    while True:
        registered = False
        for cls in {type(leaf) for leaf in pytree.tree_leaves(tree)}:
            for holds, register in _CONTAINERS:
                if holds(cls):
                    register(cls)
                    registered = True
                    break
        if not registered:
            return


def _register_dataclass(cls: type) -> None:
    torch.export.register_dataclass(cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")


def _is_transformers_cache(cls: type) -> bool:
    return cls.__module__.startswith("transformers.") and any(
        base.__name__ == "Cache" for base in cls.__mro__
    )


def _register_transformers_cache(cls: type) -> None:
    from transformers.exporters.exporter_dynamo import register_pytree_node

    register_pytree_node(cls)


_CONTAINERS: tuple[tuple[Callable[[type], bool], Callable[[type], None]], ...] = (
    (_is_transformers_cache, _register_transformers_cache),
    (dataclasses.is_dataclass, _register_dataclass),
)
"""Pairs of a test on the class of a pytree leaf and what makes a pytree node of that class."""


@contextmanager
def without_transforms() -> Iterator[None]:
    """Leave the transforms of `torch.func` that a trace entered: one that fails in them leaves them on."""
    depth, level = torch._C._functorch.get_dynamic_layer_stack_depth(), forward_ad._current_level
    forward = torch._C._is_fwd_grad_enabled()
    no_hooks = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    try:
        yield
    except BaseException:
        torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)
        torch._C._set_fwd_grad_enabled(forward)
        if no_hooks is None:
            torch._C._autograd._saved_tensors_hooks_enable()
        else:
            torch._C._autograd._saved_tensors_hooks_disable(no_hooks)
        if level < 0:  # there is one at most, and nothing tells of it
            forward_ad._current_level = level
            with suppress(RuntimeError):
                torch._C._exit_dual_level(level=0)
        raise


@contextmanager
def untouched(source: Source) -> Iterator[None]:
    """Give the user's tensors and modes back as they were, whatever the tracing did."""
    kept = [(t, t._version, t.detach().clone()) for t in source.free]
    modules = [(m, m.training, dict(m._parameters), dict(m._buffers)) for m in source.root.modules()]
    try:
        with without_transforms():
            yield
    finally:
        for tensor, version, value in kept:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(value)
        for module, training, parameters, buffers in modules:
            module.training = training
            module._parameters.update(parameters)
            module._buffers.update(buffers)
