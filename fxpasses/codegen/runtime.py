"""`Compiled`: the callable that `fxpasses.compile` and `fxpasses.load` return."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from fxpasses.codegen.callbacks import register, take_error
from fxpasses.codegen.pages import in_large_pages
from fxpasses.codegen.plan import CallPlan, Source
from fxpasses.errors import DivisionError, IndexRangeError, InputError, RunError
from fxpasses.relax import tvm_api as T
from fxpasses.signature import Signature
from fxpasses.sizes import evaluate

if TYPE_CHECKING:
    from fxpasses.codegen.island import Islands
    from fxpasses.relax.checks import Check

__all__ = ["ALIGNMENT", "Compiled", "own_tensors", "prepare", "use_threads"]

ALIGNMENT = 64
"""The generated code reads whole vectors, so it needs tensors that start at such an address."""

_COMPLEX = ("complex32", "complex64", "complex128")

_threads = threading.local()


class Compiled:
    """A program compiled by TVM, called with torch tensors like the model it came from.

    - Arguments are checked, and passed without a copy where they are contiguous
      and aligned. Outputs come back in the model's own structure, without autograd
      history, and own their memory: only an argument that the model returns as it
      is comes back itself, and a view of one is a copy.
    - The weights are a snapshot: changing the model afterwards does not change
      the compiled program.
    - Mutated arguments are written back into the caller's tensors. Mutated
      buffers belong to the compiled program: see `state`.
    - A call runs in ``torch.get_num_threads()`` threads: `torch.set_num_threads`
      is the setting for both, in each thread that calls. The environment
      variable ``TVM_NUM_THREADS``, where it is set, is the most there can be.
    - Calls from several threads are safe. They run side by side, except where
      the program has buffers of its own, whose update must not interleave.
    """

    def __init__(
        self,
        signature: Signature,
        plan: CallPlan,
        executable: Any,
        tensors: Mapping[str, torch.Tensor],
        *,
        target: Any,
        islands: Islands | None = None,
    ) -> None:
        self.signature = signature
        self.target = target
        self.islands = None if islands is None or not islands.rows else islands.activate()
        register()
        self._plan = plan
        self._executable = executable
        self._module = executable.jit() if hasattr(executable, "jit") else executable
        self._tensors = dict(tensors)
        self._state = {name: self._tensors[name] for name in plan.state}
        self._weights = tuple(prepare(self._tensors[name]) for name in plan.tensors)
        self._owned = {tensor.data_ptr() for tensor in self._tensors.values() if tensor.numel()}
        self._idle: list[Callable[..., Any]] = []
        self._turn: Any = threading.Lock() if self._state else nullcontext()

    @property
    def state(self) -> Mapping[str, torch.Tensor]:
        """The mutable buffers, by name; they start from the model's values.

        The tensors are the live ones: ``compiled.state["cache"].zero_()`` resets it.
        """
        return MappingProxyType(self._state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        """A program with buffers of its own; code and weights are shared."""
        state = {name: tensor.clone() for name, tensor in self._state.items()}
        return Compiled(
            self.signature,
            self._plan,
            self._executable,
            {**self._tensors, **state},
            target=self.target,
            islands=self.islands,
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "a compiled program cannot be pickled; write it with save and read it with fxpasses.load"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file that `fxpasses.load` reads; see `fxpasses.codegen.artifact`."""
        from fxpasses.codegen.artifact import save

        save(self, path)

    # -- a call --------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program.

        What the capture was given by position is taken by name as well.

        Raises:
            InputError: an argument does not fit; the message names it.
            IndexRangeError: an index, given or computed, is out of range.
            DivisionError: an integer is divided by zero.
        """
        if torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
            _refuse_tracing()
        leaves = self.signature.flatten(args, kwargs)
        symbols = self.signature.check(leaves)
        plan = self._plan
        for layout in plan.layouts:
            self._check_layout(leaves, *layout)
        if plan.writes:
            self._check_aliases(leaves)
        with self._turn:
            values = self._run(leaves, symbols)
            outputs = [
                _number(expected, symbols)
                if source.kind == "value"
                else restored(self._output(source, leaves, values), expected.dtype in _COMPLEX)
                for source, expected in zip(plan.outputs, self.signature.outputs, strict=True)
            ]
            if plan.writes:
                self._write(leaves, values)
        return self.signature.unflatten(outputs)

    def _run(self, leaves: list[Any], symbols: Mapping[str, int]) -> list[torch.Tensor]:
        """The results of ``main``, none of which shares memory with anything else."""
        plan = self._plan
        arguments = [self._argument(i, leaves[i]) for i in plan.inputs]
        taken = {leaves[i].data_ptr() for i in plan.inputs}
        if plan.sizes:
            arguments.append(T.tvm_ffi.Shape([evaluate(size, symbols) for size in plan.sizes]))
        use_threads(torch.get_num_threads())
        try:
            main = self._idle.pop()
        except IndexError:
            main = self._machine()["main"]
        try:
            results = main(*arguments, *self._weights)
        except Exception as error:
            cause = take_error()
            if cause is not None:
                raise cause from error
            raise
        self._idle.append(main)
        if plan.checks:
            *results, code = results
            failed = torch.from_dlpack(code).item()
            if failed > 0:  # over no elements at all, the largest code is the least integer
                raise self._failure(plan.checks[int(failed) - 1], leaves, symbols)
        values = []
        for result in results:
            value = torch.from_dlpack(result)
            if not value.numel():  # in memory of PyTorch's, which `out=` of a later call may make larger
                value = torch.empty_like(value)
            pointer = value.data_ptr()
            if pointer:
                if pointer in taken or pointer in self._owned:
                    value = value.clone()
                    pointer = value.data_ptr()
                taken.add(pointer)
            values.append(value)
        return values

    def _machine(self) -> Any:
        return T.relax.VirtualMachine(self._module, T.tvm.cpu())

    @contextmanager
    def instrumented(self, instrument: Callable[..., int]) -> Iterator[None]:
        """Tell *instrument* of each call that compiled code makes while the body runs in this thread.

        See ``VirtualMachine.set_instrument`` of TVM for its arguments.
        """
        machine = self._machine()
        machine.set_instrument(instrument)
        before, self._idle = self._idle, [machine["main"]]
        try:
            yield
        finally:
            self._idle = before

    def _argument(self, index: int, leaf: torch.Tensor) -> Any:
        """One argument as the generated code can read it, if its memory is still there."""
        there, needed = leaf.untyped_storage().nbytes(), _reach(leaf)
        if needed and not leaf.data_ptr() and there >= needed:
            raise InputError(
                f"argument {self.signature.inputs[index].name!r}: a {type(leaf).__name__} without memory; "
                "a compiled program runs on real tensors only, and cannot be traced"
            )
        if needed > there:
            raise InputError(
                f"argument {self.signature.inputs[index].name!r}: its memory was freed or cut short: it reaches "
                f"to byte {needed} of a storage of {there}; pass a tensor that owns its elements"
            )
        return prepare(leaf)

    def _output(self, source: Source, leaves: list[Any], values: list[torch.Tensor]) -> torch.Tensor:
        value = self._value(source, leaves, values)
        return value.detach().clone() if source.fresh else value

    def _value(self, source: Source, leaves: list[Any], values: list[torch.Tensor]) -> torch.Tensor:
        if source.kind == "computed":
            return values[source.index]
        if source.kind == "number":
            return values[source.index].item()  # type: ignore[return-value]
        if source.kind == "tensor":
            return self._tensors[source.name].clone()
        leaf = leaves[source.index]
        if any(write.index == source.index for write in self._plan.writes):
            return leaf.detach().clone()  # the program returns the value before the change
        return leaf

    def _write(self, leaves: list[Any], values: list[torch.Tensor]) -> None:
        pending = []
        for write in self._plan.writes:
            value = self._value(write.source, leaves, values)
            if write.source.kind == "input":
                value = value.clone()  # it may be the target of another write
            pending.append((self._state[write.name] if write.index < 0 else leaves[write.index], value))
        with torch.no_grad():
            for target, value in pending:
                target.copy_(restored(value, target.is_complex()))

    # -- checks --------------------------------------------------------------------

    def _failure(self, check: Check, leaves: list[Any], symbols: Mapping[str, int]) -> RunError:
        """The error that a failed check means; slow, since it looks for the element again."""
        place = f" ({check.source})" if check.source else ""
        whose = "" if check.argument < 0 else f"argument {self.signature.inputs[check.argument].name!r}: "
        if check.kind == "division":
            return DivisionError(f"{whose}{check.op} divides an integer by zero{place}")
        if check.kind == "assertion":
            return RunError(f"{whose}{check.message or 'an assertion of the model does not hold'}{place}")
        if check.kind == "bags":
            return RunError(f"{whose}{check.op} takes offsets that begin with 0 and do not descend{place}")
        low, high = (
            bound if isinstance(bound, int) else evaluate(bound, symbols) for bound in (check.low, check.high)
        )
        if check.kind == "count":
            given = check.high if high is None else high
            fault = "another number of them" if check.low == check.high else "more of them"
            return RunError(
                f"{whose}{check.op} puts {given} values in the place of the true elements of a mask, "
                f"which has {fault}{place}"
            )
        allowed = f"{low} to {high - 1}" if high is not None else f"less than {check.high}"
        if check.argument < 0 or high is None:
            return IndexRangeError(f"{whose}an index is out of range: {check.op} allows {allowed}{place}")
        smallest, largest = (int(x) for x in torch.aminmax(leaves[check.argument]))
        value = smallest if smallest < low else largest
        return IndexRangeError(f"{whose}it holds the index {value}, but {check.op} allows {allowed}{place}")

    def _check_layout(
        self, leaves: list[Any], index: int, strides: tuple[int, ...], offset: int | None
    ) -> None:
        """Raise where `as_strided` would read other elements of an argument in eager PyTorch."""
        leaf = leaves[index]
        steps = zip(leaf.shape, leaf.stride(), strides, strict=True)
        moved = offset is not None and leaf.storage_offset() != offset
        if leaf.numel() and (moved or any(size > 1 and own != read for size, own, read in steps)):
            start = "" if offset is None else f" from place {offset} of their memory on"
            raise InputError(
                f"argument {self.signature.inputs[index].name!r} has strides {leaf.stride()} from place "
                f"{leaf.storage_offset()} on, and the program (as_strided) was captured with {strides}{start}; "
                "pass a copy that is laid out so, or capture it again"
            )

    def _check_aliases(self, leaves: list[Any]) -> None:
        changed = {write.index for write in self._plan.writes if write.index >= 0}
        for first in changed:
            for second in self._plan.inputs:
                if first == second or (second in changed and second < first):
                    continue
                if overlap(leaves[first], leaves[second]):
                    names = [self.signature.inputs[i].name for i in (first, second)]
                    raise InputError(
                        f"arguments {names[0]!r} and {names[1]!r} share memory, and the program changes "
                        f"{names[0]!r}; pass a copy of one of them (.clone())"
                    )

    def __repr__(self) -> str:
        islands = f", {len(self.islands.rows)} islands" if self.islands else ""
        results = ", ".join(str(value) for value in self.signature.outputs)
        inputs = ", ".join(f"{value.name}: {value}" for value in self.signature.inputs)
        return f"Compiled(({inputs}) -> ({results}), {len(self._tensors)} tensors{islands})"


def use_threads(count: int) -> None:
    """Let compiled code that this thread calls run in so many threads."""
    if getattr(_threads, "count", None) != count:
        # Else TVM would bind the calling thread to one core for good, and with it every thread
        # that PyTorch or the user starts from there later on.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        # TVM starts its pool with half of the processors, taking them for twins of each other, and
        # never uses more threads than that.
        os.environ.setdefault("TVM_NUM_THREADS", str(_processors()))
        T.config_threadpool(1, count)
        _threads.count = count


def _processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _refuse_tracing() -> None:
    """Raise where a tracer listens, which would take the results for constants."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    if get_proxy_mode() is not None or torch._C._is_tracing():
        raise InputError(
            "a compiled program cannot be traced (torch.fx.experimental.proxy_tensor.make_fx, torch.export, "
            "torch.jit.trace); trace the model that it was compiled from"
        )


