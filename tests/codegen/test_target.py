"""What a user may write for a target."""

from __future__ import annotations

import pytest

from fxpasses.codegen.target import host_target, resolve_target
from fxpasses.errors import FxpassesError


@pytest.mark.parametrize("target", ["llvm", "llvm -mcpu=native"])
def test_the_cpu_at_hand(target):
    assert resolve_target(target).same_as(host_target())


@pytest.mark.parametrize(
    "target", ["llvm -mcpu=x86-64 -mattr=+sse2", '{"kind": "llvm", "mcpu": "x86-64", "mattr": ["+sse2"]}']
)
def test_flags_and_json(target):
    resolved = resolve_target(target)
    assert resolved.attrs["mcpu"] == "x86-64"
    assert list(resolved.attrs["mattr"]) == ["+sse2"]


def test_what_is_no_target_is_refused():
    with pytest.raises(FxpassesError, match="'llvm -O3' is no target that TVM knows"):
        resolve_target("llvm -O3")
    with pytest.raises(FxpassesError, match="'cudaa' is no target"):
        resolve_target("cudaa")
    with pytest.raises(FxpassesError, match="has kind 'cuda'"):
        resolve_target("cuda")
