"""`decompose_to_core_aten`: canonical operators only, one form whatever the strides."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import fxpasses as fxp
from fxpasses.errors import FxpassesError, InputError, PassError
from fxpasses.passes import (
    canonicalize,
    decompose_to_core_aten,
    eliminate_dead_code,
    remove_assertions,
    remove_noops,
)
from fxpasses.pipeline import Pipeline
from fxpasses.schema import checks_values, is_canonical_target
from fxpasses.verify import verify
from tests.passes.helpers import apply, aten, body, program_of

decompose = Pipeline(decompose_to_core_aten, remove_assertions, remove_noops, eliminate_dead_code)

MATRIX_PRODUCTS = {
    "2d x 2d": ((3, 4), (4, 5), ["mm"]),
    "3d x 2d": ((2, 3, 4), (4, 5), ["reshape", "mm", "reshape"]),
    "batched": ((2, 3, 4), (2, 4, 5), ["bmm"]),
    "broadcast": ((2, 1, 3, 4), (5, 4, 6), ["expand", "reshape", "expand", "reshape", "bmm", "reshape"]),
    "matrix x vector": ((3, 4), (4,), ["reshape", "mm", "reshape"]),
    "vector x matrix": ((4,), (4, 3), ["reshape", "mm", "reshape"]),
    "vector x batch": ((4,), (2, 4, 3), ["reshape", "expand", "bmm", "reshape"]),
    "vector x vector": ((4,), (4,), ["reshape", "reshape", "mm", "reshape"]),
}


def operators(program):
    return [
        n.target._schema.name.removeprefix("aten::") for n in program.graph.nodes if n.op == "call_function"
    ]


@pytest.mark.parametrize("name", MATRIX_PRODUCTS)
def test_matmul_has_one_form_for_each_rank(name):
    left, right, expected = MATRIX_PRODUCTS[name]
    a, b = torch.randn(left), torch.randn(right)
    program = apply(decompose, program_of(torch.matmul, a, b), a, b, exact=False)
    assert operators(program) == expected


@pytest.mark.parametrize("name", ["2d x 2d", "3d x 2d", "batched", "broadcast"])
def test_matmul_does_not_depend_on_strides(name):
    left, right, _ = MATRIX_PRODUCTS[name]
    a, b = torch.randn(left), torch.randn(right)
    strided = a.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert body(decompose(program_of(torch.matmul, a, b))) == body(
        decompose(program_of(torch.matmul, strided, b))
    )


def test_linear():
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    program = apply(decompose, program_of(F.linear, x, weight, bias), x, weight, bias, exact=False)
    assert operators(program) == ["permute", "reshape", "addmm", "reshape"]
    flat = apply(decompose, program_of(F.linear, x[0], weight), x[0], weight, exact=False)
    assert operators(flat) == ["permute", "mm"]


def test_linear_with_a_vector_for_weight():
    x, weight = torch.randn(3, 4), torch.randn(4)
    apply(decompose, program_of(F.linear, x, weight), x, weight, exact=False)


def test_dynamic_batch_multiplies_sizes():
    x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    program = program_of(F.linear, x, weight, dynamic_shapes=({0: torch.export.Dim("batch", min=1)}, None))
    after = canonicalize(program)
    assert body(after).splitlines()[:3] == [
        "sym_size: s0 = aten.sym_size.int(input0, 0)",
        "mul: 3*s0 = operator.mul(3, sym_size)",
        "reshape: f32[3*s0, 4] = aten.reshape.default(input0, [mul, 4])",
    ]
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 4)
        torch.testing.assert_close(after(x, weight), F.linear(x, weight))


@pytest.mark.parametrize(
    "function",
    [
        F.silu,
        F.mish,
        F.hardswish,
        F.softplus,
        F.relu6,
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.cosine_similarity(x, x + 1, dim=-1),
        lambda x: torch.einsum("ij,kj->ik", x, x),
        lambda x: x.std(0),
        lambda x: F.one_hot(x.argmax(-1), 6),
        lambda x: torch.stack([x, x + 1]).flatten(0, 1).unflatten(0, (2, -1)),
        lambda x: x.roll(1, 0).tril(),
        lambda x: F.pad(x, (1, 2), mode="reflect"),
        lambda x: torch.logsumexp(x, -1),
        lambda x: x.cumsum(0).clamp_min(0.1).masked_fill(x > 0, -1.0),
        lambda x: torch.tensor_split(x, 3, dim=1),
        lambda x: F.group_norm(x[None], 2, torch.ones(4), torch.zeros(4)),
        lambda x: F.instance_norm(x[None]),
    ],
)
def test_everything_ends_in_the_canonical_set(function):
    x = torch.randn(4, 6)
    program = apply(decompose, program_of(function, x), x, exact=False)
    outside = [
        n.target
        for n in program.graph.nodes
        if n.op == "call_function" and not is_canonical_target(n.target) and not checks_values(n)
    ]
    assert outside == []


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 1, 2), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_permuted_tensor_whose_memory_pytorch_keeps(shape, dim):
    def function(x, index):
        return x.transpose(-2, -1).index_fill(dim, index, 7)

    x, index = torch.randn(shape), torch.tensor([0])
    result = canonicalize(fxp.capture(function, (x, index)))
    verify(result, "canonical").raise_if_any()
    assert torch.equal(result(x, index), function(x, index))


def test_what_has_a_lowering_stays_whole():
    q = torch.randn(1, 2, 3, 4)
    program = program_of(F.scaled_dot_product_attention, q, q, q)
    assert operators(decompose(program)) == ["scaled_dot_product_attention"]


def test_dropout_of_inference_vanishes_and_of_training_is_refused():
    x = torch.randn(4)
    program = program_of(lambda x: F.dropout(x, 0.5, training=False) + 1, x)
    assert operators(decompose(program)) == ["add"]
    training = program_of(lambda x: F.dropout(x, 0.5, training=True), x)
    with pytest.raises(PassError, match=r"aten.dropout.default .*is in training mode[\s\S]*model.eval\(\)"):
        canonicalize(training)


def test_splits_become_slices_and_unused_parts_vanish():
    x = torch.randn(6, 4)
    program = apply(decompose, program_of(lambda x: x.split(2)[1] + x.chunk(3)[0], x), x)
    assert operators(program) == ["slice", "slice", "add"]


def test_the_value_of_a_tensor_keeps_its_symbol():
    program = program_of(lambda x: torch.full((2,), 1.0) * x.sum().item(), torch.arange(3))
    before, after = (
        next(n for n in p.nodes() if n.target in (aten.item.default, aten._local_scalar_dense.default))
        for p in (program, canonicalize(program))
    )
    assert after.target is aten._local_scalar_dense.default
    assert after.meta["val"].node.expr == before.meta["val"].node.expr


def test_an_unknown_operator_stays():
    library = torch.library.Library("fxpasses_test_decompose", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("fxpasses_test_decompose::twice", lambda x: torch.empty_like(x), lib=library)
    x = torch.randn(3)
    twice = torch.ops.fxpasses_test_decompose.twice.default
    program = decompose(program_of(lambda x: twice(x).relu(), x))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [twice, aten.relu.default]


def test_writes_through_views_of_a_fresh_tensor_are_kept(monkeypatch):
    """Torch decomposes polar by writing into the two views of an empty complex tensor."""
    monkeypatch.setattr("fxpasses.passes.decompose.complex_rows", dict)  # else polar stays for expand_complex

    def function(x, y):
        return torch.view_as_real(torch.polar(x, y))

    args = (torch.tensor([1.0, 2.0]), torch.tensor([0.5, -3.0]))
    after = apply(decompose, program_of(function, *args), *args, exact=False)
    assert "polar" not in body(after)


def test_as_strided_reads_the_strides_of_capture():
    """Canonical values have no strides: the `contiguous` that these reads depend on is gone by then."""

    def f(x):
        y = x.t().contiguous()
        return y.as_strided((2, 3), (1, 2)), y[1:].as_strided((2, 3), (1, 2), 6), x.t().as_strided((4,), (2,))

    x = torch.arange(24.0).reshape(4, 6)
    program = fxp.canonicalize(fxp.capture(f, (x,)))
    assert not any("as_strided" in str(node.target) for node in program.nodes())
    for got, want in zip(program.run(x)[0], f(x), strict=True):
        assert torch.equal(got, want)


VIEWS = {
    "a slice": lambda x: x[1:, ::2],
    "an expanded dim": lambda x: x[:, None].expand(4, 3, 6),
    "a part of a split": lambda x: x.split(2)[1],
    "a diagonal": lambda x: x.diagonal(),
    "a window": lambda x: x.unfold(1, 2, 3),
    "one of another": lambda x: x.as_strided((2, 2), (1, 2), 3),
}


@pytest.mark.parametrize("view", VIEWS)
def test_as_strided_of_a_view_reads_the_memory_of_its_owner(view):
    def f(x):
        return VIEWS[view](x).as_strided((2, 3), (1, 2), 5), VIEWS[view](x + 1).as_strided((2, 2), (9, 2))

    x = torch.arange(24.0).reshape(4, 6)
    program = fxp.canonicalize(fxp.capture(f, (x,)))
    for got, want in zip(program.run(x)[0], f(x), strict=True):
        assert torch.equal(got, want)


OPERANDS = {
    "with gaps": lambda: torch.arange(48.0).reshape(6, 8)[:, :4],
    "with gaps in a line": lambda: torch.arange(40.0)[3::2],
    "with one place for many": lambda: torch.arange(30.0).expand(2, 30),
    "turned, with gaps": lambda: torch.arange(48.0).reshape(6, 8)[:, :4].t(),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_as_strided_of_an_operand_that_does_not_fill_its_memory(name):
    x = OPERANDS[name]()

    def f(x):
        return x.as_strided((3, 2), (8, 2), x.storage_offset())

    program = fxp.canonicalize(fxp.capture(f, (x,)))
    assert torch.equal(program.run(x)[0], f(x))


def test_a_compiled_program_takes_the_strides_of_capture(tmp_path):
    def f(x, y):
        return (x + 1).as_strided((3, 3), (4, 1)) * y

    x, y = torch.arange(24.0).reshape(6, 4), torch.ones(3, 3)
    fxp.compile(f, (x, y)).save(tmp_path / "strided.fxp")
    compiled = fxp.load(tmp_path / "strided.fxp")
    assert torch.equal(compiled(x, y.t()), f(x, y))
    turned = x.t().contiguous().t()
    assert not torch.equal(f(turned, y), f(x, y))
    with pytest.raises(InputError, match=r"'x' has strides \(1, 6\) .* captured with \(4, 1\)"):
        compiled(turned, y)


def test_a_compiled_program_takes_the_offset_of_capture():
    def f(x):
        return x.as_strided((2, 2), (1, 2), 3), x.as_strided((2, 2), (1, 2))

    x = torch.arange(12.0)
    compiled = fxp.compile(f, (x,))
    with pytest.raises(InputError, match=r"from place 1 on, .* from place 0 of their memory on"):
        compiled(torch.arange(13.0)[1:])
    for got, want in zip(compiled(x), f(x), strict=True):
        assert torch.equal(got, want)


def test_as_strided_of_memory_between_the_elements_is_refused():
    with pytest.raises(FxpassesError, match="reads memory in the gaps of its operand"):
        fxp.canonicalize(fxp.capture(lambda x: x.as_strided((3,), (1,)), (torch.zeros(9)[::2],)))


def test_scatters_into_strided_memory_and_diagonals_are_native():
    def model(x, y):
        transposed = x.t().clone(memory_format=torch.preserve_format)
        transposed.as_strided((2, 2), (1, 3)).mul_(2)
        scattered = torch.as_strided_scatter(x.t(), torch.ones(2, 2), (2, 2), (1, 2), 1)
        return transposed, scattered, torch.diagonal_scatter(y, 2 * y.diagonal(-1), -1)

    x = torch.randn(4, 3)
    dynamic = ({}, {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC})
    compiled = fxp.compile(model, (x, torch.randn(4, 3)), dynamic_shapes=dynamic, strict=True)
    for shape in ((4, 3), (2, 6), (7, 3)):
        y = torch.randn(shape)
        for got, want in zip(compiled(x, y), model(x, y), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("view", "start"),
    [(lambda x: x[:, ::2].clone(), 17), (lambda x: (x + 1)[1:].view(torch.int32), 0)],
    ids=["a copy", "another dtype"],
)
def test_as_strided_of_memory_that_is_not_the_operands_is_refused(view, start):
    def f(x):
        return view(x).as_strided((2, 3), (1, 2), start)

    with pytest.raises(
        FxpassesError, match="as_strided cannot be spelled out, since .* outside of its operand"
    ):
        fxp.canonicalize(fxp.capture(f, (torch.zeros(4, 6),)))


def test_a_size_that_turns_out_to_be_a_number():
    def f(x, y):
        return aten.broadcast_to(y, [1, aten.size(x, 1)]) * aten.numel(x)

    args = (torch.ones(2, 3), torch.ones(1, 1))
    after = apply(decompose, program_of(f, *args), *args)
    assert "size" not in body(after)


def test_padding_of_dynamic_sizes():
    def f(x):
        return torch.nn.functional.pad(x, (1, 2, 3, 0))

    x = torch.randn(4, 5)
    program = fxp.canonicalize(fxp.capture(f, (x,), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},)))
    for rows, columns in ((2, 9), (7, 3)):
        x = torch.randn(rows, columns)
        assert torch.equal(program.run(x)[0], f(x))


@pytest.mark.parametrize("op", [aten.addbmm.default, aten.baddbmm.default, aten.addmm.default])
def test_factors_of_integer_products_are_cut_off(op):
    batch = () if op is aten.addmm.default else (2,)
    rows = (2,) if op is aten.baddbmm.default else ()
    args = (torch.ones(*rows, 3, 5, dtype=torch.int64), torch.ones(*batch, 3, 4, dtype=torch.int64))
    args = (*args, torch.ones(*batch, 4, 5, dtype=torch.int64))
    apply(decompose, program_of(lambda x, y, z: op(x, y, z, beta=1.9, alpha=2.7), *args), *args)


def test_as_strided_scatter_writes_positions_in_memory():
    x, rows = torch.arange(12.0).reshape(3, 4), torch.tensor([[10.0, 20], [30, 40]])

    def f(x, rows):
        return x.t().as_strided_scatter(rows, (2, 2), (5, 2), 1)

    assert torch.equal(fxp.compile(f, (x, rows), strict=True)(x, rows), f(x, rows))


def test_what_cannot_be_spelled_out_runs_in_pytorch():
    """Torch's decomposition of `take` reads the index of a single element."""

    def f(x, index):
        return x.take(index)

    args = torch.tensor(3.0), torch.tensor(0)
    assert torch.equal(fxp.compile(f, args)(*args), f(*args))


