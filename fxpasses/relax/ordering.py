"""Sorting and selecting in one row of a tensor, for kernels that are written as loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fxpasses.relax import scalar as S
from fxpasses.relax import tvm_api as T
from fxpasses.relax.kernel import is_at_most, load, store, when

__all__ = [
    "SHORT",
    "TINY",
    "Local",
    "best_of_row",
    "by_length",
    "count_nans",
    "first_in_row",
    "int64",
    "ordered_bits",
    "select_in_row",
    "sort_long_row",
    "sort_row",
    "sort_short_row",
]


def int64(number: int) -> Any:
    return T.tirx.IntImm("int64", number)


def _before(x: Any, y: Any, descending: bool) -> Any:
    """Whether *x* comes before *y*, which it does not if they are equal."""
    if not S.is_float(S.dtype_of(x)):
        return x > y if descending else x < y
    if descending:
        return (x > y) | (S.isnan(x) & S.logical_not(S.isnan(y)))
    return (x < y) | (S.isnan(y) & S.logical_not(S.isnan(x)))


class Local:
    """A variable of a kernel written as loops, or one of *count* that lie side by side."""

    def __init__(self, dtype: str = "int64", count: int = 1) -> None:
        self.buffer = T.ir_builder.tirx.alloc_buffer([count], dtype, scope="local")
        self.count = count
        self.at: Any = 0

    def __getitem__(self, at: Any) -> Local:
        """The variable at a place."""
        other = copy.copy(self)
        other.at = at
        return other

    def get(self) -> Any:
        return load(self.buffer, [self.at])

    def set(self, value: Any) -> None:
        store(self.buffer, value, [self.at])


def ordered_bits(x: Any, *, descending: bool = False) -> Any:
    """An unsigned integer for *x*: those of two values are in their order, NaN comes last, zeros are equal."""
    tirx = T.tirx
    dtype = S.dtype_of(x)
    if dtype in ("bool", "uint8", "int8", "int16"):
        x, dtype = x.astype("int32"), "int32"
    signed = {"float32": "int32", "float64": "int64"}.get(dtype, dtype)
    bits, width = x, S.BITS[signed]
    if S.is_float(dtype):
        bits = tirx.reinterpret(signed, x)
        rest = tirx.const((1 << (width - 1)) - 1, signed)
        bits = bits ^ ((bits >> tirx.const(width - 1, signed)) & rest)
        bits = S.select(S.equal(x, S.const(0.0, dtype)), tirx.const(0, signed), bits)
        bits = S.select(S.isnan(x), rest, bits)
    mask = (1 << (width - 1)) ^ ((1 << width) - 1 if descending else 0)
    return tirx.reinterpret(f"u{signed}", bits) ^ tirx.const(mask, f"u{signed}")


class _Row:
    """The keys of a row, unsigned integers, and their places in it, in two buffers that change."""

    def __init__(self, size: Any, key: Callable[[Any], Any], room: Any) -> None:
        builder = T.ir_builder.tirx
        self.size, self.room, self.dtype = size, room, S.dtype_of(key(int64(0)))
        self.keys, self.places = (
            builder.alloc_buffer([room], self.dtype),
            builder.alloc_buffer([room], "int64"),
        )
        with builder.serial(0, size) as k:
            store(self.keys, key(k), [k])
            store(self.places, k.astype("int64"), [k])

    def empty(self) -> _Row:
        """Another pair of buffers."""
        other = _Row.__new__(_Row)
        other.size, other.room, other.dtype = self.size, self.room, self.dtype
        other.keys, other.places = (
            T.ir_builder.tirx.alloc_buffer([self.room], str(buffer.dtype))
            for buffer in (self.keys, self.places)
        )
        return other

    def move(self, here: Any, there: Any, target: _Row | None = None) -> None:
        """Copy what is at *here* to *there*, of this row or another."""
        target = target or self
        _move(self.keys, target.keys, here, there)
        _move(self.places, target.places, here, there)

    def take(self, other: _Row) -> None:
        """Copy all of *other*."""
        with T.ir_builder.tirx.serial(0, self.size) as k:
            other.move(k, k, self)


def by_length(size: Any, *ways: tuple[int | None, Callable[[], Any]]) -> Any:
    """Write the first of *ways* whose bound, if there is one, is above *size*; a choice where that is not known.

    Returns:
        what the way does; None where there is a choice.
    """
    (below, way), *others = ways
    if below is None or is_at_most(size, below - 1):
        return way()
    if isinstance(size, T.tirx.IntImm):
        return by_length(size, *others)
    builder = T.ir_builder.tirx
    with builder.If(size < int64(below)):
        with builder.Then():
            way()
        with builder.Else():
            by_length(size, *others)
    return None


def sort_row(size: Any, key: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Write a stable sort of a row of known length by its keys, unsigned integers; the buffers of keys and places."""
    return by_length(
        size, (SHORT, lambda: sort_short_row(size, key)), (None, lambda: sort_long_row(size, key))
    )


