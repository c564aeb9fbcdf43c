"""`call_log`: all that a model does with its arguments, as a hash, for a tenth of the time of a capture.

The Python code of the model runs once on fake tensors, and each call of an
operator that it makes is written down, with what it reads, and so is what it
returns. Two runs with one log compute the same, whatever has become of the
code and the configuration of the model meanwhile.

The log says nothing of the values of parameters and buffers.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import io
import linecache
import logging
import sys
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fxpasses.ambient import exclusive, plainly
from fxpasses.capture.exported import inference_tracing
from fxpasses.capture.source import Source, register_containers, untouched
from fxpasses.garbage import every_object
from fxpasses.tracing.fake_kernels import fake_kernels

__all__ = ["CallLog", "call_log", "content", "is_plain"]

log = logging.getLogger(__name__)

_PLAIN = (bool, int, float, complex, str, type(None))
_CHOICES = (torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True)
class CallLog:
    """What a model does.

    Attributes:
        digest: the hash of its calls.
        warnings: what it warned of.
        text: what it printed.
    """

    digest: str
    warnings: list[warnings.WarningMessage] = field(default_factory=list)
    text: str = ""

    def tell(self) -> None:
        """Warn and print as the model does."""
        for told in self.warnings:
            warnings.warn_explicit(
                told.message, told.category, told.filename, told.lineno, source=told.source
            )
        sys.stdout.write(self.text)


def call_log(source: Source) -> CallLog | None:
    """The log of a call of *source*; None where there is none.

    That is so where the code looks at values, assigns attributes of modules, or
    uses what is neither a plain tensor nor a number. The model and the arguments are left as they were.
    """
    modes: list[weakref.ref[FakeTensorMode]] = []
    found = _logged(source, modes)
    return None if _is_left(modes) else found


def _logged(source: Source, modes: list[weakref.ref[FakeTensorMode]]) -> CallLog | None:
    text = io.StringIO()
    try:
        with warnings.catch_warnings(record=True) as told, redirect_stdout(text):
            warnings.simplefilter("always")
            attributes = _Attributes(source.root)
            digest = _run(source, attributes, modes)
            if attributes.numbers:  # the next call of the model reads others, and must do the same
                count, place = len(told), text.tell()
                with attributes.changed():
                    if _run(source, _Attributes(source.root), modes) != digest:
                        raise _UnknownError(f"it assigns {', '.join(attributes.numbers)}")
                del told[count:]
                text.truncate(place)
    except Exception as error:  # whatever the code raises, the capture meets it again
        log.debug("%s has no log of calls: %s", source.label, error)
        return None
    return CallLog(digest, list(told), text.getvalue())


def _is_left(modes: list[weakref.ref[FakeTensorMode]]) -> bool:
    """Whether the code has kept fake tensors; those that it keeps by `functools.cache` are forgotten."""
    if all(mode() is None for mode in modes):
        return False
    gc.collect()
    if all(mode() is None for mode in modes):
        return False
    for found in every_object():
        if type(found) is functools._lru_cache_wrapper:
            kept = pytree.tree_leaves(gc.get_referents(found))
            if any(isinstance(leaf, FakeTensor) for leaf in kept):
                found.cache_clear()
    log.debug("a function keeps fake tensors")
    return True


def _run(source: Source, attributes: _Attributes, modes: list[weakref.ref[FakeTensorMode]]) -> str:
    """The digest of a run, of which the model keeps nothing."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    modes.append(weakref.ref(mode))
    with (
        exclusive(),
        plainly(),
        attributes.given_back(),
        untouched(source),
        inference_tracing(),
        fake_kernels(),
        _compiling_state_context(),  # code that asks for it does what it does in a capture
        torch.compiler.set_stance("force_eager"),
    ):
        return _digest(source, mode, attributes.fakes)


