"""`pack_linear`: which products read packed matrices, and in which tiles."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from fxpasses.dialect.linear import pack_matrix, unpack_matrix
from fxpasses.passes import PackLinear, canonicalize, pack_linear
from fxpasses.passes.fold_constants import FoldConstants
from fxpasses.passes.pack_linear import register_tile
from fxpasses.testing import assert_equivalent
from fxpasses.testing.single import calls_program
from tests.passes.helpers import apply, aten, body, program_of


def frozen(source, *args, **options):
    return FoldConstants(parameters=True)(canonicalize(program_of(source, *args, **options)))


def check(module, x, pass_=pack_linear, **options):
    before = frozen(module.eval(), x, **options)
    after = apply(pass_, before, x, exact=False)
    assert_equivalent(before, after, (x,))
    return after


def count(program):
    return [str(node.target) for node in program.graph.nodes].count("fxpasses.linear_packed.default")


def test_text():
    after = check(nn.Linear(20, 70), torch.randn(12, 20))
    assert body(after) == (
        "linear_packed_default: f32[12, 70] = fxpasses.linear_packed.default(input0, t_folded_packed, 70, 12)\n"
        "add_tensor: f32[12, 70] = aten.add.Tensor(linear_packed_default, tensor0)\n"
        "return (add_tensor,)"
    )
    assert "t_folded_packed: f32[5, 20, 16]" in str(after)


@pytest.mark.parametrize("columns", [1, 16, 37, 64, 100])
@pytest.mark.parametrize("width", [1, 16, 48])
def test_packing_has_an_inverse(columns, width):
    matrix = torch.randn(5, columns)
    packed = pack_matrix(matrix, width)
    assert packed.shape == (-(-columns // width), 5, width)
    torch.testing.assert_close(unpack_matrix(packed, columns), matrix, rtol=0, atol=0)
    assert packed.permute(1, 0, 2).reshape(5, -1)[:, columns:].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_dtypes_and_bias(dtype, bias):
    after = check(nn.Linear(7, 9, bias=bias).to(dtype), torch.randn(2, 3, 7, dtype=dtype))
    assert count(after) == 1


def test_rows_of_any_number():
    after = check(
        nn.Linear(7, 128), torch.randn(4, 7), dynamic_shapes={"input": {0: Dim("rows", min=0, max=64)}}
    )
    assert "f32[s0, 128] = fxpasses.linear_packed.default(input0, t_folded_packed, 128, 6)" in body(after)


def test_equal_tiles_of_one_matrix_are_packed_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x):
            return self.linear(self.linear(x))

    after = check(Twice(), torch.randn(4, 16))
    assert count(after) == 2
    assert sum(name.endswith("_packed") for name in after.tensors) == 1


@pytest.mark.parametrize("module", [
    nn.Linear(8, 8).half(), nn.Linear(8, 8).bfloat16(), nn.Linear(0, 8), nn.Linear(8, 0),
], ids=["half", "bfloat16", "no inner size", "no columns"])  # fmt: skip
def test_left_as_they_are(module):
    x = torch.randn(3, module.in_features, dtype=module.weight.dtype)
    assert count(apply(pack_linear, frozen(module, x), x)) == 0


def test_computed_and_changed_matrices_are_left():
    assert count(pack_linear(canonicalize(program_of(torch.mm, torch.randn(2, 3), torch.randn(3, 4))))) == 0

    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("matrix", torch.randn(4, 4))

        def forward(self, x):
            self.matrix.add_(1.0)
            return x @ self.matrix

    assert count(pack_linear(canonicalize(program_of(Changes(), torch.randn(2, 4))))) == 0


def test_scaled_sums_are_left():
    operands = (torch.randn(4), torch.randn(2, 3), torch.randn(3, 4))
    program, _ = calls_program([(aten.addmm.default, operands, {"beta": 2, "alpha": 1})])
    assert count(pack_linear(program)) == 0


def test_few_columns_are_not_padded():
    assert "t_folded_packed: f32[1, 7, 9]" in str(check(nn.Linear(7, 9), torch.randn(2, 7)))


def test_it_can_be_for_other_targets():
    after = check(nn.Linear(32, 64), torch.randn(24, 32), PackLinear(vector_bytes=16, registers=16))
    (node,) = [node for node in after.graph.nodes if "linear_packed" in str(node.target)]
    assert node.args[1].meta["val"].shape[-1] % 4 == 0


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("rows", [1, 2, 13, 197, "any"])
@pytest.mark.parametrize("columns", [1, 37, 64, 1000])
def test_tiles_fit_the_registers(rows, columns, registers):
    height, vectors = register_tile(rows, columns, 16, registers)
    assert height * vectors + vectors + 1 < registers
    if isinstance(rows, int):
        assert height <= rows


def test_tiles():
    assert register_tile(197, 384, 16, 32) == (6, 4)
    assert register_tile("any", 384, 16, 32) == (6, 4)
    assert register_tile(13, 384, 16, 32) == (13, 2)
    assert register_tile(1, 768, 16, 32) == (1, 4)
