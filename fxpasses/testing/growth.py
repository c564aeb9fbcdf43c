"""`Growth`: a random program that grows forward, call by call.

Each step draws an operator from the table (see `fxpasses.testing.rows`) with
arguments from the values that are there, or new inputs, and tries the call on
fake tensors; a call that raises is dropped. No shape is computed by hand.

The step is then run on sample data, plain and with rounding noise, which keeps
programs meaningful: a call is dropped too if its result explodes, turns into
NaN, or hangs on the last bit of its operands (``floor`` of a number that is an
integer but for rounding). What remains can be compared between implementations.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from fxpasses.testing.drawers import BOOL, FLOAT, INT, Motif, Reject, Row
from fxpasses.testing.numerics import RoundingNoise, is_exact
from fxpasses.testing.values import DOMAINS, random_tensor

__all__ = ["Call", "Growth", "Leaf", "Value", "map_items", "parts"]

_NOISE_RUNS = 2
_OTHER_SIZES: tuple[Callable[[int], int], ...] = (lambda number: 2, lambda number: 11 + number)
"""Dynamic sizes must be free: symbols, which are numbered, are tried as small as can be, and all different."""

_MAGNITUDE = 2e3
"""Values beyond this are not grown further: squares of them leave float16."""

_NUMEL = 5000

_WEIGHTS = {torch.float32: 4, torch.int64: 3}
"""How often a dtype becomes one of a program's own, relative to the others of its kind."""

_SIZES = ((2, 3, 1), (2, 1), (3, 2, 4), (4, 1, 2), (5, 3), (2, 3, 1, 4), (7, 16, 1), (33, 2), (64, 3))
"""A program draws its sizes from one of these: values of few shapes fit together more often."""


@dataclass(eq=False)
class Leaf:
    """A placeholder to be."""

    kind: str
    name: str
    tensor: torch.Tensor