def sort_short_row(size: Any, key: Callable[[Any], Any]) -> tuple[Any, Any]:
    """`sort_row` of fewer than `SHORT` elements, with buffers on the stack whether *size* is known or not."""
    row = _Row(size, key, size if isinstance(size, T.tirx.IntImm) else int64(SHORT))
    by_length(size, (TINY, lambda: _insertion_sort(row)), (None, lambda: _merge_sort(row)))
    return row.keys, row.places


def sort_long_row(size: Any, key: Callable[[Any], Any]) -> tuple[Any, Any]:
    """`sort_row` of any number of elements; for few, the others are faster."""
    row = _Row(size, key, size)
    _digit_sort(row)
    return row.keys, row.places


def _insertion_sort(row: _Row) -> None:
    builder = T.ir_builder.tirx
    key, place, slot = Local(row.dtype), Local(), Local()
    with builder.serial(1, T.tirx.max(row.size, int64(1))) as k:
        key.set(load(row.keys, [k]))
        place.set(load(row.places, [k]))
        slot.set(k.astype("int64"))

        def is_later() -> Any:
            above = load(row.keys, [slot.get() - int64(1)])
            return T.tirx.if_then_else(slot.get() > int64(0), above > key.get(), False)

        with builder.While(is_later()):
            row.move(slot.get() - int64(1), slot.get())
            slot.set(slot.get() - int64(1))
        store(row.keys, key.get(), [slot.get()])
        store(row.places, place.get(), [slot.get()])


def _merge_sort(row: _Row) -> None:
    builder, size, spare = T.ir_builder.tirx, row.size, row.empty()
    width, left, right = Local(), Local(), Local()
    width.set(int64(1))
    with builder.While(width.get() < size):
        pair = width.get() * int64(2)
        with builder.serial(0, T.tirx.floordiv(size + pair - int64(1), pair)) as run:
            start = run * pair
            middle = T.tirx.min(start + width.get(), size)
            end = T.tirx.min(start + pair, size)
            left.set(start)
            right.set(middle)
            with builder.serial(0, end - start) as k:
                i, j = left.get(), right.get()
                lazy = T.tirx.if_then_else
                in_order = load(row.keys, [j]) < load(row.keys, [i])
                from_right = lazy(i >= middle, True, lazy(j >= end, False, in_order))
                with builder.If(from_right):
                    with builder.Then():
                        row.move(right.get(), start + k, spare)
                        right.set(right.get() + int64(1))
                    with builder.Else():
                        row.move(left.get(), start + k, spare)
                        left.set(left.get() + int64(1))
        row.take(spare)
        width.set(width.get() * int64(2))


def _digit_sort(row: _Row) -> None:
    """By one digit after the other, the lowest first; one that all keys share is passed over."""
    builder, size, spare = T.ir_builder.tirx, row.size, row.empty()
    digits = _Digits(row)
    start, before = Local(), Local()
    with builder.serial(0, digits.count) as number:
        digits.choose(number)
        digits.tally(size)
        with when(load(digits.counts, [digits.of(int64(0))]) < size):
            start.set(int64(0))
            with builder.serial(0, 1 << _DIGIT) as digit:
                before.set(start.get())
                start.set(start.get() + load(digits.counts, [digit]))
                store(digits.counts, before.get(), [digit])
            with builder.serial(0, size) as k:
                start.set(load(digits.counts, [digits.of(k)]))
                row.move(k, start.get(), spare)
                store(digits.counts, start.get() + int64(1), [digits.of(k)])
            row.take(spare)


_DIGIT = 8
"""Bits that are looked at together."""

TINY = 17
"""Rows of fewer elements than this are sorted in place, one element after the other."""

SHORT = 96
"""Rows of fewer elements than this are sorted by comparing them."""


class _Digits:
    """One digit of the keys of a row at a time, and how often each value of it occurs."""

    def __init__(self, row: _Row) -> None:
        self.row = row
        self.counts = T.ir_builder.tirx.alloc_buffer([1 << _DIGIT], "int64", scope="local")
        self.count = int(row.dtype.removeprefix("uint")) // _DIGIT
        self.shift = Local()

    def choose(self, number: Any) -> None:
        """Look at the digit of this number; 0 is the lowest."""
        self.shift.set(number.astype("int64") * int64(_DIGIT))

    def of(self, k: Any) -> Any:
        """That of the key at *k*."""
        dtype = self.row.dtype
        rest = load(self.row.keys, [k]) >> self.shift.get().astype(dtype)
        return (rest & T.tirx.const((1 << _DIGIT) - 1, dtype)).astype("int64")

    def tally(self, size: Any) -> None:
        """Count those of the first *size* keys."""
        builder = T.ir_builder.tirx
        with builder.serial(0, 1 << _DIGIT) as digit:
            store(self.counts, int64(0), [digit])
        with builder.serial(0, size) as k:
            store(self.counts, load(self.counts, [self.of(k)]) + int64(1), [self.of(k)])


