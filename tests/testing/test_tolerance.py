"""The rule of `fxpasses.testing.tolerance`, on numbers."""

from __future__ import annotations

import math

import torch

from fxpasses.testing.tolerance import Reference, compare_tensors, largest_difference

nan, inf = math.nan, math.inf


def rounded(values, error=1e-7, dtype=torch.float32):
    """A reference whose own error is *error*, relative."""
    value = torch.tensor(values, dtype=dtype)
    wide = torch.tensor(values, dtype=torch.float64)
    return Reference(
        value, wide, [(wide * (1 + error)).to(dtype), (wide * (1 - error)).to(dtype)], followed=True
    )


def test_a_few_units_in_the_last_place_are_rounding():
    assert compare_tensors(rounded([1.0, 2.0]), torch.tensor([1.0000004, 2.0])) is None


def test_more_is_a_difference_and_the_worst_element_is_named():
    difference = compare_tensors(rounded([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.1, 3.01]))
    assert difference is not None
    assert (difference.count, difference.total, difference.index) == (2, 3, (1,))
    assert difference.reference == 2.0
    assert difference.oracle == 2.0
    assert difference.error > 0.09 > difference.allowed


def test_small_elements_are_held_to_their_own_size():
    assert compare_tensors(rounded([1e4, 1e-3]), torch.tensor([1e4, 1.1e-3])) is not None


def test_what_noise_moves_far_may_lie_far_apart():
    value = torch.tensor([1e-6])
    reference = Reference(value, torch.tensor([1.2e-6]).double(), [torch.tensor([2e-6])], followed=True)
    assert compare_tensors(reference, torch.tensor([1.9e-6])) is None
    assert compare_tensors(reference, torch.tensor([1e-4])) is not None


def test_the_error_is_measured_from_the_oracle():
    reference = Reference(
        torch.tensor([1.1]), torch.tensor([1.0]).double(), [torch.tensor([1.1000001])], followed=True
    )
    assert compare_tensors(reference, torch.tensor([1.0])) is None
    assert compare_tensors(reference, torch.tensor([0.65])) is None
    assert compare_tensors(reference, torch.tensor([0.55])) is not None


def test_data_movement_is_exact():
    value = torch.tensor([1.0, 2.0])
    still = Reference(value, value.double(), [value, value], followed=True)
    assert compare_tensors(still, value) is None
    assert compare_tensors(still, torch.tensor([1.0, 2.0000002])) is not None


def test_integers_are_exact_but_for_edges():
    value = torch.tensor([1, 2, 3])
    flipping = Reference(value, value, [torch.tensor([1, 2, 4])], followed=True)
    assert compare_tensors(flipping, torch.tensor([1, 2, 4])) is None
    difference = compare_tensors(flipping, torch.tensor([1, 3, 3]))
    assert difference is not None
    assert difference.index == (1,)


def test_truth_values_are_exact():
    value = torch.tensor([True, False])
    assert (
        compare_tensors(Reference(value, value, [value], followed=True), torch.tensor([True, True]))
        is not None
    )


def test_nan_and_infinities_must_agree():
    reference = rounded([1.0, nan, inf, -inf])
    assert compare_tensors(reference, torch.tensor([1.0, nan, inf, -inf])) is None
    for wrong in ([nan, nan, inf, -inf], [1.0, 2.0, inf, -inf], [1.0, nan, -inf, -inf], [1.0, nan, inf, 3.0]):
        difference = compare_tensors(reference, torch.tensor(wrong))
        assert difference is not None
        assert difference.count == 1


def test_overflow_of_the_narrow_dtype_is_no_error_against_the_oracle():
    value = torch.tensor([inf], dtype=torch.float16)
    reference = Reference(value, torch.tensor([1e5]).double(), [value], followed=True)
    assert compare_tensors(reference, value) is None
    assert compare_tensors(reference, torch.tensor([6e4], dtype=torch.float16)) is not None


def test_what_is_nearer_to_the_oracle_than_the_reference_is_right():
    value = torch.tensor([-0.0, 1.0])  # such as GELU's of -5.7, which cancels; no noise moves it
    reference = Reference(value, torch.tensor([-3.8e-9, 1.0]).double(), [value], followed=True)
    assert compare_tensors(reference, torch.tensor([-1.5e-9, 1.0])) is None
    for wrong in (1.5e-9, -8e-9):
        difference = compare_tensors(reference, torch.tensor([wrong, 1.0]))
        assert difference is not None
        assert difference.index == (0,)


def test_given_tolerances_replace_the_rule():
    reference = rounded([1.0])
    assert compare_tensors(reference, torch.tensor([1.05]), rtol=0.1) is None
    assert compare_tensors(reference, torch.tensor([1.05]), atol=0.01) is not None


def test_without_a_reference_that_can_be_followed_units_of_the_largest_element_count():
    value = torch.tensor([1000.0, 1.0])
    assert compare_tensors(Reference(value), torch.tensor([1000.0, 1.001])) is None
    assert compare_tensors(Reference(value), torch.tensor([1000.0, 1.1])) is not None


def test_complex_numbers_are_compared_by_parts():
    value = torch.tensor([1 + 2j])
    reference = Reference(value, value.to(torch.complex128), [value * 1.000001], followed=True)
    assert compare_tensors(reference, torch.tensor([1 + 2j])) is None
    difference = compare_tensors(reference, torch.tensor([1 + 3j]))
    assert difference is not None
    assert difference.index == (0,)


def test_scalars_and_empty_tensors():
    assert compare_tensors(rounded(1.0), torch.tensor(2.0)).index == ()
    empty = torch.empty(0)
    assert compare_tensors(Reference(empty, empty.double(), [empty], followed=True), empty) is None


def test_largest_difference():
    assert largest_difference(torch.tensor([1.0, 5.0]), torch.tensor([1.5, 4.0])) == 1.0
    assert largest_difference(torch.tensor([nan, inf]), torch.tensor([nan, inf])) == 0.0
    assert largest_difference(torch.tensor([nan]), torch.tensor([1.0])) == inf
    assert largest_difference(torch.tensor([True]), torch.tensor([False])) == 1.0
    assert largest_difference(torch.empty(0), torch.empty(0)) == 0.0