@dataclass(eq=False)
class Call:
    """A call to be."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    val: Any


@dataclass(eq=False)
class Value:
    """A value of the growing program: where it comes from, its fake tensor and its sample data."""

    source: Leaf | Call
    val: torch.Tensor
    sample: torch.Tensor
    noisy: list[torch.Tensor]
    resized: list[torch.Tensor]
    origin: Leaf | None = None
    """The leaf whose elements it has, moved at most."""

    @property
    def dtype(self) -> torch.dtype:
        return self.val.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sample.shape)

    def dim(self) -> int:
        return self.val.dim()


class Growth:
    """A program that grows; see `fxpasses.testing.drawers.Grower` for what drawers ask of it."""

    def __init__(
        self, draw_integer: Callable[[int, int], int], dtypes: Sequence[torch.dtype], dynamic: bool
    ) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.draw_integer = draw_integer
        self.dtypes = tuple(dtypes)
        self.dynamic = dynamic
        self.shape_env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.shape_env)
        self.generator = torch.Generator().manual_seed(draw_integer(0, 255))
        self.palette = self._palette()
        self.sizes = self.choose(_SIZES)
        self.leaves: list[Leaf] = []
        self.calls: list[Call] = []
        self.values: list[Value] = []
        self.pinned: list[Leaf | None] = []
        """Leaves that must stay in the range that they were drawn from."""
        self.symbols: dict[Any, int] = {}
        """The symbols of dynamic sizes, numbered."""
        self.rejected: list[str] = []
        """Why calls were dropped, for those who tune the table."""

    def _palette(self) -> list[torch.dtype]:
        """A floating point dtype, an integer one and bool: the first more often than the others."""
        palette = []
        for kinds, times in ((FLOAT, 5), (INT, 2), (BOOL, 1)):
            options = [d for d in self.dtypes if d in kinds for _ in range(_WEIGHTS.get(d, 1))]
            palette += [self.choose(options)] * times if options else []
        return palette

    # -- choices -----------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        if high < low:
            raise Reject("empty range")
        return low if high == low else self.draw_integer(low, high)

    def choose(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def flag(self) -> bool:
        return self.integer(0, 1) == 1

    def permutation(self, length: int) -> list[int]:
        left = list(range(length))
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(length)]

    def dtype(self, kinds: Iterable[torch.dtype]) -> torch.dtype:
        """One of the program's own dtypes, now and then another."""
        kinds = set(kinds)
        options = [d for d in self.dtypes if d in kinds]
        if not options:
            raise Reject("no such dtype is allowed")
        own = [d for d in self.palette if d in kinds]
        if not own or self.integer(0, 11) == 11:
            return self.choose(options)
        return self.choose(own)

    # -- values ------------------------------------------------------------------------

    def tensor(self, kinds: Iterable[torch.dtype], rank: tuple[int, int], domain: str = "any") -> Value:
        kinds = set(kinds)
        found = self._find(lambda v: v.dtype in kinds and rank[0] <= v.dim() <= rank[1], domain)
        if found is not None:
            return found
        dtype = self.dtype(kinds)
        most = min(rank[1], 3) if rank[0] <= 3 else rank[1]
        return self._leaf(
            dtype, self._sizes(self.choose([n for n in (2, 1, 3, 0, 4) if rank[0] <= n <= most])), domain
        )

    def like(self, dtype: torch.dtype, shape: Sequence[int], domain: str = "any") -> Value:
        shape = tuple(shape)
        found = self._find(lambda v: v.dtype == dtype and v.shape == shape, domain)
        return found if found is not None else self._leaf(dtype, shape, domain)

    def partner(self, shape: Sequence[int], kinds: Iterable[torch.dtype], domain: str = "any") -> Value:
        shape, kinds = tuple(shape), set(kinds)
        found = self._find(lambda v: v.dtype in kinds and _broadcasts(v.shape, shape), domain)
        if found is not None:
            return found
        dropped = self.choose((0, 0, *range(1, len(shape) + 1)))
        sizes = [self.choose((size, size, 1)) if size > 1 else size for size in shape[dropped:]]
        return self._leaf(self.dtype(kinds), sizes, domain)

    def index(
        self, size: int, shape: Sequence[int], dtype: torch.dtype = torch.int64, negative: bool = False
    ) -> Value:
        shape = tuple(shape)
        if dtype not in self.dtypes and torch.int64 not in self.dtypes:
            raise Reject("no index dtype is allowed")
        low = -size if negative else 0
        found = self._find(
            lambda v: (
                v.dtype == dtype
                and v.shape == shape
                and v.origin is not None
                and bool(((v.sample >= low) & (v.sample < size)).all())
            )
        )
        value = found if found is not None else self._leaf(dtype, shape, "any", low=low, high=size - 1)
        self.pinned.append(value.origin)
        return value

    def constant(self, tensor: torch.Tensor) -> Value:
        return self._add_leaf("constant", tensor)

    def tensor_data(self, dtype: torch.dtype, shape: Sequence[int], domain: str = "any") -> torch.Tensor:
        low, high = DOMAINS[domain]
        return random_tensor(dtype, tuple(shape), self.generator, low=low, high=high, nonzero=domain != "any")

    def _find(self, accept: Callable[[Value], bool], domain: str = "any") -> Value | None:
        """One of the values there, the newest first, or None for a new leaf."""
        found = [value for value in reversed(self.values) if accept(value) and _holds(value, domain)]
        computed = [value for value in found if isinstance(value.source, Call)]
        if computed and self.integer(0, 2) < 2:
            value = self.choose(computed)
        else:
            at = self.integer(0, 2 * len(found)) // 2
            if at == len(found):
                return None
            value = found[at]
        if domain != "any":
            self.pinned.append(value.origin)
        return value

    def _sizes(self, rank: int) -> tuple[int, ...]:
        sizes = [self.choose(self.sizes) for _ in range(rank)]
        large = [i for i, size in enumerate(sizes) if size > 5]
        for i in large[2 if rank == 2 else 1 :]:  # a matrix may be large, more dims only in one of them
            sizes[i] = 2
        return tuple(sizes)

    def _leaf(
        self,
        dtype: torch.dtype,
        shape: Sequence[int],
        domain: str,
        low: float | None = None,
        high: float | None = None,
    ) -> Value:
        if dtype not in self.dtypes and low is None:
            raise Reject("dtype not allowed")
        # A domain is promised of every run, so no user input can have one.
        kinds = ["user", "user", "user", "param", "buffer", "constant"]
        kinds = [k for k in kinds if not (k == "user" and domain != "any")]
        kinds = [k for k in kinds if not (k == "param" and not dtype.is_floating_point)]
        bounds = DOMAINS[domain] if low is None or high is None else (low, high)
        tensor = random_tensor(
            dtype, tuple(shape), self.generator, low=bounds[0], high=bounds[1], nonzero=domain != "any"
        )
        value = self._add_leaf(self.choose(kinds), tensor)
        if domain != "any":
            self.pinned.append(value.origin)
        return value

    def _add_leaf(self, kind: str, tensor: torch.Tensor) -> Value:
        names = {"user": "x", "param": "weight", "buffer": "buffer", "constant": "c"}
        number = sum(leaf.kind == kind for leaf in self.leaves)
        leaf = Leaf(kind, f"{names[kind]}{number}", tensor)
        self.leaves.append(leaf)
        fake = self._fake(leaf)
        value = Value(leaf, fake, tensor, [tensor] * _NOISE_RUNS, self._resized(tensor, fake), leaf)
        self.values.append(value)
        return value

    def _fake(self, leaf: Leaf) -> torch.Tensor:
        """The fake tensor of a leaf, that of a user input with a symbolic first dim now and then."""
        tensor = leaf.tensor
        if not (
            self.dynamic and leaf.kind == "user" and tensor.dim() and tensor.shape[0] > 1 and self.flag()
        ):
            return self.mode.from_tensor(tensor, static_shapes=True)
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

        # Equal sizes are one symbol, so that inputs fit together.
        rest = [DimDynamic.STATIC] * (tensor.dim() - 1)
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK, *rest])
        return self.mode.from_tensor(tensor, source=ConstantSource(leaf.name), symbolic_context=context)

    def _resized(self, tensor: torch.Tensor, fake: torch.Tensor) -> list[torch.Tensor]:
        """Sample data of other sizes."""
        if not self.dynamic:
            return []
        if not tensor.dim() or isinstance(fake.shape[0], int):
            return [tensor] * len(_OTHER_SIZES)
        number = self.symbols.setdefault(fake.shape[0].node.expr, len(self.symbols))
        sizes = [size_of(number) for size_of in _OTHER_SIZES]
        return [tensor[torch.arange(size) % len(tensor)] for size in sizes]

    def _sizes_of(self, fake: torch.Tensor, size_of: Callable[[int], int]) -> tuple[int, ...]:
        """The sizes of *fake* where each symbol has the value for its number."""
        values = {symbol: size_of(number) for symbol, number in self.symbols.items()}
        return tuple(
            int(size.node.expr.xreplace(values)) if isinstance(size, torch.SymInt) else size
            for size in fake.shape
        )

    # -- calls -------------------------------------------------------------------------

    def attempt(self, row: Row | Motif) -> bool:
        """Make the step; forget what it began if it fails."""
        before = len(self.leaves), len(self.calls), len(self.values)
        try:
            row.grow(self)
        except Reject as reason:
            self.rejected.append(f"{row.name}: {reason}")
            del self.leaves[before[0] :], self.calls[before[1] :], self.values[before[2] :]
            return False
        return True

    def call(self, op: OpOverload, /, *args: Any, **kwargs: Any) -> Any:
        try:
            # A call that fits some sizes only would make them static.
            with _quiet(), self.mode, self.shape_env.error_on_new_guards(), torch.no_grad():
                val = op(*_each(args, lambda v: v.val), **_each(kwargs, lambda v: v.val))
        except Exception as error:
            raise Reject(
                f"fake: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        vals = val if isinstance(val, tuple | list) else (val,)
        if not all(isinstance(v, torch.Tensor) for v in vals):
            raise Reject("not a tensor")
        sample = self._run(op, args, kwargs, lambda v: v.sample)
        noisy = [self._noisy_run(op, args, kwargs, number) for number in range(_NOISE_RUNS)]
        resized = self._resized_runs(op, args, kwargs, vals)
        for position, fake in enumerate(vals):
            self._judge(fake, sample[position], [run[position] for run in noisy])
        if not sample[0].numel():
            raise Reject("empty")
        call = Call(op, args, kwargs, val)
        self.calls.append(call)
        operands = [part for part in parts(call) if isinstance(part, Value)]
        origin = operands[0].origin if len(operands) == 1 and is_exact(op) else None
        values = []
        for position, fake in enumerate(vals):
            source = call
            if isinstance(val, tuple | list):
                source = Call(operator.getitem, (call, position), {}, fake)
                self.calls.append(source)
            if not sample[position].numel():
                continue  # the unused statistics of a batch norm
            runs = [run[position] for run in noisy]
            same = origin is not None and fake.dtype == operands[0].dtype
            others = [run[position] if run else sample[position] for run in resized]
            values.append(Value(source, fake, sample[position], runs, others, origin if same else None))
        self.values += values
        return tuple(values) if isinstance(val, tuple | list) else values[0]

    def _run(self, op: OpOverload, args: Any, kwargs: Any, data: Callable[[Value], torch.Tensor]) -> Any:
        """The results on sample data."""
        try:
            with torch.no_grad():
                result = op(*_each(args, data), **_each(kwargs, data))
        except Exception as error:
            raise Reject(f"eager: {str(error).splitlines()[0]}") from error
        return result if isinstance(result, tuple | list) else (result,)

    def _noisy_run(self, op: OpOverload, args: Any, kwargs: Any, number: int) -> Any:
        with RoundingNoise(1000 * len(self.calls) + number):
            return self._run(op, args, kwargs, lambda v: v.noisy[number])

    def _resized_runs(
        self, op: OpOverload, args: Any, kwargs: Any, fakes: Sequence[torch.Tensor]
    ) -> list[Any]:
        """The results at other sizes: not every fake kernel refuses what fits one size only."""
        if not self.symbols:
            return [()] * len(_OTHER_SIZES) if self.dynamic else []
        runs = []
        for number, size_of in enumerate(_OTHER_SIZES):
            results = self._run(op, args, kwargs, lambda v: v.resized[number])  # noqa: B023
            for fake, result in zip(fakes, results, strict=True):
                if tuple(result.shape) != self._sizes_of(fake, size_of):
                    raise Reject(f"fake {tuple(fake.shape)}, eager {tuple(result.shape)}")
            runs.append(results)
        return runs

    def _judge(self, fake: torch.Tensor, sample: torch.Tensor, noisy: list[torch.Tensor]) -> None:
        """Raise `Reject` for a result that would not be worth comparing."""
        if fake.dtype != sample.dtype or _hints(fake) != tuple(sample.shape):
            raise Reject(f"fake {fake.dtype} {tuple(fake.shape)}, eager {sample.dtype} {tuple(sample.shape)}")
        if sample.numel() > _NUMEL or sample.is_complex():
            raise Reject("large or complex")
        if not sample.is_floating_point() and any(not torch.equal(sample, other) for other in noisy):
            raise Reject("at an edge")
        if sample.dtype == torch.bool or not sample.numel():
            return
        wide = sample.double()
        if not bool(wide.isfinite().all()) or float(wide.abs().max()) > _MAGNITUDE:
            raise Reject("not finite or too large")
        if not sample.is_floating_point():
            return
        limit = 200 * torch.finfo(sample.dtype).eps
        for other in noisy:
            if not bool(((other.double() - wide).abs() <= limit * (0.1 + wide.abs())).all()):
                raise Reject("ill-conditioned")


# -- helpers -------------------------------------------------------------------------------


def map_items(item: Any, function: Callable[[Any], Any]) -> Any:
    """*item* with *function* applied to all that is in its tuples, lists and dicts."""
    if isinstance(item, tuple):
        return tuple(map_items(part, function) for part in item)
    if isinstance(item, list):
        return [map_items(part, function) for part in item]
    if isinstance(item, dict):
        return {key: map_items(part, function) for key, part in item.items()}
    return function(item)


def _each(item: Any, data: Callable[[Value], Any]) -> Any:
    return map_items(item, lambda part: data(part) if isinstance(part, Value) else part)


def parts(call: Call) -> list[Value | Call]:
    """What a call is applied to."""
    found: list[Any] = []
    map_items((call.args, call.kwargs), found.append)
    return [item for item in found if isinstance(item, Value | Call)]


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(
        a == b or a == 1 or b == 1 for a, b in zip(reversed(shape), reversed(target), strict=False)
    )


def _hints(fake: torch.Tensor) -> tuple[int | None, ...]:
    """The sizes that the sample has; None for one that depends on values."""
    return tuple(size.node.hint if isinstance(size, torch.SymInt) else size for size in fake.shape)


def _holds(value: Value, domain: str) -> bool:
    if domain == "any":
        return True
    low, high = DOMAINS[domain]
    if not value.dtype.is_floating_point and not isinstance(value.source, Leaf):
        return False
    if isinstance(value.source, Leaf) and value.source.kind == "user":
        return False
    margin = 0.05 if value.dtype.is_floating_point else 1
    return value.dtype != torch.bool and bool(
        ((value.sample >= low + margin) & (value.sample <= max(high, 100 if low == 0 else high))).all()
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Fake tensors and their sizes log what they refuse; here that is an everyday matter."""
    names = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
