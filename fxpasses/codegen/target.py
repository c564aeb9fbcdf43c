"""Targets: which CPU the code is for, and whether this machine is one of them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fxpasses.errors import FxpassesError
from fxpasses.relax import tvm_api as T

__all__ = ["CpuInfo", "host_target", "missing_features", "resolve_target", "target_features", "vector_bytes"]

# Instruction sets that a compiler uses on its own account: LLVM's name, and the
# kernel's name of the same thing in /proc/cpuinfo.
_FEATURES = {
    "avx": "avx",
    "avx2": "avx2",
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512f": "avx512f",
    "avx512fp16": "avx512_fp16",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "gfni": "gfni",
    "lzcnt": "abm",
    "movbe": "movbe",
    "popcnt": "popcnt",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
}


@cache
def host_target() -> Any:
    """The CPU of this machine, with its vector instructions.

    A hypervisor may hide instructions that the CPU's name promises; those are
    switched off.
    """
    codegen = T.target_codegen
    description: dict[str, Any] = {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}
    promised = target_features(T.tvm.target.Target(description))
    attributes = [f"-{name}" for name in missing_features(promised)]
    if "avx512f" in promised and "-avx512f" not in attributes:
        attributes.append("-prefer-256-bit")
    if attributes:
        description["mattr"] = attributes
    return T.tvm.target.Target(description)


def resolve_target(target: Any) -> Any:
    """The TVM target that a user named; plain ``"llvm"`` is the CPU of this machine.

    A dict, JSON text, or the older form ``"llvm -mcpu=skylake -mattr=+avx512f,-gfni"``.

    Raises:
        FxpassesError: no CPU target, or one that this machine cannot run.
    """
    if target in ("llvm", "llvm -mcpu=native"):
        return host_target()
    try:
        resolved = T.tvm.target.Target(_from_flags(target) if isinstance(target, str) else target)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FxpassesError(f"{target!r} is no target that TVM knows: {error}") from error
    if resolved.kind.name != "llvm":
        raise FxpassesError(
            f'fxpasses builds for CPUs; target {target!r} has kind {resolved.kind.name!r}, use target="llvm"'
        )
    missing = missing_features(target_features(resolved))
    if missing:
        raise FxpassesError(
            f'target {target!r} uses {", ".join(missing)}, which this machine lacks; use target="llvm" '
            "for the CPU at hand"
        )
    return resolved


def _from_flags(target: str) -> Any:
    """``{"kind": "llvm", "mcpu": "skylake"}`` for ``"llvm -mcpu=skylake"``, which TVM has ceased to read."""
    kind, *flags = target.split()
    options = dict(flag.removeprefix("-").partition("=")[::2] for flag in flags)
    if not flags or not all(flag.startswith("-") and "=" in flag for flag in flags):
        return target
    return {"kind": kind, **{k: v.split(",") if k == "mattr" else v for k, v in options.items()}}


def target_features(target: Any) -> list[str]:
    """The vector instruction sets that code for *target* may use, by LLVM's names."""
    return sorted(_llvm_features(str(target)) & _FEATURES.keys())


@cache
def _llvm_features(target: str) -> frozenset[str]:
    """All that LLVM has for *target*, as JSON; the schedules ask for each kernel, and it takes 0.15 ms to tell."""
    return frozenset(map(str, T.target_codegen.llvm_get_cpu_features(T.tvm.target.Target(target))))


def missing_features(features: list[str]) -> list[str]:
    """Those of *features* that this machine lacks."""
    flags = _cpu_flags()
    if flags is None:
        return []
    return [name for name in features if _FEATURES.get(name, name) not in flags]


def vector_bytes(target: Any) -> int:
    """Bytes in a vector register of *target*."""
    features = _llvm_features(str(target))
    if "avx512f" in features:
        return 64
    return 32 if "avx" in features else 16


@dataclass(frozen=True)
class CpuInfo:
    """What the rules need to know of a CPU: bytes in a vector register, and how many there are."""

    vector_bytes: int
    registers: int

    @staticmethod
    def of(target: Any) -> CpuInfo:
        wide = vector_bytes(target)
        known = "avx512f" in target_features(target) or not target_features(target)
        return CpuInfo(wide, 32 if known and wide != 32 else 16)

    def lanes(self, dtype: Any) -> int:
        """Values of *dtype* in a register."""
        return max(self.vector_bytes * 8 // max(dtype.bits, 8), 1)


@cache
def _cpu_flags() -> frozenset[str] | None:
    """The CPU flags that the kernel reports, None where it reports none."""
    path = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not path.exists():
        return None
    for line in path.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return None