def _digest(source: Source, mode: FakeTensorMode, fakes: dict[int, torch.Tensor]) -> str:
    lines = _Lines()
    state = source.state()
    lines.declare("state", state)
    leaves, spec = pytree.tree_flatten((source.args, source.kwargs))
    lines.declare("arguments", dict(enumerate(leaves)))
    lines.add(f"{spec} {pytree.treespec_dumps(spec)} {_parameters(source.root)}")
    for tensor in [*state.values(), *leaves]:
        if isinstance(tensor, torch.Tensor):
            fakes[id(tensor)] = mode.from_tensor(tensor)
    inputs = [fakes.get(id(leaf), leaf) for leaf in leaves]
    weights = {name: fakes[id(tensor)] for name, tensor in state.items()}
    for fake in (*weights.values(), *inputs):
        if isinstance(fake, torch.Tensor):
            lines.enter(fake)
    args, kwargs = pytree.tree_unflatten(inputs, spec)
    with mode, _reparametrize_module(source.root, weights, tie_weights=False), _Listener(lines):
        result = source.root(*args, **kwargs)
    register_containers(result)
    outputs, spec = pytree.tree_flatten(result)
    lines.add(f"returns {lines.text(outputs)} {pytree.treespec_dumps(spec)}")
    lines.add(f"leaves {lines.text(list(weights.values()))}")  # a buffer may be another tensor now
    return lines.digest.hexdigest()


def _parameters(root: torch.nn.Module) -> str:
    import inspect

    return ", ".join(f"{p.kind} {name}" for name, p in inspect.signature(root.forward).parameters.items())


class _UnknownError(Exception):
    """The log cannot tell what something is."""


