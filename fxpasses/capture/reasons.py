"""Why a source could not be captured, in the words of the user's own code."""

from __future__ import annotations

import ast
import itertools
import linecache
import os
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fxpasses.capture.source import Source
from fxpasses.errors import CaptureError, FxpassesError

__all__ = ["Reason", "capture_error", "reason_of"]

_INSIDE = tuple(
    str(Path(file).parent) + os.sep
    for file in (torch.__file__, str(Path(__file__).parent))
    if file is not None
)


@dataclass(frozen=True)
class Frame:
    """A line of the user's code."""

    file: str
    line: int
    function: str

    @property
    def code(self) -> str:
        """The text of the line, stripped."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}, code: {self.code}"


@dataclass(frozen=True)
class Reason:
    """What went wrong in one door, where, and what to do about it."""

    problem: str
    frame: Frame | None
    advice: str | None = None

    def __str__(self) -> str:
        return self.problem + (f" ({self.frame.file}:{self.frame.line})" if self.frame is not None else "")


def reason_of(error: BaseException) -> Reason:
    """The `Reason` of an exception that a door raised."""
    frame = _user_frame(error)
    text = _text(error)
    for matches, advise in _ADVICE:
        if matches(error, text):
            problem, advice = advise(text, frame)
            return Reason(problem, frame, advice)
    return Reason(text, frame)


def capture_error(source: Source, errors: Mapping[str, BaseException]) -> CaptureError:
    """The error that says why every door failed. *errors*: door name to what it raised."""
    reasons = {door: reason_of(error) for door, error in errors.items()}
    ours = [reasons[door] for door, error in errors.items() if isinstance(error, FxpassesError)]
    advised = [reason for reason in reasons.values() if reason.advice]
    placed = [reason for reason in reasons.values() if reason.frame]
    main = next(itertools.chain(advised, ours, placed, reasons.values()))
    lines = [f"{source.label} could not be captured: {main.problem}"]
    if main.frame is not None:
        lines.append(f"  {main.frame}")
    elif source.place is not None:
        lines.append(f"  {source.place}")
    if main.advice:
        lines.append(main.advice)
    if len(reasons) > 1:
        said: dict[str, list[str]] = {}
        for door, reason in reasons.items():
            said.setdefault(str(reason), []).append(door)
        if len(said) == 1:
            lines.append(f"All doors say so: {', '.join(reasons)}.")
        else:
            lines.append("What each door said:")
            lines += [f"  {', '.join(doors)}: {reason}" for reason, doors in said.items()]
    return CaptureError("\n".join(lines))


# -- where -----------------------------------------------------------------------------


def _user_frame(error: BaseException) -> Frame | None:
    """The innermost line outside torch and fxpasses that *error* passed through."""
    for one in _chain(error):
        own = [_frame(f) for f in traceback.extract_tb(one.__traceback__) if _is_users(f.filename)]
        # Dynamo reads the code instead of running it, and keeps the stack itself.
        read = [_frame(f) for f in getattr(one, "real_stack", None) or () if _is_users(f.filename)]
        if read or own:
            return (read or own)[-1]
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _is_users(file: str) -> bool:
    return not file.startswith(_INSIDE) and not file.startswith("<") and os.path.exists(file)


def _frame(summary: traceback.FrameSummary) -> Frame:
    return Frame(summary.filename, summary.lineno or 0, summary.name)


# -- what ------------------------------------------------------------------------------


def _whole_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # it holds a proxy, whose text asks a tracer that is done
        return ""


def _text(error: BaseException) -> str:
    """The part of a message of torch's that says something, on one line."""
    text = _whole_text(error)
    if isinstance(error, FxpassesError):
        return text
    for noise in (
        "\nfrom user code",
        "\nThe error above occurred",
        "\nSet TORCHDYNAMO",
        "\nFor more",
        "\n\nWhile executing",
    ):
        text = text.split(noise)[0]
    text = re.sub(r"Not all values of .* satisfy the generated guard", "generated guard", text)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    short = " ".join(lines[:4])
    short = short if len(short) <= 400 else short[:400] + " ..."
    name = type(error).__name__
    return short if name in ("RuntimeError", "UserError", "Unsupported") and short else f"{name}: {short}"


def _condition(code: str) -> ast.expr | None:
    """The condition in a line of code that branches."""
    code = re.sub(r"^elif\b", "if", code)
    for attempt in (code, f"{code}\n    pass", f"{code} pass"):
        try:
            tree = ast.parse(attempt)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
                return node.test
    return None


