"""The cache of compiled code on disk: what was built once is linked into a library and loaded the next time.

An entry is one file, named by its kind and the hash of all that it depends on.
``code`` is what a program was built into (`key_of`), ``model`` is how a model
becomes a call of it (`fxpasses.codegen.warm_start`). None holds weights: these
come from the model at hand. Entries are written to another name first and then
renamed, so that any number of processes may read and write side by side; the
last one wins. Those used longest ago go when all together take more than the limit.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

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

__all__ = [
    "Entry",
    "clear",
    "directory",
    "entries",
    "is_on",
    "key_of",
    "limit",
    "name_of",
    "patience",
    "read",
    "write",
]

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")

_SUFFIX = ".fxcache"
_MAGIC = b"fxpasses cache 1\n"


Facts = dict[str, Any]
"""What an entry tells, for JSON."""


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

    def to_data(self) -> tuple[Facts, bytes]:
        """What `write` takes."""
        facts = {
            "checks": [asdict(check) for check in self.checks],
            "islands": None if self.islands is None else self.islands.to_data(),
        }
        return facts, self.library.library_bytes

    @staticmethod
    def from_data(facts: Facts, body: bytes) -> Entry:
        """Inverse of `to_data`."""
        islands = facts["islands"]
        return Entry(
            open_library(body),
            tuple(Check(**row) for row in facts["checks"]),
            None if islands is None else Islands.from_data(islands),
        )


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
    return name_of(
        "code",
        {
            "program": fingerprint(program),
            "ranges": [(str(symbol), str(bounds)) for symbol, bounds in program.ranges.items()],
            "lines": list(_lines(program)),
            "strict": strict,
            "checked": checked,
        },
        target,
    )


def name_of(kind: str, facts: Facts, target: Any) -> str:
    """The key of an entry: its kind, and the hash of *facts*, the target and the versions of all that makes code."""
    surroundings = {
        "target": str(target),
        "features": target_features(target),
        "torch": torch.__version__,
        "tvm": T.tvm.__version__,
        "fxpasses": _source_hash(),
    }
    text = json.dumps({**facts, **surroundings}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()}"


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


def read(key: str, decode: Callable[[Facts, bytes], _Found]) -> _Found | None:
    """What *decode* makes of the entry under *key*; None where there is none.

    A damaged one gives None as well, with a `CacheWarning`.
    """
    path = directory() / f"{key}{_SUFFIX}"
    try:
        data = path.read_bytes()
    except OSError:
        return None
    try:
        found = decode(*_decoded(data))
    except (FxpassesError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        warnings.warn(
            f"the entry {path} of the compile cache is damaged and will be made anew ({error})",
            CacheWarning,
            stacklevel=2,
        )
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # it was used now
    return found


def write(key: str, facts: Facts, body: bytes) -> None:
    """Keep an entry under *key*, and drop others that the limit leaves no room for."""
    data = _encoded(facts, body)
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


def _encoded(facts: Facts, body: bytes) -> bytes:
    data = json.dumps(facts).encode() + b"\n" + body
    return _MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _decoded(data: bytes) -> tuple[Facts, bytes]:
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin like one")
    checksum, _, rest = data[len(_MAGIC) :].partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != checksum:
        raise ValueError("its checksum is wrong")
    line, _, body = rest.partition(b"\n")
    return json.loads(line), body
