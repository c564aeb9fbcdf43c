"""On random programs: every pass preserves meaning, and canonicalisation ends in its form."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fxpasses.passes import CATALOGUE, canonicalize
from fxpasses.pipeline import pass_name
from fxpasses.testing import assert_equivalent, first_divergence, inputs_for, programs
from fxpasses.verify import verify
from tests.properties.helpers import WITHOUT_SUMS


@given(program=programs(), data=st.data())
def test_generated_programs_are_well_formed(program, data):
    verify(program, "well-formed").raise_if_any("a generated program")
    for special in (False, True):
        inputs = data.draw(inputs_for(program, special=special))
        program.run(*inputs, **inputs.kwargs)


def check(pass_, before, inputs):
    """The program after *pass_*, which must be well formed and mean the same."""
    after = pass_(before)
    if after.fingerprint != before.fingerprint:
        verify(after, "well-formed").raise_if_any(f"after {pass_name(pass_)}")
        assert_equivalent(before, after, inputs, calls=2)
    return after


@given(program=programs(), data=st.data())
def test_every_pass_preserves_meaning(program, data):
    inputs = data.draw(inputs_for(program))
    for pass_ in canonicalize:
        program = check(pass_, program, inputs)
    for pass_ in CATALOGUE.values():
        if pass_ not in canonicalize.passes:
            check(pass_, program, inputs)


@given(program=programs(), data=st.data())
def test_every_pass_is_usable_alone(program, data):
    inputs = data.draw(inputs_for(program))
    for pass_ in CATALOGUE.values():
        check(pass_, program, inputs)


@given(program=programs(), data=st.data())
def test_canonicalize_preserves_meaning(program, data):
    result = canonicalize(program)
    inputs = data.draw(inputs_for(program))
    assert_equivalent(program, result, inputs, calls=2)
    divergence = first_divergence(program, result, inputs)
    assert divergence is None, divergence


@given(program=programs(ops=WITHOUT_SUMS), data=st.data())
def test_canonicalize_preserves_the_meaning_of_special_values(program, data):
    assert_equivalent(program, canonicalize(program), data.draw(inputs_for(program, special=True)))


@given(program=programs())
def test_canonical_form_is_reached_and_stays(program):
    result = canonicalize(program)
    verify(result, "canonical").raise_if_any("after canonicalize")
    again = canonicalize(result)
    assert str(again) == str(result)
    assert again.fingerprint == result.fingerprint
