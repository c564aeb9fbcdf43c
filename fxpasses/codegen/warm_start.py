"""`WarmStart`: a model that was compiled before is neither captured nor lowered again.

An entry of the cache holds what is needed to call the code of a program: its
signature, its plan, and how its weights are made of the model's (`Recipe`). It
is found by the log of the calls that the model makes (`call_log`) and by the
values of its weights, which the passes look at. Code is an entry of its own.

What the log cannot tell apart, or cannot tell at all, is compiled as usual.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from fxpasses.capture import is_ready_made
from fxpasses.capture.call_log import CallLog, call_log, content
from fxpasses.capture.source import make_source
from fxpasses.codegen import cache
from fxpasses.codegen.plan import CallPlan
from fxpasses.codegen.recipe import Listener, Recipe
from fxpasses.codegen.runtime import Compiled, own_tensors
from fxpasses.errors import ArtifactError, InputError
from fxpasses.program import Program
from fxpasses.signature import Signature

__all__ = ["WarmStart"]

log = logging.getLogger(__name__)

_LARGEST_CONSTANTS = 1 << 20
"""An entry holds no more bytes of tensors that are none of the model's."""


@dataclass
class WarmStart:
    """The place in the cache for a model and its arguments.

    Attributes:
        key: of the entry.
        calls: what the model does.
        state: the model's tensors.
        target: of TVM.
    """

    key: str
    calls: CallLog
    state: dict[str, torch.Tensor]
    target: Any
    _listener: Listener | None = field(default=None, repr=False)

    @staticmethod
    def of(model: Any, args: Any, kwargs: Any, target: Any, **options: Any) -> WarmStart | None:
        """The place for *model*; None where there can be no entry. *options* are those of the compilation."""
        if is_ready_made(model):
            return None
        try:
            source = make_source(model, args, kwargs)
        except InputError:  # the capture raises it again
            return None
        calls = call_log(source)
        if calls is None:
            return None
        state = source.state()
        weights = {id(tensor): tensor for tensor in state.values()}
        facts = {**options, "calls": calls.digest, "weights": list(map(content, weights.values()))}
        return WarmStart(cache.name_of("model", facts, target), calls, state, target)

    def read(self) -> Compiled | None:
        """The compiled program, if there is an entry for it."""
        found = cache.read(self.key, self._decoded)
        if found is None:
            return None
        self.calls.tell()
        return found

    def _decoded(self, facts: cache.Facts, body: bytes) -> Compiled | None:
        from safetensors.torch import load as load_tensors

        entry = cache.read(facts["code"], cache.Entry.from_data)
        if entry is None:
            return None
        constants = load_tensors(body)
        inputs = [constants[name] if held else self.state[name].detach() for name, held in facts["inputs"]]
        plan = CallPlan.from_data(facts["plan"])
        tensors = Recipe.from_data(facts["recipe"]).run(inputs)
        return Compiled(
            Signature.from_json(facts["signature"]),
            plan,
            entry.library,
            own_tensors({name: tensors[name] for name in facts["tensors"]}, inputs, plan),
            target=self.target,
            islands=entry.islands,
        )

    def listening(self, captured: Program) -> Listener:
        """The context in which passes turn *captured* into the program that is built."""
        self._listener = Listener(captured.tensors.values())
        return self._listener

    def write(self, captured: Program, optimized: Program, compiled: Compiled, code: str) -> None:
        """Keep *compiled*, whose code is the entry *code*; no harm is done where that cannot be."""
        from safetensors.torch import save as save_tensors

        assert self._listener is not None
        try:
            recipe = self._listener.recipe(optimized.tensors)
            signature = compiled.signature.to_json()
        except (KeyError, ArtifactError) as error:
            log.debug("no warm start is kept: %s", error)
            return
        facts: dict[str, Any] = {
            "code": code,
            "signature": signature,
            "plan": compiled._plan.to_data(),
            "tensors": list(optimized.tensors),
            "recipe": recipe.to_data(),
            "inputs": [],
        }
        names = [*captured.tensors, *(f"constant {i}" for i in range(len(self._listener.inputs)))]
        constants = {}
        for name, tensor in zip(names, self._listener.inputs, strict=False):
            held = not self._has(name, tensor)
            facts["inputs"].append((name, held))
            if held:
                constants[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        if sum(tensor.nbytes for tensor in constants.values()) > _LARGEST_CONSTANTS:
            log.debug("no warm start is kept: the program has large constants of its own")
            return
        cache.write(self.key, facts, save_tensors(constants))

    def _has(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether *tensor* is the model's under *name*, or a copy of it."""
        own = self.state.get(name)
        if own is None or _layout(own) != _layout(tensor):
            return False
        return own.data_ptr() == tensor.data_ptr() or torch.equal(own, tensor)


def _layout(tensor: torch.Tensor) -> Any:
    return tensor.dtype, tensor.shape, tensor.stride()
