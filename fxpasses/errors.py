"""Every exception that fxpasses raises on purpose.

Each message names what was wrong (argument, node, operator), where it came
from in the user's source when that is known, and what to do about it.
"""

from __future__ import annotations

import torch
from torch import fx

__all__ = [
    "ArtifactError",
    "CaptureError",
    "DivisionError",
    "EquivalenceError",
    "FxpassesError",
    "IndexRangeError",
    "InputError",
    "IslandWarning",
    "LinAlgError",
    "LoweringError",
    "PassError",
    "RunError",
    "UnsupportedOperatorError",
    "VerificationError",
    "source_line",
]


class FxpassesError(Exception):
    """Base class of all errors that fxpasses raises on purpose."""


class CaptureError(FxpassesError):
    """A source could not be turned into a `Program`."""


class InputError(FxpassesError, ValueError):
    """An argument of a call does not fit the program's signature."""


class VerificationError(FxpassesError):
    """A program breaks rules of `fxpasses.verify`; the message lists all of them."""


class PassError(FxpassesError):
    """A pass of a `Pipeline` failed; the message names pass, node and reproducer."""


class UnsupportedOperatorError(FxpassesError):
    """Operators without a lowering; the message lists all of them with counts."""


class RunError(FxpassesError, RuntimeError):
    """A value that a program met or computed while it ran does not let it go on."""


class IndexRangeError(InputError, RunError, IndexError):
    """An index lies outside of the tensor it indexes."""


class DivisionError(RunError, ZeroDivisionError):
    """An integer is divided by zero."""


class LinAlgError(RunError, torch.linalg.LinAlgError):
    """A matrix has no factors of the kind, or no inverse."""


class LoweringError(FxpassesError):
    """A lowering gave a value whose type differs from the node's."""


class ArtifactError(FxpassesError):
    """A saved program is corrupt, foreign, or from an incompatible version."""


class EquivalenceError(FxpassesError, AssertionError):
    """Two programs that should agree do not."""


class IslandWarning(UserWarning):
    """A loaded program makes some of its calls in PyTorch."""


class CacheWarning(UserWarning):
    """An entry of the compile cache cannot be used."""


def source_line(node: fx.Node) -> str | None:
    """The innermost user frame of *node*, as ``"file.py:12 in forward, code: ..."``.

    Frames of torch itself, of generated code and of the capture are skipped where another is known.
    """
    trace = node.stack_trace
    if not trace:
        return None
    frames: list[str] = []
    lines = trace.strip().splitlines()
    for index, line in enumerate(lines):
        if line.strip().startswith('File "'):
            path, _, rest = line.strip()[len('File "') :].partition('", line ')
            number, _, function = rest.partition(", in ")
            code = lines[index + 1].strip() if index + 1 < len(lines) else ""
            frames.append(f"{path}:{number} in {function}, code: {code}")
    if not frames:
        return None
    theirs = ("/torch/", "/fxpasses/capture/", "<")
    outside = [frame for frame in frames if not any(part in frame.split(":", 1)[0] for part in theirs)]
    return (outside or frames)[-1]