def _number(value: Any, symbols: Mapping[str, int]) -> Any:
    return value.constant if value.symbol is None else evaluate(value.symbol, symbols)


def prepare(tensor: torch.Tensor) -> Any:
    """*tensor* as the generated code can read it: plain, contiguous, aligned; copied only if it is not."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    tensor = tensor.resolve_neg()
    if tensor.is_complex():  # as the pair of its parts
        tensor = torch.view_as_real(tensor.resolve_conj())
    tensor = tensor.contiguous()
    if not tensor.numel():  # torch calls any strides contiguous here, TVM only products of the sizes
        strides = [math.prod(tensor.shape[dim + 1 :]) for dim in range(tensor.dim())]
        tensor = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype)
    if tensor.data_ptr() % ALIGNMENT:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return T.tvm_ffi.from_dlpack(tensor)


def restored(tensor: torch.Tensor, is_complex: bool) -> torch.Tensor:
    """*tensor* as PyTorch wants it: the generated code gives complex numbers as pairs."""
    return torch.view_as_complex(tensor) if is_complex and not tensor.is_complex() else tensor


def overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the memory that two tensors span has bytes in common."""
    (a_low, a_high), (b_low, b_high) = _span(a), _span(b)
    return a_low < b_high and b_low < a_high


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    if not tensor.numel():
        return 0, 0
    start = tensor.data_ptr()
    return start, start + _reach(tensor) - tensor.storage_offset() * tensor.element_size()