class _Lines:
    """The lines of a log, of which the hash alone is kept; tensors have numbers in the order in which they appear."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._held: list[torch.Tensor] = []  # an id is given again when its object is gone

    def add(self, line: str) -> None:
        self.digest.update(line.encode())
        self.digest.update(b"\n")

    def declare(self, kind: str, values: Mapping[Any, Any]) -> None:
        """What the run begins with: types, places in memory relative to each other, values that are no tensors."""
        storages: dict[int, int] = {}
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                place = storages.setdefault(value.untyped_storage()._cdata, len(storages))
                self.add(
                    f"{kind} {name} {_type(value)} {place} {value.storage_offset()} {value.requires_grad}"
                )
            else:
                self.add(f"{kind} {name} {self.text(value)}")

    def enter(self, tensor: torch.Tensor) -> str:
        """The number of *tensor*, a new one at first."""
        number = self._numbers.get(id(tensor))
        if number is None:
            number = self._numbers[id(tensor)] = len(self._held)
            self._held.append(tensor)
        return f"%{number}"

    def text(self, value: Any) -> str:
        """An argument or a result."""
        if isinstance(value, torch.Tensor):
            if id(value) in self._numbers:
                return self.enter(value)
            if isinstance(value, FakeTensor):
                raise _UnknownError("a tensor that no operator returned")
            return f"{self.enter(value)}={_type(value)} {content(value)}"
        if isinstance(value, _PLAIN):
            return f"{value!r}"
        if isinstance(value, _CHOICES):
            return f"{type(value).__name__} {value}"
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}({', '.join(map(self.text, value))})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{name}: {self.text(item)}' for name, item in value.items())}}}"
        raise _UnknownError(f"a value of type {type(value).__name__}")

    def results(self, value: Any) -> str:
        """The results of a call."""
        if isinstance(value, torch.Tensor):
            known = id(value) in self._numbers
            return self.enter(value) if known else f"{self.enter(value)}:{_kind(value)}"
        if isinstance(value, tuple | list):
            return f"({', '.join(map(self.results, value))})"
        return self.text(value)


class _Listener(TorchDispatchMode):
    """Adds each call, and the line of the model that makes it."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines
        self._places: dict[tuple[str, int], str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        lines = self._lines
        call = f"{func} {lines.text(args)} {lines.text(kwargs)}"
        result = func(*args, **kwargs)
        lines.add(f"{lines.results(result)} = {call} {self._place()}")
        return result

    def _place(self) -> str:
        """The innermost line outside of torch: errors of the compiled program name it."""
        frame: Any = sys._getframe(2)
        while frame is not None:
            at = frame.f_code.co_filename, frame.f_lineno
            if "/torch/" not in at[0]:
                place = self._places.get(at)
                if place is None:
                    place = self._places[at] = f"{at} {frame.f_code.co_name} {linecache.getline(*at).strip()}"
                return place
            frame = frame.f_back
        return ""


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _type(tensor: torch.Tensor) -> str:
    """What is known of a tensor beside its values."""
    if not is_plain(tensor) or tensor.is_quantized:
        raise _UnknownError(f"a {type(tensor).__name__} of layout {tensor.layout} on {tensor.device}")
    bits = f"{tensor.is_conj()} {tensor.is_neg()}"
    return f"{type(tensor).__name__} {tensor.device} {_kind(tensor)} {tensor.stride()} {bits}"


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether *tensor* is no subclass of torch's, and all of its elements lie in the memory of the CPU."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def content(tensor: torch.Tensor) -> str:
    """The hash of the values of a plain *tensor*, in the order of its elements."""
    with _disable_current_modes():
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        data = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
        return hashlib.sha256(data.numpy()).hexdigest()


class _Attributes:
    """The plain attributes of the modules of *root*, as they are now.

    Attributes:
        numbers: those that a run has changed, by path, with the numbers that it has put there.
        fakes: what stood for a tensor in the run, by the identity of the tensor.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self.numbers: dict[str, tuple[torch.nn.Module, str, Any]] = {}
        self.fakes: dict[int, torch.Tensor] = {}
        self._root = root
        self._before = {
            name: {
                key: (value, *pytree.tree_flatten(value)) for key, value in _plain_attributes(module).items()
            }
            for name, module in root.named_modules()
        }
        self._tables = [
            (f"{path}.{key}", table, dict(table))
            for path, module in root.named_modules()
            for key, table in module.__dict__.items()
            if key in _TABLES
        ]

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Give them back as they were after the body.

        Raises:
            _UnknownError: the body has put something else than other numbers there.
        """
        lost: list[str] = []
        try:
            yield
        finally:
            for path, table, before in self._tables:
                if [*map(id, table.values())] != [*map(id, before.values())]:
                    table.clear()
                    table.update(before)
                    lost.append(path)
            for path, module in self._root.named_modules():
                lost += self._restore(path, module)
        if lost:
            raise _UnknownError(f"it assigns {', '.join(lost)}")

    def _restore(self, path: str, module: torch.nn.Module) -> Iterator[str]:
        before = self._before.get(path, {})
        for key in _plain_attributes(module).keys() - before.keys():
            del module.__dict__[key]
            yield f"{path}.{key}"
        for key, (value, leaves, spec) in before.items():
            after = module.__dict__.get(key)
            now, now_spec = pytree.tree_flatten(after)
            if now_spec != spec or not all(map(self._same, leaves, now)):
                if all(isinstance(leaf, _PLAIN) for leaf in (*leaves, *now)):
                    self.numbers[f"{path}.{key}"] = module, key, pytree.tree_unflatten(now, now_spec)
                else:
                    yield f"{path}.{key}"
            inside, _ = pytree.tree_flatten(value)
            intact = len(inside) == len(leaves) and all(a is b for a, b in zip(inside, leaves, strict=True))
            module.__dict__[key] = value if intact else pytree.tree_unflatten(leaves, spec)

    def _same(self, before: Any, after: Any) -> bool:
        if isinstance(before, weakref.ref) and isinstance(after, weakref.ref):
            return True  # what it refers to has another place as well
        if before is after or (id(before) in self.fakes and self.fakes[id(before)] is after):
            return True
        return type(before) is type(after) and isinstance(before, _PLAIN) and repr(before) == repr(after)

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Have the numbers of the run in the modules."""
        before = {path: module.__dict__[key] for path, (module, key, _) in self.numbers.items()}
        try:
            for module, key, value in self.numbers.values():
                module.__dict__[key] = value
            yield
        finally:
            for path, (module, key, _) in self.numbers.items():
                module.__dict__[key] = before[path]


_OF_TORCH = frozenset(torch.nn.Module().__dict__)

# Hooks and submodules; parameters and buffers are exchanged for the run, and come back after it.
_TABLES = frozenset(name for name, value in torch.nn.Module().__dict__.items() if isinstance(value, dict)) - {
    "_parameters",
    "_buffers",
}


def _plain_attributes(module: torch.nn.Module) -> dict[str, Any]:
    return {key: value for key, value in module.__dict__.items() if key not in _OF_TORCH}
