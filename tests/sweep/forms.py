"""The forms of the sweep: what calls are made of a unit's samples, and who can answer them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from tests.sweep import dynamic, samples
from tests.sweep.edges import Variant, variants
from tests.sweep.samples import Reached

__all__ = ["FORMS", "Form"]


@dataclass(frozen=True)
class Form:
    """A form of the sweep.

    Attributes:
        reach: the calls that so many samples of a unit reach.
        variants: what is made of these calls.
        systems: the function of `tests.sweep.systems` that answers for a system.
        dtypes: the dtypes of its units.
    """

    reach: Callable[[str, int], Reached]
    variants: Callable[[list], Iterable[Variant]]
    systems: Mapping[str, str]
    dtypes: tuple[torch.dtype, ...] = samples.DTYPES


_STATIC = {"fxpasses": "fxpasses_answers", "tvm": "tvm_answers"}

FORMS: dict[str, Form] = {
    "plain": Form(samples.reach, lambda calls: map(Variant, calls), _STATIC),
    "edges": Form(samples.reach, variants, _STATIC),
    "dynamic": Form(
        dynamic.reach,
        lambda calls: [Variant(call, may_raise=True) for call in calls],
        {"fxpasses": "dynamic_answers"},
        dynamic.DTYPES,
    ),
}
