"""The door of `torch.fx.symbolic_trace`: run the code on proxies, then export the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fxpasses.capture.effects import check_effects, effects_of
from fxpasses.capture.exported import export, inference_tracing, quiet
from fxpasses.capture.make_fx import as_in_export
from fxpasses.capture.replay import input_positions, interpret, replay
from fxpasses.capture.shapes import Captured
from fxpasses.capture.source import Source, register_containers, sharing_state, untouched
from fxpasses.errors import CaptureError

__all__ = ["by_symbolic_trace"]


def by_symbolic_trace(source: Source) -> Captured:
    """Capture with fx proxies.

    Arguments that are no tensors are constants. Branches on sizes or values
    cannot be followed. What the proxies may have missed is found by a run on
    fake tensors, and refused.
    """
    with inference_tracing(), quiet():
        effects = effects_of(source)
        traced = _trace(source)
    captured = export(traced)
    check_effects(captured.program, source, effects, "symbolic_trace")
    return captured


class _Proxy(fx.Proxy):
    """A proxy that takes ``x[...] = value``."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


class _Tracer(fx.Tracer):
    """Traces a source with one placeholder for each tensor among its arguments."""

    record_stack_traces = True
    proxy_buffer_attributes = True  # else self.count.add_(1) would count during the trace

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.positions: list[int] = []
        self.out_spec: pytree.TreeSpec | None = None

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        from fxpasses.capture.leaf import is_leaf

        return is_leaf(m) or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        leaves, spec = pytree.tree_flatten((self.source.args, self.source.kwargs))
        self.positions = input_positions(self.source, leaves)
        proxies = [self.create_proxy("placeholder", f"x{i}", (), {}) for i in self.positions]

        def call(*given: Any) -> list[Any]:
            filled = list(leaves)
            for position, proxy in zip(self.positions, given, strict=True):
                filled[position] = proxy
            args, kwargs = pytree.tree_unflatten(filled, spec)
            buffers = dict(self.source.root.named_buffers(remove_duplicate=False))
            result = self.source.root.forward(*args, **kwargs)
            for name, buffer in self.source.root.named_buffers(remove_duplicate=False):
                if buffer is not buffers.get(name):  # self.count = self.count + 1
                    held = self.create_proxy("get_attr", name, (), {})
                    self.create_proxy("call_method", "copy_", (held, buffer), {})
            register_containers(result)
            results, self.out_spec = pytree.tree_flatten(result)
            return results

        return call, proxies


def _trace(source: Source) -> Source:
    if source.root._forward_hooks or source.root._forward_pre_hooks:
        raise CaptureError(f"symbolic_trace does not see the hooks of {source.label}")
    tracer = _Tracer(source)
    # The tracer writes constants to its root, which must not be the user's module.
    owner = sharing_state(source.root)
    random = torch.get_rng_state()
    with _recorded_autocast(tracer), as_in_export(source.root), untouched(source), _NothingLasting():
        graph = tracer.trace(owner)
    if not torch.equal(random, torch.get_rng_state()):
        torch.set_rng_state(random)
        raise CaptureError("symbolic_trace takes random numbers that the code draws for constants")
    assert tracer.out_spec is not None

    def run(root: torch.nn.Module, given: list[Any]) -> list[Any]:
        return interpret(owner, graph, given)

    return replay(source, run, tracer.positions, tracer.out_spec)


class _NothingLasting(TorchDispatchMode):
    """Refuses to change a tensor that was there before the trace.

    Whatever has no proxy among its arguments runs for real, and once: the graph
    would not have it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: set[int] = set()
        self.kept: list[torch.Tensor] = []  # so that no storage is freed and used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            named = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
            for argument in func._schema.arguments:
                written = argument.alias_info is not None and argument.alias_info.is_write
                for tensor in pytree.tree_leaves(named.get(argument.name)) if written else ():
                    if isinstance(tensor, torch.Tensor) and _storage(tensor) not in self.made:
                        raise CaptureError(
                            f"{func} changes a tensor that is no buffer of the model, which symbolic_trace does not "
                            "see; make the tensor a buffer: self.register_buffer(name, tensor)"
                        )
        before = {_storage(x) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = func(*args, **kwargs)
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _storage(tensor) not in before:
                self.made.add(_storage(tensor))
                self.kept.append(tensor)
        return result


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _recorded_autocast(tracer: fx.Tracer) -> Iterator[None]:
    """Put regions of autocast into the graph, which fx would drop."""
    from torch.amp.autocast_mode import _enter_autocast, _exit_autocast, autocast

    entered: list[Any] = []
    enter, leave = autocast.__enter__, autocast.__exit__

    def __enter__(self: Any) -> Any:
        arguments = (self.device, self.fast_dtype, self._enabled, self._cache_enabled)
        entered.append(tracer.create_proxy("call_function", _enter_autocast, arguments, {}))
        return self

    def __exit__(self: Any, *error: Any) -> None:
        tracer.create_proxy("call_function", _exit_autocast, (entered.pop(),), {})

    autocast.__enter__, autocast.__exit__ = __enter__, __exit__  # type: ignore[method-assign]
    try:
        yield
    finally:
        autocast.__enter__, autocast.__exit__ = enter, leave  # type: ignore[method-assign]