def _branch(text: str, frame: Frame | None) -> tuple[str, str]:
    condition = _condition(frame.code) if frame is not None else None
    if frame is not None and condition is None and not frame.code.startswith(("if", "while", "elif")):
        return (
            "a Python value is read out of a tensor, and the code depends on it",
            "A graph has no Python values. Keep it a tensor (torch.where, masks, index_select), or compute it "
            "outside the model and pass it as an argument.",
        )
    written = ast.unparse(condition) if condition is not None else "condition"
    names: list[str] = []
    if condition is not None:
        callees = {id(n.func) for n in ast.walk(condition) if isinstance(n, ast.Call)}
        for node in ast.walk(condition):
            if (
                isinstance(node, ast.Name)
                and id(node) not in callees
                and node.id not in ("torch", "self", *names)
            ):
                names.append(node.id)
    operands = ", ".join(names) or "x"
    loop = frame is not None and frame.code.startswith("while")
    if loop:
        snippet = (
            "from torch._higher_order_ops import while_loop\nresult = while_loop(cond_fn, body_fn, (state,))"
        )
    else:
        snippet = (
            f"def if_true({operands}): ...    # returns the same shapes and dtypes as\n"
            f"def if_false({operands}): ...   # this one\n"
            f"result = torch.cond({written}, if_true, if_false, ({operands},))"
        )
    what = "loop" if loop else "branch"
    advice = f"A graph has no Python {what} on values. "
    advice += "Write it with torch:\n" if loop else "Write both sides as functions and let torch choose:\n"
    return f"a {what} depends on the values of a tensor", advice + textwrap.indent(snippet, "    ")


def _is_branch(error: BaseException, text: str) -> bool:
    return (
        type(error).__name__ == "GuardOnDataDependentSymNode"
        or "Data-dependent branching" in text
        or type(error).__name__ == "DataDependentOutputException"
    )


def _unknown_type(text: str, frame: Frame | None) -> tuple[str, str]:
    return (
        text.split(", which is not a known type")[0] + ", which torch cannot take apart",
        "Return tensors, tuples, dicts or dataclasses, or register the type: "
        "torch.utils._pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=...). "
        "For a cache of a transformers model pass use_cache=False.",
    )


def _specialised(text: str, frame: Frame | None) -> tuple[str, str]:
    found: list[Any] = [
        re.sub(r" and \S+ <= IntInfinity\(\)$", "", guard)
        for guard in re.findall(r"generated guard (.*?)\.?(?= - | Suggested fixes|$)", text)
    ]
    found += re.findall(
        r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)", text
    )
    needs = "; ".join(f"{_plain(g)}" if isinstance(g, str) else f"{_plain(g[0])} == {g[1]}" for g in found)
    return (
        "the code does not hold for every size that dynamic_shapes allows"
        + (f": it needs {needs}" if needs else ""),
        "Narrow the dim (Dim('n', min=..., max=...), 2*Dim('half')), use the same Dim for sizes that are equal, "
        "or leave the size static.",
    )


def _proxies(text: str, frame: Frame | None) -> tuple[str, str]:
    return (
        f"symbolic_trace knows neither sizes nor values: {text}",
        "Capture with via='export', which knows the sizes.",
    )


def _changed_constant(text: str, frame: Frame | None) -> tuple[str, str]:
    return (
        f"the code changes a tensor that is no buffer of the model: {text}",
        "Make the tensor a buffer: self.register_buffer(name, tensor).",
    )


def _jit_size(text: str, frame: Frame | None) -> tuple[str, str]:
    return (
        "torch.jit.trace takes a size for a constant",
        "Leave out dynamic_shapes, or capture with via='export'.",
    )


def _autocast(text: str, frame: Frame | None) -> tuple[str, str]:
    return (
        f"a region of autocast is lost between dynamo and torch.export: {text}",
        "Capture with via='export', which runs the region.",
    )


def _plain(text: str) -> str:
    return re.sub(r"L\['(\w+)'\]", r"\1", text)


_ADVICE: tuple[
    tuple[Callable[[BaseException, str], bool], Callable[[str, Frame | None], tuple[str, str]]], ...
] = (
    (_is_branch, _branch),
    (lambda error, text: type(error).__name__ == "TraceError" or "Proxy" in text, _proxies),
    (lambda error, text: any(isinstance(one, torch.jit.TracerWarning) for one in _chain(error)), _jit_size),
    (lambda error, text: "which is not a known type" in text, _unknown_type),
    (lambda error, text: "is mutated in the forward method" in text, _changed_constant),
    (lambda error, text: "Constraints violated" in _whole_text(error), _specialised),
    (lambda error, text: "Tensor dtype mismatch! Expected" in text, _autocast),
)
"""Pairs of a test on the exception and a function that gives problem and advice."""
