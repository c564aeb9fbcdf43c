"""Code as a shared library: linked from what TVM built, and loaded from its bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from fxpasses.errors import ArtifactError
from fxpasses.relax import tvm_api as T

__all__ = ["Library", "can_link", "link", "open_library"]


class Library:
    """A loaded shared library, and its bytes in case the program is saved."""

    def __init__(self, data: bytes, module: Any) -> None:
        self.library_bytes = data
        self.module = module

    def jit(self) -> Any:
        """The module, as an executable of TVM gives it."""
        return self.module


def can_link() -> bool:
    """Whether there is a C compiler that links libraries."""
    return T.find_compiler() is not None


def link(executable: Any) -> bytes:
    """*executable* as a shared library.

    Raises:
        ArtifactError: no C compiler is there to link it, or it fails.
    """
    data = getattr(executable, "library_bytes", None)
    if data is not None:
        return data
    if not can_link():
        raise ArtifactError(
            "saving links the code into a shared library, and no C compiler was found; install gcc or "
            "clang, or name one in the environment variable CXX"
        )
    with tempfile.TemporaryDirectory(prefix="fxpasses-") as folder:
        file = os.path.join(folder, "library.so")
        try:
            executable.export_library(file)
        except (RuntimeError, OSError, ValueError) as error:
            raise ArtifactError(f"the C compiler could not link the program: {error}") from error
        return Path(file).read_bytes()


def open_library(data: bytes) -> Library:
    """Load a shared library.

    Raises:
        ArtifactError: the system refuses it.
    """
    # Loading maps the file into memory, after which it may go.
    folder = tempfile.mkdtemp(prefix="fxpasses-")
    try:
        file = os.path.join(folder, "library.so")
        Path(file).write_bytes(data)
        try:
            module = T.tvm.runtime.load_module(file)
        except (RuntimeError, OSError, ValueError) as error:
            raise ArtifactError(f"the library of the program cannot be loaded: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Library(data, module)
