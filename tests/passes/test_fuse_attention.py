"""`fuse_attention`: which attention becomes one kernel, and what of its surroundings goes."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from torch.nn import functional as F

from fxpasses.passes import FuseAttention, canonicalize, fuse_attention
from fxpasses.testing import assert_equivalent
from tests.passes.helpers import apply, body, program_of


def check(function, *args, **options):
    before = canonicalize(program_of(function, *args, **options))
    after = apply(fuse_attention, before, *args, exact=False)
    assert_equivalent(before, after, args)
    return after


def draw(*sizes, dtype=torch.float32, count=3):
    torch.manual_seed(0)
    return tuple(torch.randn(sizes, dtype=dtype) for _ in range(count))


def swapped(function):
    def run(query, key, value, *rest):
        heads = (x.transpose(1, 2) for x in (query, key, value))
        return function(*heads, *rest).transpose(1, 2)

    return run


attend = F.scaled_dot_product_attention


def test_text():
    after = check(swapped(attend), *draw(2, 5, 3, 4))
    assert body(after) == (
        "attention_default: f32[2, 5, 3, 4] = fxpasses.attention.default(input0, input1, input2, None, False, 0.5, "
        "[True, True, True, True], 16, 32)\nreturn (attention_default,)"
    )


def test_heads_that_come_first_stay_there():
    text = body(check(attend, *draw(2, 3, 5, 4)))
    assert "[False, False, False, False]" in text
    assert "permute" not in text


def test_lanes_of_a_type():
    after = check(attend, *draw(2, 3, 5, 4, dtype=torch.float64))
    assert "[False, False, False, False], 8, 32)" in body(after)
    after = FuseAttention(32, 16)(canonicalize(program_of(attend, *draw(2, 3, 5, 4))))
    assert "[False, False, False, False], 8, 16)" in body(after)


@pytest.mark.parametrize("mask", [
    torch.ones(5, 5, dtype=torch.bool), torch.zeros(2, 1, 5, 5), torch.zeros(1, 1).expand(5, 5),
], ids=["all", "zeros", "expanded"])  # fmt: skip
def test_masks_that_admit_all_go(mask):
    after = check(lambda q, k, v: attend(q, k, v, mask), *draw(2, 3, 5, 4))
    assert "input2, None, False" in body(after)


TRIANGLE = torch.ones(5, 5, dtype=torch.bool).tril()


@pytest.mark.parametrize("mask", [
    TRIANGLE, TRIANGLE.expand(2, 1, 5, 5), torch.where(TRIANGLE, 0.0, -torch.inf),
], ids=["bool", "expanded", "sum"])  # fmt: skip
def test_triangles_are_causal(mask):
    after = check(lambda q, k, v: attend(q, k, v, mask), *draw(2, 3, 5, 4))
    assert "input2, None, True" in body(after)


@pytest.mark.parametrize("mask", [
    TRIANGLE.t(), torch.ones(5, 5, dtype=torch.bool).tril(1), torch.where(TRIANGLE, 0.0, -3e38),
    torch.where(TRIANGLE, 0.5, -torch.inf), TRIANGLE[4:] & (torch.arange(5) < 3),
], ids=["other", "wider", "finite", "not zero", "one row"])  # fmt: skip
def test_other_masks_stay(mask):
    after = check(lambda q, k, v: attend(q, k, v, mask), *draw(2, 3, 5, 4))
    assert ", False, 0.5" in body(after)
    assert "input2, None" not in body(after)


def test_masks_are_laid_out_keys_first():
    query, key, value = draw(2, 3, 5, 4)
    after = check(attend, query, key[:, :, :4], value[:, :, :4], torch.randn(2, 1, 5, 4))
    assert "aten.permute.default(input3, [0, 1, 3, 2])" in body(after)
    after = check(attend, query, key[:, :, :4], value[:, :, :4], torch.rand(2, 1, 1, 4) > 0.5)
    assert "aten.reshape.default(input3, [2, 1, 4, 1])" in body(after)


def test_repeated_masks_are_read_once():
    query, key, value = draw(2, 3, 5, 4)
    after = check(
        lambda q, k, v, m: attend(q, k, v, m.expand(2, 3, 5, 5)), query, key, value, torch.randn(2, 1, 1, 5)
    )
    assert "expand" not in body(after)


def test_groups_and_causal():
    query, key, value = draw(2, 6, 5, 4)
    after = check(
        lambda q, k, v: attend(q, k, v, is_causal=True, enable_gqa=True), query, key[:, :2], value[:, :2]
    )
    assert "None, True, 0.5" in body(after)


def repeated(x, times):
    batch, heads, length, width = x.shape
    return (
        x[:, :, None].expand(batch, heads, times, length, width).reshape(batch, heads * times, length, width)
    )


def test_repeated_heads_are_shared():
    query, key, value = draw(2, 6, 5, 4)
    operands = (query, key[:, :2], value[:, :2])
    text = body(check(lambda q, k, v: attend(q, repeated(k, 3), repeated(v, 3)), *operands))
    assert "fxpasses.attention.default(input0, input1, input2" in text
    text = body(check(lambda q, k, v: attend(q, repeated(k, 3), repeated(v, 3).relu()), *operands))
    assert text.count("aten.expand.default") == 2


def test_any_length():
    after = check(swapped(attend), *draw(2, 5, 3, 4), dynamic_shapes=({1: Dim("length", max=64)},) * 3)
    assert "f32[2, s0, 3, 4] = fxpasses.attention.default" in body(after)


@pytest.mark.parametrize("operands", [
    draw(2, 3, 5, 4, dtype=torch.float16), draw(3, 5, 4), draw(1, 2, 3, 5, 4), draw(1, 1, 2, 1024),
    (torch.randn(2, 3, 5, 4), *draw(1, 3, 5, 4, count=2)),
], ids=["half", "three dims", "five dims", "wide", "one batch of keys"])  # fmt: skip
def test_left_as_they_are(operands):
    before = canonicalize(program_of(attend, *operands))
    assert str(fuse_attention(before)) == str(before)
