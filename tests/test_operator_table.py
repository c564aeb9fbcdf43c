"""Rows that do not fit their operator are refused when they are entered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fxpasses.errors import FxpassesError
from fxpasses.operator_table import OperatorTable

aten = torch.ops.aten


@pytest.fixture
def table() -> OperatorTable:
    return OperatorTable("lowering", "fxpasses.dialect")


def test_a_row_is_found_by_its_overload(table: OperatorTable) -> None:
    @table.row(aten.neg.default, aten.abs.default)
    def unary(b: Any, self: Any) -> Any: ...

    assert table.rows()[aten.abs.default] is unary
    assert aten.abs.out not in table.rows()


def test_an_argument_that_the_schema_lacks(table: OperatorTable) -> None:
    with pytest.raises(FxpassesError, match=r"neg, the lowering of aten.neg.default, has parameters \(x\), "):

        @table.row(aten.neg.default)
        def neg(b: Any, x: Any) -> Any: ...


def test_a_keyword_that_stands_among_the_positional_arguments(table: OperatorTable) -> None:
    with pytest.raises(FxpassesError, match=r"its schema has \(self, other, \*, alpha\)"):

        @table.row(aten.add.Tensor)
        def add(b: Any, self: Any, other: Any, alpha: Any) -> Any: ...


def test_two_rows_of_one_operator(table: OperatorTable) -> None:
    @table.row(aten.neg.default)
    def first(b: Any, self: Any) -> Any: ...

    with pytest.raises(FxpassesError, match=r"aten.neg.default has two rows for lowering: first and second"):

        @table.row(aten.neg.default)
        def second(b: Any, self: Any) -> Any: ...


def test_the_rows_are_read_only(table: OperatorTable) -> None:
    with pytest.raises(TypeError):
        table.rows()[aten.neg.default] = None  # type: ignore[index]