COPIED_VIEWS = {
    "permute": (lambda x: aten.permute_copy(x, [2, 0, 1]), ["permute"]),
    "transpose": (lambda x: aten.transpose_copy(x, 0, -1), ["permute"]),
    "t": (lambda x: aten.t_copy(x[0]), ["select", "permute"]),
    "select": (lambda x: aten.select_copy(x, 1, -1), ["select"]),
    "slice": (lambda x: aten.slice_copy(x, 2, 1, None, 2), ["slice"]),
    "narrow": (lambda x: aten.narrow_copy(x, 1, 1, 2), ["slice"]),
    "expand": (lambda x: aten.expand_copy(x, [5, -1, -1, -1]), ["expand"]),
    "squeeze": (lambda x: aten.squeeze_copy(x[:, :1], [1]), ["slice", "squeeze"]),
    "unsqueeze": (lambda x: aten.unsqueeze_copy(x, -1), ["unsqueeze"]),
    "view": (lambda x: aten.view_copy(x, [6, -1]), ["reshape"]),
    "view of what is turned": (lambda x: aten.view_copy(x.transpose(0, 1), [6, -1]), ["permute", "reshape"]),
    "alias": (lambda x: aten.alias_copy(x) + 1, ["add"]),
    "split": (lambda x: aten.split_copy(x, 3, 2), ["slice", "slice"]),
    "split with sizes": (lambda x: aten.split_with_sizes_copy(x, [1, 3], 2), ["slice", "slice"]),
    "unbind": (lambda x: aten.unbind_copy(x), ["select", "select"]),
}


