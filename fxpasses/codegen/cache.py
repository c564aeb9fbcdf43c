"""The cache of compiled code on disk: what was built once is linked into a library and loaded the next time.

An entry is one file, named by the hash of all that its code depends on (`key_of`).
It holds code and no weights: these come from the program at hand. Entries are
written to another name first and then renamed, so that any number of processes
may read and write side by side; the last one wins. Those used longest ago go
when all together take more than the limit.

=========================  ======================================================================
``FXPASSES_CACHE``         ``0`` switches it off
``FXPASSES_CACHE_DIR``     where it is; by default ``fxpasses`` in ``XDG_CACHE_HOME`` or ``~/.cache``
``FXPASSES_CACHE_BYTES``   its limit; by default 1 GiB
``FXPASSES_CACHE_SECONDS`` programs that were built in less are not kept; by default 0.05
=========================  ======================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fxpasses.codegen.island import Islands
from fxpasses.codegen.library import Library, open_library
from fxpasses.codegen.target import target_features
from fxpasses.errors import CacheWarning, FxpassesError, source_line
from fxpasses.fingerprint import fingerprint
from fxpasses.program import Program
from fxpasses.relax import tvm_api as T
from fxpasses.relax.checks import Check, reports
from fxpasses.schema import unbound_symbols

__all__ = ["Entry", "clear", "directory", "entries", "is_on", "key_of", "limit", "patience", "read", "write"]

log = logging.getLogger(__name__)

_SUFFIX = ".fxcache"
_MAGIC = b"fxpasses cache 1\n"


@dataclass(frozen=True)
class Entry:
    """What building a program gave.

    Attributes:
        library: the code.
        checks: what its last result tells of; see `CallPlan`.
        islands: what it runs in PyTorch; None where that was forbidden.
    """

    library: Library
    checks: tuple[Check, ...]
    islands: Islands | None


# -- settings ------------------------------------------------------------------------


def is_on() -> bool:
    """Whether programs are kept."""
    return os.environ.get("FXPASSES_CACHE", "1").lower() not in ("0", "off", "false", "no")


def directory() -> Path:
    """Where the entries are; the folder need not be there yet."""
    named = os.environ.get("FXPASSES_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fxpasses"


def limit() -> int:
    """Bytes that all entries together may take."""
    return int(_setting("FXPASSES_CACHE_BYTES", 1 << 30))


def patience() -> float:
    """Seconds that a build must take for its result to be kept."""
    return _setting("FXPASSES_CACHE_SECONDS", 0.05)


def _setting(name: str, default: float) -> float:
    text = os.environ.get(name)
    try:
        return default if text is None else float(text)
    except ValueError as error:
        raise FxpassesError(f"the environment variable {name} holds {text!r}, which is no number") from error


# -- keys ----------------------------------------------------------------------------


def key_of(program: Program, target: Any, *, strict: bool, checked: bool) -> str:
    """The hash of all that the code for *program*, as it is lowered, depends on."""
    facts = {
        "program": fingerprint(program),
        "ranges": [(str(symbol), str(bounds)) for symbol, bounds in program.ranges.items()],
        "lines": list(_lines(program)),
        "strict": strict,
        "checked": checked,
        "target": str(target),
        "features": target_features(target),
        "torch": torch.__version__,
        "tvm": T.tvm.__version__,
        "fxpasses": _source_hash(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _lines(program: Program) -> Iterator[str | None]:
    """The lines of the model that errors of the compiled program name."""
    nodes = list(program.nodes())
    told = any(
        unbound_symbols(val)
        for node in nodes
        for val in torch.utils._pytree.tree_leaves(node.meta.get("val"))
        if isinstance(val, torch.Tensor | torch.SymInt | torch.SymFloat | torch.SymBool)
    )
    for node in nodes:
        if told or reports(node):
            yield source_line(node)


@cache
def _source_hash() -> str:
    """The hash of this package, whose rules decide what the code is."""
    import fxpasses

    digest = hashlib.sha256()
    (root,) = fxpasses.__path__
    for path in sorted(Path(root).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


# -- entries -------------------------------------------------------------------------


def read(key: str) -> Entry | None:
    """The entry under *key*; None where there is none, or, with a `CacheWarning`, a damaged one."""
    path = directory() / f"{key}{_SUFFIX}"
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        entry = _decoded(data)
    except (FxpassesError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        warnings.warn(
            f"the entry {path} of the compile cache is damaged and will be made anew ({error})",
            CacheWarning,
            stacklevel=2,
        )
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it was used now
    return entry


def write(key: str, entry: Entry) -> None:
    """Keep *entry* under *key*, and drop others that the limit leaves no room for."""
    data = _encoded(entry)
    if len(data) > limit():
        return
    folder = directory()
    temporary = folder / f"{key}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, folder / f"{key}{_SUFFIX}")
    except OSError as error:
        log.warning("the compile cache in %s cannot be written: %s", folder, error)
        with contextlib.suppress(OSError):
            temporary.unlink()
        return
    _shrink()


def entries() -> list[tuple[Path, int, float]]:
    """File, bytes and time of last use of each entry, the oldest first."""
    found = []
    for path in directory().glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may remove it meanwhile
            status = path.stat()
            found.append((path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda item: item[2])


def clear() -> int:
    """Remove all entries; how many there were."""
    found = entries()
    for path in [path for path, _, _ in found] + list(directory().glob("*.tmp")):
        path.unlink(missing_ok=True)
    return len(found)


# What a process that died left behind is removed after so many seconds.
_ABANDONED = 3600.0


def _shrink() -> None:
    found = entries()
    excess = sum(size for _, size, _ in found) - limit()
    gone = [path for path in directory().glob("*.tmp") if _age(path) > _ABANDONED]
    for path, size, _ in found:
        if excess <= 0:
            break
        gone.append(path)
        excess -= size
    for path in gone:
        with contextlib.suppress(OSError):
            path.unlink()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _encoded(entry: Entry) -> bytes:
    facts = {
        "checks": [asdict(check) for check in entry.checks],
        "islands": None if entry.islands is None else entry.islands.to_data(),
    }
    body = json.dumps(facts).encode() + b"\n" + entry.library.library_bytes
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decoded(data: bytes) -> Entry:
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin like one")
    checksum, _, body = data[len(_MAGIC) :].partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise ValueError("its checksum is wrong")
    line, _, library = body.partition(b"\n")
    facts = json.loads(line)
    islands = facts["islands"]
    return Entry(
        open_library(library),
        tuple(Check(**row) for row in facts["checks"]),
        None if islands is None else Islands.from_data(islands),
    )