def _reach(tensor: torch.Tensor) -> int:
    """How many bytes from the start of its storage the tensor reaches."""
    elements = tensor.numel()
    if elements and not tensor.is_contiguous():
        elements = 1 + sum(
            (size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
        )
    return (tensor.storage_offset() + elements) * tensor.element_size() if elements else 0


def own_tensors(
    tensors: Mapping[str, torch.Tensor], shared: Iterable[torch.Tensor], plan: CallPlan
) -> dict[str, torch.Tensor]:
    """Plain, contiguous, aligned tensors that no one else holds.

    Copied are those that live in the storage of one in *shared* (the model's own),
    and the state of the *plan*, each by itself. Equal views of one storage stay one tensor.
    Those that the plan reads once are copied to large pages where these have many bytes.
    """
    foreign = {tensor.untyped_storage().data_ptr() for tensor in shared}
    private = set(plan.state)
    keys: dict[str, Any] = {}
    plains: dict[Any, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().resolve_neg().resolve_conj()
        key = name if name in private else (plain.data_ptr(), plain.dtype, plain.shape, plain.stride())
        keys[name] = key
        plains.setdefault(key, plain)
    fixed = list(dict.fromkeys(keys[name] for name in plan.read_once if name not in private))
    fixed = [key for key in fixed if plains[key].numel()]
    placed = in_large_pages([plains[key] for key in fixed])
    copies = {} if placed is None else dict(zip(fixed, placed, strict=True))
    for key, plain in plains.items():
        if key not in copies:
            copy = (
                key in private
                or plain.untyped_storage().data_ptr() in foreign
                or not plain.is_contiguous()
                or plain.data_ptr() % ALIGNMENT
            )
            copies[key] = plain.clone(memory_format=torch.contiguous_format) if copy else plain
    return {name: copies[key] for name, key in keys.items()}
