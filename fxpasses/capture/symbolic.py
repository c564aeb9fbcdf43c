"""The door of `torch.fx.symbolic_trace`: run the code on proxies, then export the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.capture.effects import check_effects, effects_of
from fxpasses.capture.exported import export, inference_tracing, quiet
from fxpasses.capture.make_fx import as_in_export
from fxpasses.capture.proxies import KnowingTracer, Proxies
from fxpasses.capture.replay import assumptions, input_positions, interpret, replay
from fxpasses.capture.shapes import Captured
from fxpasses.capture.source import Source, sharing_state, untouched
from fxpasses.errors import CaptureError

__all__ = ["by_symbolic_trace"]


def by_symbolic_trace(source: Source) -> Captured:
    """Capture with fx proxies.

    Arguments that are no tensors are constants. Branches on values cannot be
    followed. What the proxies may have missed is found by a run on fake
    tensors, and refused.
    """
    with inference_tracing(), quiet():
        effects = effects_of(source)
        traced = _trace(source)
    captured = export(traced)
    check_effects(captured.program, source, effects, "symbolic_trace")
    return captured


def _trace(source: Source) -> Source:
    from torch._export.non_strict_utils import make_fake_inputs

    if source.root._forward_hooks or source.root._forward_pre_hooks:
        raise CaptureError(f"symbolic_trace does not see the hooks of {source.label}")
    mode, args, kwargs, *_ = make_fake_inputs(source.root, source.args, source.kwargs, source.dynamic_shapes)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    positions = input_positions(source, leaves)
    tracer = KnowingTracer(source, mode, leaves, spec, positions)
    # The tracer writes constants to its root, which must not be the user's module.
    owner = sharing_state(source.root)
    random = torch.get_rng_state()
    with (
        _recorded_autocast(tracer),
        as_in_export(source.root),
        untouched(source),
        Proxies(tracer),
    ):
        graph = tracer.trace(owner)
    if not torch.equal(random, torch.get_rng_state()):
        torch.set_rng_state(random)
        raise CaptureError("symbolic_trace takes random numbers that the code draws for constants")
    assert tracer.out_spec is not None
    check = assumptions(mode, [leaves[i] for i in positions])

    def run(root: torch.nn.Module, given: list[Any]) -> list[Any]:
        check(given)
        result: list[Any] = interpret(owner, graph, given)
        return result

    return replay(source, run, positions, tracer.out_spec)


@contextmanager
def _recorded_autocast(tracer: KnowingTracer) -> Iterator[None]:
    """Put regions of autocast into the graph, which fx would drop."""
    from torch.amp.autocast_mode import _enter_autocast, _exit_autocast, autocast

    entered: list[Any] = []
    enter, leave = autocast.__enter__, autocast.__exit__

    def __enter__(self: Any) -> Any:
        if not tracer.evaluating:
            arguments = (self.device, self.fast_dtype, self._enabled, self._cache_enabled)
            entered.append(tracer.create_marker(_enter_autocast, arguments))
        return enter(self)

    def __exit__(self: Any, *error: Any) -> Any:
        if not tracer.evaluating:
            tracer.create_marker(_exit_autocast, (entered.pop(),))
        return leave(self, *error)

    autocast.__enter__, autocast.__exit__ = __enter__, __exit__  # type: ignore[method-assign]
    try:
        yield
    finally:
        autocast.__enter__, autocast.__exit__ = enter, leave  # type: ignore[method-assign]
