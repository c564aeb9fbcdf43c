"""The door of `make_fx`: trace the operators that run on fake tensors, then export the trace.

The trace is made above autograd, where composite operators are still whole. A
derivative that the code takes (`torch.func.grad`, `torch.autograd.grad`) may be
beyond that; then it is made below, where a derivative is operators like others.

Code that reads a number out of a buffer (``if self.initialised:``, a padding that
is kept as a tensor) is traced with the buffer's value, if the code never changes
it; the graph asserts what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from fxpasses.capture.exported import export, inference_tracing, quiet
from fxpasses.capture.replay import assumptions, fetch, input_positions, interpret, replay
from fxpasses.capture.shapes import Captured
from fxpasses.capture.source import Source, register_containers, without_transforms
from fxpasses.tracing.functions import functions_in_graphs

__all__ = ["as_in_export", "by_make_fx", "swapped", "trace"]


def by_make_fx(source: Source) -> Captured:
    """Capture with `make_fx`; the values of buffers play no part where that leads through."""
    try:
        return _by_make_fx(source, {})
    except Exception:  # of any kind: what is done with an unknown number fails in many ways
        state = source.state()
        numbers = [(name, buffer) for name, buffer in source.root.named_buffers() if buffer.numel() == 1]
        known = {name: buffer.detach().clone() for name, buffer in numbers}
        while known:
            try:
                captured = _by_make_fx(source, known)
            except Exception:  # the first one says what is wrong
                break
            roles = [role for role, _ in captured.program.outputs if role.kind == "buffer_mutation"]
            changed = {id(state[role.target]) for role in roles if role.target}
            if changed.isdisjoint(id(state[name]) for name in known):
                return captured
            known = {name: value for name, value in known.items() if id(state[name]) not in changed}
        raise


def _by_make_fx(source: Source, known: dict[str, torch.Tensor]) -> Captured:
    """Capture above autograd where that leads through. *known*: the buffers whose values the code may read."""
    derivatives = _Derivatives()
    try:
        with without_transforms():
            with inference_tracing(), quiet():
                traced = trace(source, derivatives, known)
            return export(traced)
    except Exception:  # of any kind; where the code takes a derivative, the other trace tells what is wrong
        if not derivatives.taken:
            raise
    with inference_tracing(), torch.enable_grad(), quiet():
        traced = trace(source, known=known)
    return export(traced)


class _Derivatives(TorchFunctionMode):
    """Notes whether the code takes a derivative."""

    taken = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        transform = peek_interpreter_stack()
        self.taken |= func is torch.autograd.grad
        self.taken |= transform is not None and transform.key() in (TransformType.Grad, TransformType.Jvp)
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    """Has the graph assert the values of the tensors whose values are known, where the code reads them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _READS:
            known = getattr(args[0], "constant", None)
            if known is not None:
                with _disable_current_modes():
                    number = known.item()
                same = args[0] == number if number == number else args[0].isnan()
                torch._assert_async(
                    same.all(), "a buffer has another value than the one that the capture read"
                )
        return result


_READS = frozenset(
    (
        torch.is_nonzero,
        torch.Tensor.is_nonzero,
        torch.Tensor.item,
        torch.Tensor.__bool__,
        torch.Tensor.__int__,
        torch.Tensor.__float__,
        torch.Tensor.__complex__,
        torch.Tensor.__index__,
    )
)


def trace(
    source: Source,
    above_autograd: AbstractContextManager[Any] | None = None,
    known: Mapping[str, torch.Tensor] | None = None,
) -> Source:
    """*source* with a root that replays the operators that it called.

    Everything runs on fake tensors: neither the model nor the arguments change.
    What the trace took for granted about sizes is checked in the replay, and so
    comes out as a guard of the export. The operators are those above autograd, with
    *above_autograd* entered around the user's code, or else those below. The code may
    read the values of the buffers in *known*, by name.
    """
    from torch._export.non_strict_utils import make_fake_inputs
    from torch.fx.experimental.proxy_tensor import make_fx

    mode, args, kwargs, *_ = make_fake_inputs(source.root, source.args, source.kwargs, source.dynamic_shapes)
    leaves, in_spec = pytree.tree_flatten((args, kwargs))
    positions = input_positions(source, leaves)
    state = source.state()
    first_name: dict[int, str] = {}
    for name, tensor in state.items():
        first_name.setdefault(id(tensor), name)
    names = list(first_name.values())
    out_spec: pytree.TreeSpec | None = None

    def flat(values: list[torch.Tensor], given: list[Any]) -> list[Any]:
        nonlocal out_spec
        by_id = dict(zip(first_name, values, strict=True))
        fakes = {name: by_id[id(tensor)] for name, tensor in state.items()}
        filled = list(leaves)
        for position, value in zip(positions, given, strict=True):
            filled[position] = value
        inner_args, inner_kwargs = pytree.tree_unflatten(filled, in_spec)
        with swapped(source.root, fakes):
            with above_autograd or nullcontext():
                result = source.root(*inner_args, **inner_kwargs)
            for name, buffer in source.root.named_buffers(remove_duplicate=False):
                if name in fakes and buffer is not fakes[name]:  # self.count = self.count + 1
                    fakes[name].copy_(buffer)
        register_containers(result)
        results, out_spec = pytree.tree_flatten(result)
        return results

    with ExitStack() as stack:
        stack.enter_context(mode)
        stack.enter_context(as_in_export(source.root))
        stack.enter_context(functions_in_graphs())
        fakes = [mode.from_tensor(state[name], static_shapes=True) for name in names]
        for name, fake in zip(names, fakes, strict=True):
            if known and name in known:
                fake.constant = known[name]
                mode.fake_tensor_converter.add_constant_storage_mapping(fake)
        if known:
            stack.enter_context(_Reads())
        graph_module = make_fx(
            flat,
            pre_dispatch=above_autograd is not None,
            record_stack_traces=True,
            _allow_non_fake_inputs=True,
            _error_on_data_dependent_ops=False,
        )(fakes, [leaves[i] for i in positions])
    assert out_spec is not None
    check = assumptions(mode, [leaves[i] for i in positions])

    def run(root: torch.nn.Module, given: list[Any]) -> list[Any]:
        check(given)
        return interpret(graph_module, graph_module.graph, [*fetch(root, names), *given])

    return replay(source, run, positions, out_spec)


@contextmanager
def swapped(root: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    from torch.nn.utils.stateless import _reparametrize_module

    with _reparametrize_module(root, tensors, stack_weights=True):
        yield


@contextmanager
def as_in_export(root: torch.nn.Module) -> Iterator[None]:
    """What `torch.export` sets while it traces; it also gives plain attributes of modules back."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._export.utils import _compiling_state_context
    from torch._functorch._aot_autograd.frontend_utils import _detect_attribute_assignment

    with enable_python_dispatcher(), _compiling_state_context(), _detect_attribute_assignment(root):
        yield