@pytest.mark.parametrize("name", COPIED_VIEWS)
def test_a_copied_view_has_the_form_of_the_view(name):
    model, expected = COPIED_VIEWS[name]
    x = torch.randn(2, 3, 4)
    program = apply(Pipeline(canonicalize), program_of(model, x), x)
    assert operators(program) == expected


@pytest.mark.parametrize("name", ["diagonal", "unfold"])
def test_a_view_that_is_composed_may_be_copied(name):
    model = {
        "diagonal": lambda x: aten.diagonal_copy(x, 1, 0, 2),
        "unfold": lambda x: aten.unfold_copy(x, 2, 2, 1),
    }
    x = torch.randn(2, 3, 4)
    program = apply(Pipeline(canonicalize), program_of(model[name], x), x)
    assert all(is_canonical_target(n.target) for n in program.graph.nodes if n.op == "call_function")


@pytest.mark.parametrize("right", [False, True])
def test_searchsorted_in_an_order_reads_the_sequence_in_that_order(right):
    sequence, x = torch.randn(2, 7).half(), torch.randn(2, 4).half()

    def model(sequence, x, order):
        return torch.searchsorted(sequence, x, sorter=order, right=right, out_int32=True)

    args = (sequence, x, sequence.argsort(-1))
    program = apply(Pipeline(canonicalize), program_of(model, *args), *args)
    assert operators(program) == ["gather", "searchsorted"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_rrelu_of_inference_is_a_leaky_relu(dtype):
    x = torch.randn(100, dtype=dtype)
    program = apply(Pipeline(canonicalize), program_of(lambda x: F.rrelu(x, 0.1, 0.7), x), x)
    assert operators(program) == ["leaky_relu"]


IMAGES = torch.randn(2, 4, 7, 6)

WITHOUT_A_TRACE = {
    "same, odd window": (
        lambda x, w: F.conv2d(x, w, padding="same"),
        (IMAGES, torch.randn(3, 4, 3, 3)),
        ["convolution"],
    ),
    "same, even window": (
        lambda x, w: F.conv2d(x, w, padding="same", dilation=(1, 3)),
        (IMAGES, torch.randn(3, 4, 4, 2)),
        ["constant_pad_nd", "convolution"],
    ),
    "valid, strided, grouped": (
        lambda x, w, b: F.conv2d(x, w, b, padding="valid", stride=2, groups=2),
        (IMAGES, torch.randn(6, 2, 2, 3), torch.randn(6)),
        ["convolution"],
    ),
    "same, one signal": (
        lambda x, w: F.conv1d(x, w, padding="same"),
        (torch.randn(4, 9), torch.randn(3, 4, 4)),
        ["unsqueeze", "constant_pad_nd", "convolution", "squeeze"],
    ),
    "same, volumes": (
        lambda x, w: F.conv3d(x, w, padding="same"),
        (torch.randn(1, 2, 4, 5, 3), torch.randn(3, 2, 2, 3, 1)),
        ["constant_pad_nd", "convolution"],
    ),
    "clamp_min": (lambda x: x.clamp_min(0.5), (IMAGES,), ["clamp"]),
    "clamp_max of integers by a float": (lambda x: torch.clamp_max(x, 1.5), (torch.arange(4),), ["clamp"]),
    "min of two": (lambda x, y: torch.min(x, y), (IMAGES, IMAGES[:1] * -1), ["minimum"]),
    "max of two": (lambda x, y: torch.max(x, y), (IMAGES, IMAGES[:1] * -1), ["maximum"]),
    "stack": (lambda x: torch.stack([x, x + 1], -2), (IMAGES,), ["add", "unsqueeze", "unsqueeze", "cat"]),
}


@pytest.mark.parametrize("name", WITHOUT_A_TRACE)
def test_common_short_forms_need_no_trace(name, monkeypatch):
    function, args, expected = WITHOUT_A_TRACE[name]
    traced = canonicalize(fxp.capture(function, args, via="make_fx"))
    monkeypatch.setattr("fxpasses.passes.decompose._by_trace", None)
    program = apply(decompose, program_of(function, *args), *args, exact=False)
    assert operators(program) == expected
    assert fxp.fingerprint(canonicalize(fxp.capture(function, args))) == fxp.fingerprint(traced)


@pytest.mark.parametrize("op", ["addmm", "addmv", "addbmm", "baddbmm"])
@pytest.mark.parametrize("size", [3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_alpha_or_beta_of_zero_hides_what_eager_does_not_read(op, size, dtype):
    matrix = torch.rand(size, size, dtype=dtype)
    matrix[0, 1], matrix[1, 0] = torch.inf, torch.nan
    plain = torch.ones(size, size, dtype=dtype)
    batched = [t[None].expand(2, -1, -1) for t in (matrix, plain)]
    second = plain[0] if op == "addmv" else plain
    left, right = batched if "b" in op else (matrix, second)
    offset = {"addmv": matrix[0], "baddbmm": batched[0]}.get(op, matrix)
    for alpha, beta in ((0, 1), (0, 0), (0, 2.0), (3.0, 0)):
        function = partial(getattr(torch, op), alpha=alpha, beta=beta)
        program = canonicalize(program_of(function, offset, left, right))
        assert not verify(program, "canonical")
        found = fxp.compile(program, (offset, left, right))(offset, left, right)
        torch.testing.assert_close(found, function(offset, left, right), equal_nan=True)


def test_a_gradient_that_eager_promotes_is_refused():
    class Gradient(torch.nn.Module):
        def forward(self, grad, x):
            return aten.threshold_backward(grad, x, 0)

    function = Gradient()
    x = torch.tensor([-1.0, 2.0])
    with pytest.raises(
        PassError, match=r"gradient of torch.int64 .* to torch.float32; cast it .*test_decompose"
    ):
        canonicalize(program_of(function, torch.tensor([3, 4]), x))
    whole = canonicalize(program_of(function, x, x))
    torch.testing.assert_close(whole(x, x), function(x, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_powers_of_two_are_multiplied_without_an_infinity_on_the_way(dtype):
    if dtype.is_floating_point:
        span = torch.finfo(dtype)
        numbers = [0.0, -0.0, 1.0, -1.5, span.tiny, span.max, span.min, torch.inf, -torch.inf, torch.nan]
    else:
        numbers = [0, 3, -7]
    exponents = torch.tensor([0, 1, -1, 9, -20, 120, 130, -140, 200, -200, 1000, -1000, 2000, -2000, 2**40])
    x = torch.tensor(numbers, dtype=dtype)[:, None].expand(-1, len(exponents))
    exponents = exponents.expand_as(x)
    for other in (exponents, exponents.clamp(-128, 127).to(torch.int8)):
        found = fxp.compile(torch.ldexp, (x, other), strict=True)(x, other)
        torch.testing.assert_close(found, torch.ldexp(x, other), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("function", "sizes", "refused"),
    [
        (lambda x: torch.cross(x, x + 1, dim=None), [(4, 3), (7, 3), (1, 3)], [(3, 3)]),  # the first dim of 3
        (lambda x: torch.cov(x), [(4, 3), (2, 3), (5, 1)], [(4, 0)]),
        (lambda x: torch.corrcoef(x), [(4, 3), (2, 6)], []),
        (lambda x: torch.cartesian_prod(x[:, 0], x[0]), [(4, 3), (1, 3), (2, 1), (5, 6)], []),
    ],
    ids=["cross", "cov", "corrcoef", "cartesian_prod"],
)
def test_sizes_for_which_a_trace_does_something_else_are_refused(function, sizes, refused):
    dims = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},)
    x = torch.randn(4, 3)
    program = fxp.canonicalize(fxp.capture(function, (x,), dynamic_shapes=dims))
    for size in sizes:
        x = torch.randn(size)
        torch.testing.assert_close(program(x), function(x), equal_nan=True)
    for size in refused:
        with pytest.raises((InputError, RuntimeError)):
            program(torch.randn(size))


@pytest.mark.parametrize("shapes", [((1, 1, 8), (1, 6, 8)), ((1, 3, 2, 8), (1, 1, 6, 8))], ids=str)
def test_batches_of_one_in_the_example(shapes):
    def function(x, y):
        return x @ y.transpose(-1, -2)

    dims = {0: Dim.AUTO, len(shapes[0]) - 1: Dim.AUTO}
    args = [torch.randn(shape) for shape in shapes]
    dynamic = canonicalize(fxp.capture(function, tuple(args), dynamic_shapes=(dims, dims)))
    for batch, inner in ((1, 8), (3, 8), (4, 1), (2, 5)):
        given = [torch.randn(batch, *shape[1:-1], inner) for shape in shapes]
        torch.testing.assert_close(dynamic(*given), function(*given))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, y: torch.linalg.cross(x, y), [(7, 3), (1, 3)]),
        (lambda x, y: torch.linalg.cross(x, y, dim=0), [(3, 5), (3, 5)]),
        (lambda x, y: torch.cross(x, y), [(2, 3, 3), (2, 3, 3)]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.complex64])
def test_cross_products_pick_nothing_out_by_indices(function, shapes, dtype):
    args = [(torch.randn(shape) * 9).to(dtype) for shape in shapes]
    program = fxp.capture(function, tuple(args))
    after = decompose(program)
    assert aten.index_select.default not in [node.target for node in after.nodes()]
    torch.testing.assert_close(fxp.compile(after)(*args), function(*args))


ENDS = [
    (4.3, torch.tensor(0)),
    (4.3, torch.tensor(-1)),
    (torch.tensor(3.7), 20.9),
    (torch.tensor(250), torch.tensor(1.9)),
]


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_integers_between_two_tensors(ends, dtype, steps):
    tensors = [end for end in ends if isinstance(end, torch.Tensor)]

    def numbers(*given):
        left = iter(given)
        start, end = (next(left) if isinstance(end, torch.Tensor) else end for end in ends)
        return torch.linspace(start, end, steps, dtype=dtype)

    program = decompose(fxp.capture(numbers, tuple(tensors)))
    assert "linspace" not in str(program)
    torch.testing.assert_close(program(*tensors), numbers(*tensors))


def test_ends_that_do_not_fit_are_refused():
    program = decompose(
        fxp.capture(lambda end: torch.linspace(0, end, 5, dtype=torch.uint8), (torch.tensor(9.0),))
    )
    assert program(torch.tensor(9.0)).tolist() == [0, 2, 4, 6, 9]
    for end in (256.0, -1.0):
        with pytest.raises(RuntimeError, match="value cannot be converted without overflow"):
            program(torch.tensor(end))


def test_sizes_that_have_no_remainder_are_left_out_of_a_trial():
    def halves(x):
        return torch.cat(torch.diff(x, dim=0).tensor_split(2)[::-1])

    program = decompose(fxp.capture(halves, (torch.randn(12, 8),), dynamic_shapes=({0: Dim.AUTO},)))
    x = torch.randn(8, 8)
    assert torch.equal(program(x), halves(x))
