"""Save a compiled program in one file, and load it again.

The file is a zip archive, not compressed, of plain data and one shared library:

========================  ==========================================================
``manifest.json``         format version, versions of torch and TVM, the machine it
                          was built for, the SHA-256 of every other member
``signature.json``        names, dtypes, shapes and structure of a call
``plan.json``             how a call becomes a call of the library; islands
``library.so``            the code
``weights.safetensors``   weights, and mutable buffers as they were when saved
========================  ==========================================================

Nothing is pickled. The library is code, so load only files that you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import uuid
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from fxpasses.codegen.island import Islands
from fxpasses.codegen.library import link, open_library
from fxpasses.codegen.plan import CallPlan
from fxpasses.codegen.runtime import Compiled, own_tensors
from fxpasses.codegen.target import missing_features, target_features
from fxpasses.errors import ArtifactError, IslandWarning
from fxpasses.relax import tvm_api as T
from fxpasses.signature import Signature

__all__ = ["FORMAT_VERSION", "load", "save"]

FORMAT_VERSION = 4

_FORMAT = "fxpasses compiled program"
_MANIFEST = "manifest.json"
_MEMBERS = ("signature.json", "plan.json", "library.so", "weights.safetensors")


def save(compiled: Compiled, path: str | os.PathLike[str]) -> None:
    """Write *compiled* to *path*, whole or not at all.

    Raises:
        ArtifactError: a container type of the arguments or results cannot be
            described as data, or no C compiler is there to link the library.
    """
    from safetensors.torch import save as save_tensors

    stored, names = _distinct(compiled._tensors)
    plan = {
        "call": compiled._plan.to_data(),
        "tensors": names,
        "islands": None if compiled.islands is None else compiled.islands.to_data(),
    }
    members = {
        "signature.json": compiled.signature.to_json().encode(),
        "plan.json": json.dumps(plan).encode(),
        "library.so": link(compiled._executable),
        "weights.safetensors": save_tensors(stored),
    }
    manifest = {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        **_platform(),
        "torch": torch.__version__,
        "target": str(compiled.target),
        "features": target_features(compiled.target),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            for name, data in members.items():
                archive.writestr(name, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> Compiled:
    """The compiled program in *path*, ready to be called; nothing is traced or compiled.

    The file holds machine code: load only files that you trust. An `IslandWarning`
    names the operators that run in PyTorch, where there are any.

    Raises:
        ArtifactError: the file is damaged, foreign, of another version, or built
            for another machine; the message says which, and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    manifest, members = _read(path)
    _check_platform(path, manifest)
    from safetensors.torch import load as load_tensors

    try:
        plan = json.loads(members["plan.json"])
        stored = load_tensors(members["weights.safetensors"])
        tensors = {name: stored[where] for name, where in plan["tensors"].items()}
        call = CallPlan.from_data(plan["call"])
        signature = Signature.from_json(members["signature.json"].decode())
        islands = None if plan["islands"] is None else Islands.from_data(plan["islands"])
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise ArtifactError(
            f"{path} holds data that this fxpasses cannot read: {error!r}; {_AGAIN}"
        ) from error
    if islands is not None:
        warnings.warn(
            f"{path}: {len(islands.ops)} of its operators run in PyTorch: {', '.join(islands.ops)}",
            IslandWarning,
            stacklevel=2,
        )
    try:
        library = open_library(members["library.so"])
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; {_AGAIN}") from error
    return Compiled(
        signature,
        call,
        library,
        own_tensors(tensors, (), call),
        target=T.tvm.target.Target(json.loads(manifest["target"])),
        islands=islands,
    )


_AGAIN = "compile and save the program again"

# What reading a zip file raises where a bit of it has changed: a place before its start, another
# compression, a password, a text that is none.
_DAMAGE = (KeyError, ValueError, EOFError, OSError, OverflowError, RuntimeError, struct.error, zlib.error)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    foreign = f"{path} is no program saved by fxpasses"
    with open(path, "rb") as file:
        begins_like_zip = file.read(2) == b"PK"
        try:
            with zipfile.ZipFile(file) as archive:
                if _MANIFEST not in archive.namelist():
                    raise ArtifactError(
                        f"{foreign}: it lacks {_MANIFEST}; give the file that Compiled.save wrote"
                    )
                manifest = json.loads(archive.read(_MANIFEST))
                if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
                    raise ArtifactError(
                        f"{foreign}: its manifest is of another kind; give the file that Compiled.save wrote"
                    )
                if manifest.get("version") != FORMAT_VERSION:
                    raise ArtifactError(
                        f"{path} has format version {manifest.get('version')}, this fxpasses reads version "
                        f"{FORMAT_VERSION}; {_AGAIN}"
                    )
                members = {name: archive.read(name) for name in _MEMBERS}
        except zipfile.BadZipFile as error:
            problem = f"{path} is damaged or cut short ({error})" if begins_like_zip else foreign
            raise ArtifactError(f"{problem}; copy the file again, or {_AGAIN}") from error
        except _DAMAGE as error:
            raise ArtifactError(f"{path} is damaged ({error}); copy the file again, or {_AGAIN}") from error
    for name, data in members.items():
        if hashlib.sha256(data).hexdigest() != manifest.get("sha256", {}).get(name):
            raise ArtifactError(
                f"{path} is damaged: {name} does not have the checksum that the manifest says; "
                f"copy the file again, or {_AGAIN}"
            )
    return manifest, members


def _platform() -> dict[str, str]:
    return {
        "tvm": ".".join(T.tvm.__version__.split(".")[:2]),
        "system": platform.system(),
        "machine": platform.machine(),
    }


def _check_platform(path: Path, manifest: dict[str, Any]) -> None:
    for key, here in _platform().items():
        there = manifest.get(key)
        if there != here:
            what = {"tvm": "TVM version", "system": "operating system", "machine": "CPU architecture"}[key]
            raise ArtifactError(f"{path} was built for {what} {there}, this is {here}; {_AGAIN} here")
    missing = missing_features(manifest.get("features", []))
    if missing:
        raise ArtifactError(
            f"{path} was built for the target {manifest.get('target')}, whose instructions "
            f"{', '.join(missing)} this machine lacks; {_AGAIN} here, or with a target that both have"
        )


def _distinct(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, and for each name the name that its tensor is stored under."""
    stored: dict[str, torch.Tensor] = {}
    first: dict[int, str] = {}
    names = {}
    for name, tensor in tensors.items():
        names[name] = first.setdefault(id(tensor), name)
        stored[names[name]] = tensor
    return stored, names
