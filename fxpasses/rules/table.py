"""`@rule` enters a check in `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from torch import fx

if TYPE_CHECKING:
    from fxpasses.rules.subject import Subject

__all__ = ["LEVELS", "RULES", "Findings", "Level", "Rule", "rule"]

Level = Literal["well-formed", "canonical", "strict"]
LEVELS: tuple[Level, ...] = get_args(Level)

Findings = Iterator[tuple[fx.Node | None, str]]
"""A node, or None for the program as a whole, and what is wrong with it."""


@dataclass(frozen=True)
class Rule:
    """A named check. `doc` is its line in `fxpasses.verify.rules_table`."""

    name: str
    level: Level
    doc: str
    check: Callable[[Subject], Findings]


RULES: dict[str, Rule] = {}
"""Every rule by its name."""


def rule(name: str, level: Level) -> Callable[[Callable[[Subject], Findings]], Rule]:
    """Decorator: enter a check in `RULES`; its docstring's first line documents it."""

    def enter(check: Callable[[Subject], Findings]) -> Rule:
        if level not in LEVELS:
            raise ValueError(f"rule {name!r}: unknown level {level!r}; levels are {', '.join(LEVELS)}")
        if name in RULES:
            raise ValueError(f"rule {name!r}: the name is taken")
        if not check.__doc__:
            raise ValueError(f"rule {name!r}: the check has no docstring, which is its line in the table")
        RULES[name] = Rule(name, level, check.__doc__.strip().splitlines()[0], check)
        return RULES[name]

    return enter
