"""Rules that cost as much as tracing the program again; for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch

from fxpasses.rules.subject import SYMBOLIC, Subject, free_symbols, is_unbacked, type_text
from fxpasses.rules.table import Findings, rule
from fxpasses.signature import known_of_sizes
from fxpasses.tracing.fake_values import fake_value, same_type


@rule("propagation", "strict")
def _propagation(subject: Subject) -> Findings:
    """Computing every fake value again gives the same dtype and shape."""
    mode = subject.fake_mode if subject.fake_mode is not None else subject.program.fake_mode
    env = mode.shape_env
    given = known_of_sizes(subject.program)
    for node in subject.nodes:
        if node.op != "call_function" or "val" not in node.meta:
            continue
        known = node.meta["val"]
        try:
            with env.ignore_fresh_unbacked_symbols() if env is not None else contextlib.nullcontext():
                fresh = fake_value(mode, node)
        except Exception as error:  # whatever an operator raises on its fake arguments
            reason = "".join(str(error).splitlines()[:1])
            yield node, f"cannot be computed: {type(error).__name__}: {reason}"
            continue
        if not _same_up_to_new_symbols(known, fresh, given):
            yield node, f"meta['val'] is {type_text(known)}, but computing it gives {type_text(fresh)}"


def _same_up_to_new_symbols(known: Any, fresh: Any, given: Collection[Any]) -> bool:
    """Whether types agree, where *given* holds; each data-dependent size is a new symbol every time."""
    if isinstance(known, tuple | list) and isinstance(fresh, tuple | list):
        return len(known) == len(fresh) and all(
            _same_up_to_new_symbols(a, b, given) for a, b in zip(known, fresh, strict=True)
        )
    if isinstance(known, torch.Tensor) and isinstance(fresh, torch.Tensor):
        return (
            known.dtype == fresh.dtype
            and known.dim() == fresh.dim()
            and all(
                _same_up_to_new_symbols(a, b, given) for a, b in zip(known.shape, fresh.shape, strict=True)
            )
        )
    new = isinstance(fresh, SYMBOLIC) and any(map(is_unbacked, free_symbols(fresh)))
    return same_type(known, fresh, given) or (new and isinstance(known, SYMBOLIC))
