"""What works on this machine, and the command that installs what does not.

`examine` yields one `Finding` after the other, so that the command line can
show each as soon as it is known. The extras and their packages are read from
the installed package's own metadata: there is no second list of them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fxpasses.errors import FxpassesError
from fxpasses.relax import tvm_api as T

__all__ = ["Finding", "examine", "extras", "install_command", "missing"]

Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        status: ``missing`` is something optional that is not installed;
            ``failed`` is something that fxpasses cannot work without.
        detail: versions, or what went wrong.
        remedy: the command or the step that mends it; empty when all is well.
    """

    topic: str
    status: Status
    detail: str
    remedy: str = ""


def examine(*, reraise: bool = False) -> Iterator[Finding]:
    """All findings: required parts, targets, extras, and a model from end to end.

    With *reraise*, an error of the end-to-end test is raised and not reported.
    """
    required = [_python(), _torch(), _tvm()]
    yield from required
    usable = all(finding.status == "ok" for finding in required)
    if usable:
        yield _llvm()
        yield _devices()
        yield _compiler()
    for extra, packages in extras().items():
        yield _extra(extra, packages)
    if usable:
        yield _self_test(reraise)


# -- required parts -----------------------------------------------------------------


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Finding:
    import torch

    wanted = _requirement("torch")
    version = torch.__version__
    if not _fits(version, wanted):
        return Finding(
            "PyTorch",
            "failed",
            f"{version}, fxpasses needs torch{wanted}",
            f"python -m pip install 'torch{wanted}'",
        )
    return Finding("PyTorch", "ok", f"{version}, {torch.get_num_threads()} thread(s)")


def _tvm() -> Finding:
    wanted = _requirement("apache-tvm")
    try:
        tvm = T.tvm
    except Exception as error:  # a broken shared library raises OSError, a missing package ImportError
        return Finding(
            "TVM",
            "failed",
            f"{type(error).__name__}: {error}",
            f"python -m pip install 'apache-tvm{wanted}'",
        )
    version = str(tvm.__version__)
    if not _fits(version, wanted):
        return Finding(
            "TVM",
            "failed",
            f"{version}, fxpasses needs apache-tvm{wanted}",
            f"python -m pip install 'apache-tvm{wanted}'",
        )
    return Finding("TVM", "ok", version)


def _llvm() -> Finding:
    if not T.tvm.runtime.enabled("llvm"):
        return Finding(
            "LLVM",
            "failed",
            "this TVM was built without LLVM, so that it cannot compile for the CPU",
            "python -m pip install --force-reinstall apache-tvm",
        )
    codegen = T.target_codegen
    return Finding(
        "LLVM",
        "ok",
        f"{codegen.llvm_version_major()}, this CPU is {codegen.llvm_get_system_cpu()} "
        f"({os.cpu_count()} logical cores)",
    )


def _devices() -> Finding:
    kinds = ("cuda", "rocm", "vulkan", "opencl", "metal")
    built = [kind for kind in kinds if T.tvm.runtime.enabled(kind)]
    present = [kind for kind in built if T.tvm.device(kind, 0).exist]
    detail = f"cpu{''.join(', ' + kind for kind in present)}"
    absent = [kind for kind in kinds if kind not in built]
    if absent:
        detail += f" (this TVM is built without {', '.join(absent)})"
    return Finding("TVM devices", "ok", detail)


def _compiler() -> Finding:
    found = T.find_compiler()
    if found is None:
        return Finding(
            "C compiler",
            "missing",
            "none found; compiled.save links with one",
            "install gcc or clang with the package manager of the system, or name one in CXX",
        )
    return Finding("C compiler", "ok", str(found))


# -- extras -------------------------------------------------------------------------


def extras() -> dict[str, list[str]]:
    """The packages of each extra, from the metadata of the installed fxpasses."""
    found: dict[str, list[str]] = {}
    package = _package()
    for extra in package.metadata.get_all("Provides-Extra") or []:
        found[extra] = []
    for text in package.requires or []:
        match = _EXTRA.fullmatch(text)
        if match is not None and match["name"] != "fxpasses":
            found.setdefault(match["extra"], []).append(match["name"])
    return found


def missing(extra: str) -> list[str]:
    """The packages of *extra* that are not installed."""
    return [name for name in extras()[extra] if not _installed(name)]


def install_command(extra: str) -> str:
    """The command that installs *extra*."""
    return f"python -m pip install 'fxpasses[{extra}]'"


def _extra(extra: str, packages: list[str]) -> Finding:
    absent = [name for name in packages if not _installed(name)]
    if absent:
        return Finding(
            f"extra {extra}", "missing", f"not installed: {', '.join(absent)}", install_command(extra)
        )
    return Finding(f"extra {extra}", "ok", ", ".join(packages))


_EXTRA = re.compile(r"""(?P<name>[\w.-]+).*;\s*extra\s*==\s*['"](?P<extra>[\w-]+)['"]\s*""")


def _package() -> importlib.metadata.Distribution:
    """The installed fxpasses, which knows its requirements."""
    try:
        return importlib.metadata.distribution("fxpasses")
    except importlib.metadata.PackageNotFoundError as error:
        raise FxpassesError(
            "fxpasses runs from a folder and is not installed; install it there with: "
            "python -m pip install -e ."
        ) from error


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _requirement(name: str) -> str:
    """The version range of a required package, such as ``>=2.13,<2.14``."""
    for text in _package().requires or []:
        match = re.fullmatch(rf"{re.escape(name)}\s*(?P<range>[^;]*)", text)
        if match is not None:
            return match["range"].strip()
    raise LookupError(f"{name} is no requirement of fxpasses")


def _fits(version: str, wanted: str) -> bool:
    """Whether a version lies in a range of ``>=`` and ``<`` bounds."""
    have = _numbers(version)
    for bound in wanted.split(","):
        match = re.fullmatch(r"\s*(>=|<)\s*([\d.]+)\s*", bound)
        if match is None:
            raise ValueError(f"a bound is >=VERSION or <VERSION, got {bound!r}")
        if (have >= _numbers(match[2])) != (match[1] == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    if match is None:
        raise ValueError(f"{version!r} is no version")
    return tuple(int(part) for part in match[0].split("."))


# -- a model from end to end ----------------------------------------------------------


def _self_test(reraise: bool) -> Finding:
    stage = "capture"
    try:
        import torch

        import fxpasses as fxp

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
                torch.nn.Linear(4 * 6 * 6, 5),
            ).eval()  # fmt: skip
            x = torch.randn(2, 3, 8, 8)
        program = fxp.capture(model, (x,))
        stage = "canonicalize"
        program = fxp.canonicalize(program)
        stage = "verify"
        fxp.verify(program, "canonical").raise_if_any("the self-test")
        stage = "compile"
        compiled = fxp.compile(program, (x,))
        stage = "compare"
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))
        stage = "save and load"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.fxp"
            compiled.save(path)
            torch.testing.assert_close(fxp.load(path)(x), compiled(x))
    except Exception as error:  # whatever goes wrong is the finding
        if reraise:
            raise
        return Finding(
            "self-test",
            "failed",
            f"{stage}: {type(error).__name__}: {error}",
            "fxpasses doctor --traceback shows where",
        )
    return Finding("self-test", "ok", "captured, canonicalized, compiled, equal to eager, saved and loaded")