def _move(source: Any, target: Any, here: Any, there: Any) -> None:
    store(target, load(source, [here]), [there])


def best_of_row(
    size: Any, count: int, dtype: str, read: Callable[[Any], Any], descending: bool
) -> tuple[Any, Any]:
    """Write a loop that keeps the first *count* of a row in order; the buffers of keys and places."""
    builder = T.ir_builder.tirx
    keys = builder.alloc_buffer([count], dtype)
    places = builder.alloc_buffer([count], "int64")
    slot = Local()
    lazy = T.tirx.if_then_else
    with builder.serial(0, size) as k:
        wanted = lazy(k < count, True, _before(read(k), load(keys, [int64(count - 1)]), descending))
        with when(wanted):
            slot.set(T.tirx.min(k.astype("int64"), int64(count - 1)))
            above = slot.get() - int64(1)
            worse = lazy(slot.get() > int64(0), _before(read(k), load(keys, [above]), descending), False)
            with builder.While(worse):
                _move(keys, keys, slot.get() - int64(1), slot.get())
                _move(places, places, slot.get() - int64(1), slot.get())
                slot.set(slot.get() - int64(1))
            store(keys, read(k), [slot.get()])
            store(places, k.astype("int64"), [slot.get()])
    return keys, places


# -- one element of a row ------------------------------------------------------------


def count_nans(size: Any, read: Callable[[Any], Any]) -> Any:
    """Write a loop that counts the NaN of a row; how many there are."""
    found = Local()
    found.set(int64(0))
    with T.ir_builder.tirx.serial(0, size) as k:
        found.set(found.get() + S.isnan(read(k)).astype("int64"))
    return found.get()


def select_in_row(size: Any, key: Callable[[Any], Any], rank: Any) -> tuple[Any, Any, Any]:
    """Write a search for the element of a rank by the keys of a row, unsigned integers.

    Each step counts the values of one digit, the highest first, and keeps the
    elements that have that of the one sought.

    Returns:
        its key, its place (equal ones count in their order), and how many equal ones come before it.
    """
    builder = T.ir_builder.tirx
    row = _Row(size, key, size)
    digits = _Digits(row)
    left, sought, number, digit, kept = (Local() for _ in range(5))
    left.set(size)
    sought.set(T.tirx.max(T.tirx.min(rank, size - int64(1)), int64(0)))
    number.set(int64(digits.count - 1))
    with builder.While((left.get() > int64(1)) & (number.get() >= int64(0))):
        digits.choose(number.get())
        digits.tally(left.get())
        digit.set(int64(0))
        with builder.While(sought.get() >= load(digits.counts, [digit.get()])):
            sought.set(sought.get() - load(digits.counts, [digit.get()]))
            digit.set(digit.get() + int64(1))
        kept.set(int64(0))
        with builder.serial(0, left.get()) as k, when(S.equal(digits.of(k), digit.get())):
            row.move(k, kept.get())
            kept.set(kept.get() + int64(1))
        left.set(kept.get())
        number.set(number.get() - int64(1))
    return load(row.keys, [sought.get()]), load(row.places, [sought.get()]), sought.get()


def first_in_row(size: Any, count: int, key: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Write a sort of the first *count* elements of a row alone; the buffers of keys and places in order.

    Of equal ones the first are taken.
    """
    builder = T.ir_builder.tirx
    last, _, equal = select_in_row(size, key, int64(count - 1))
    bound, ties, kept = Local(S.dtype_of(last)), Local(), Local()
    bound.set(last)
    ties.set(equal + int64(1))
    kept.set(int64(0))
    keys, places = builder.alloc_buffer([count], S.dtype_of(last)), builder.alloc_buffer([count], "int64")
    with builder.serial(0, size) as k:
        own = key(k)
        with when((own < bound.get()) | (S.equal(own, bound.get()) & (ties.get() > int64(0)))):
            store(keys, own, [kept.get()])
            store(places, k.astype("int64"), [kept.get()])
            kept.set(kept.get() + int64(1))
            with when(S.equal(own, bound.get())):
                ties.set(ties.get() - int64(1))
    ordered, order = sort_row(int64(count), lambda k: load(keys, [k]))
    with builder.serial(0, count) as k:
        store(order, load(places, [load(order, [k])]), [k])
    return ordered, order
