"""`verify` holds a program against `RULES`, a table of named and documented checks.

A rule is a generator that yields a node and a message for each violation::

    @rule("alpha-beta", "canonical")
    def alpha_beta(subject):
        '''alpha and beta of additions and matrix products are 1.'''
        for call in subject.calls:
            ...
            yield call.node, "alpha is 2; multiply it out"

The first line of its docstring is its row in `rules_table`. `verify` runs all
rules of a level and reports everything that they find, so that one run shows
all there is to repair. The rules themselves are in `fxpasses.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from fxpasses.errors import VerificationError, source_line
from fxpasses.program import Program
from fxpasses.rules import LEVELS, RULES, Rule, rule
from fxpasses.rules.subject import Subject

__all__ = ["RULES", "Report", "Rule", "Violation", "rule", "rules_by_level", "rules_table", "verify"]


@dataclass(frozen=True)
class Violation:
    """One breach of one rule.

    `place` is the node's name, after the name of its control-flow body if it
    stands in one; empty where the program as a whole is meant. `source` is the
    user's line, if it is known.
    """

    rule: str
    node: fx.Node | None
    message: str
    place: str = ""
    source: str | None = None

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        return f"[{self.rule}] {self.place + ': ' if self.place else ''}{self.message}{where}"


class Report(list[Violation]):
    """All violations that `verify` found: a list, empty and so false for a good program.

    Attributes:
        level: what was asked for.
        rules: the rules that were checked.
    """

    def __init__(self, violations: Iterable[Violation], level: str, rules: tuple[Rule, ...]) -> None:
        super().__init__(violations)
        self.level = level
        self.rules = rules

    @property
    def ok(self) -> bool:
        """Whether there is no violation."""
        return not self

    def raise_if_any(self, context: str = "") -> None:
        """Raise a `VerificationError` that lists all violations, if there are any."""
        if self:
            raise VerificationError(f"{context}: {self}" if context else str(self))

    def __str__(self) -> str:
        from fxpasses.view.tables import report_text

        return report_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from fxpasses.view.html import report_html

        return report_html(self)


def verify(
    program: Program,
    level: str = "well-formed",
    *,
    strict: bool = False,
    before: Program | None = None,
    rules: Iterable[Rule] | None = None,
) -> Report:
    """Check a program against the rules of a level; nothing is raised.

    ::

        assert not verify(program, "canonical")       # no violations
        verify(program).raise_if_any("after my pass")

    Args:
        program: the program.
        level: ``"well-formed"``, or ``"canonical"`` which includes it.
        strict: also recompute every fake value and compare (as slow as tracing).
        before: the program that a pass made this one from; mutations and the
            calling convention must still be the same.
        rules: check these instead of the rules of *level*.

    Returns:
        The violations, all of them. Empty, and so false, for a good program.
    """
    names = [name for name in LEVELS if name != "strict"]
    if level not in names:
        raise ValueError(f"unknown level {level!r}; levels are {' and '.join(map(repr, names))}")
    if rules is None:
        wanted = [*names[: names.index(level) + 1], *(["strict"] if strict else [])]
        rules = (r for r in rules_by_level() if r.level in wanted)
    chosen = tuple(rules)
    subject = Subject(program, before)
    violations = [
        Violation(checked.name, node, message, subject.place(node), source_line(node) if node else None)
        for checked in chosen
        for node, message in subject.findings(checked)
    ]
    return Report(violations, level, chosen)


def rules_by_level() -> list[Rule]:
    """All rules, those that every program keeps first."""
    return sorted(RULES.values(), key=lambda r: LEVELS.index(r.level))


def rules_table() -> str:
    """All rules as a Markdown table: name, level and what is checked."""
    rows = [("rule", "level", "what holds"), *((r.name, r.level, r.doc) for r in rules_by_level())]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


# The package's attribute `fxpasses.verify` is the function; its table is reached through it.
verify.RULES = RULES  # type: ignore[attr-defined]
