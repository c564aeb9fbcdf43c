"""What a source does when it runs: the check on doors that do not run it.

Dynamo reads bytecode and `symbolic_trace` passes proxies; both can lose an
effect without a word (a buffer that is assigned, a region of autocast, a branch
on ``isinstance(x, Tensor)``). A run on fake tensors shows what there should be.
"""

from __future__ import annotations

import dis
import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxpasses.ambient import plainly
from fxpasses.capture.make_fx import as_in_export, swapped
from fxpasses.capture.source import Source, register_containers
from fxpasses.capture.unsafe_kernels import UnsafeCall, Watched
from fxpasses.described import AsDescribed, NotDescribedError, run_on_fakes
from fxpasses.errors import CaptureError
from fxpasses.program import Program
from fxpasses.tracing.functions import functions_in_graphs

__all__ = ["Effects", "agree", "agree_in_shape", "check_effects", "effects_for_dynamo", "effects_of"]


@dataclass(frozen=True)
class Effects:
    """Structure and types of the outputs, and what was changed."""

    out_spec: pytree.TreeSpec
    outputs: tuple[Any, ...]
    buffers: frozenset[str]
    inputs: frozenset[int]


def effects_of(source: Source) -> Effects:
    """Run *source* on fake tensors of the example's sizes."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = mode.from_tensor(tensor, static_shapes=True)
        return made[id(tensor)]

    state = {name: fake(tensor) for name, tensor in source.state().items()}
    leaves, spec = pytree.tree_flatten((source.args, source.kwargs))
    leaves = [fake(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    versions = {name: tensor._version for name, tensor in state.items()}
    before = [leaf._version if isinstance(leaf, torch.Tensor) else 0 for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    with mode, as_in_export(source.root), swapped(source.root, state), functions_in_graphs():
        result = source.root(*args, **kwargs)
        assigned = {
            name
            for name, buffer in source.root.named_buffers(remove_duplicate=False)
            if name in state and buffer is not state[name]
        }
    register_containers(result)
    outputs, out_spec = pytree.tree_flatten(result)
    return Effects(
        out_spec,
        tuple(map(_kind, outputs)),
        frozenset(assigned | {name for name, tensor in state.items() if tensor._version != versions[name]}),
        frozenset(
            i
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, torch.Tensor) and leaf._version != before[i]
        ),
    )


def effects_for_dynamo(source: Source) -> Effects | None:
    """`effects_of` for dynamo, which can read code that does not run on fake tensors.

    For such code there is None, and no buffer may be assigned anywhere in it.
    """
    try:
        return effects_of(source)
    except CaptureError:  # no door can hold what the code does
        raise
    except Exception as error:  # code that needs real values
        assigned = sorted(_assigned_buffers(source.root))
        if assigned:
            raise CaptureError(
                f"dynamo loses the new value of a buffer that is assigned (self.{assigned[0]} = ...); change it in "
                f"place: self.{assigned[0]}.copy_(new)"
            ) from error
        return None


def _assigned_buffers(root: torch.nn.Module) -> set[str]:
    """Names of buffers that a method of their module assigns."""
    found: set[str] = set()
    for module in root.modules():
        for cls in type(module).__mro__[: type(module).__mro__.index(torch.nn.Module)]:
            for method in vars(cls).values():
                code = getattr(method, "__code__", None)
                if code is None or getattr(method, "__name__", "") == "__init__":
                    continue
                for instruction in dis.get_instructions(code):
                    if instruction.opname == "STORE_ATTR" and instruction.argval in module._buffers:
                        found.add(instruction.argval)
    return found


def check_effects(program: Program, source: Source, effects: Effects, door: str) -> None:
    """Raise unless *program* does all that the source does.

    Raises:
        CaptureError: outputs differ in structure, dtype or shape, or a change
            of a buffer or an argument is lost.
    """
    if program.out_spec != effects.out_spec:
        raise CaptureError(
            f"{door} gives an output of another structure than the code: {program.out_spec} instead of "
            f"{effects.out_spec}"
        )
    values = [value for role, value in program.outputs if role.kind == "user"]
    for index, (value, expected) in enumerate(zip(values, effects.outputs, strict=True)):
        found = _kind(value.meta.get("val") if isinstance(value, torch.fx.Node) else value)
        if found != expected and None not in (found, expected):
            raise CaptureError(f"{door} gives {found} for output {index}, the code gives {expected}")
    known = {role.target for role, _ in program.outputs if role.kind == "buffer_mutation"}
    state = source.state()
    known_ids = {id(state[name]) for name in known if name in state}
    lost = sorted(name for name in effects.buffers if id(state[name]) not in known_ids)
    if lost:
        raise CaptureError(
            f"{door} loses the new value of {', '.join(lost)}; change a buffer in place "
            "(self.count.add_(1) or self.count.copy_(new)) instead of assigning it"
        )
    changed = {role.target for role, _ in program.outputs if role.kind == "input_mutation"}
    names = [node.meta["role"].target for node in program.inputs]
    missing = [names[i] for i in sorted(effects.inputs) if names[i] not in changed]
    if missing:
        raise CaptureError(f"{door} loses the change of argument {', '.join(missing)}")


def agree(program: Program, source: Source, call: tuple[tuple[Any, ...], dict[str, Any]]) -> bool | None:
    """Whether program and code give the same values and changes for the arguments of *call*.

    Both run for real, on copies of what they change, and draw the same random numbers. They do not agree
    where PyTorch is not safe to run, nor where a value of the program has another shape than its metadata says.
    None where the program raises.
    """

    def copied(tree: Any) -> Any:
        return pytree.tree_map_only(torch.Tensor, torch.clone, tree)

    state = source.state()
    copies = {id(tensor): tensor for tensor in state.values()}
    for name, _ in source.root.named_buffers(remove_duplicate=False):
        copies[id(state[name])] = state[name].detach().clone()
    own = {name: copies[id(tensor)] for name, tensor in state.items()}
    given = copied(call)
    try:
        # where torch's graph modules print their errors, too; the code comes after: it makes the program's calls
        with torch.no_grad(), torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()), Watched():
            found, changes = _run_checked(program, copied(call))
    except (NotDescribedError, UnsafeCall):
        return False
    except Exception:  # of values, or of sizes
        return None
    try:
        # without torch's kernels in Python for recurrent layers, which are not safe for empty tensors
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
            as_in_export(source.root),
            torch._C._DisablePythonDispatcher(),
            swapped(source.root, own),
        ):
            expected = source.root(*given[0], **given[1])
            after = dict(source.root.named_buffers(remove_duplicate=False))
    except Exception:  # the program does not refuse this size
        return False
    names = [node.meta["role"].target for node in program.inputs]
    arguments = dict(zip(names, pytree.tree_leaves(given), strict=True))
    values, spec = pytree.tree_flatten(found)
    expected_values, expected_spec = pytree.tree_flatten(expected)
    values += changes.values()
    expected_values += [after.get(name, arguments.get(name)) for name in changes]
    return spec == expected_spec and all(map(_close, values, expected_values))


def agree_in_shape(
    program: Program, source: Source, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> bool | None:
    """`agree` for dtypes and shapes alone, which needs no values; None where these are refused, too."""
    from fxpasses.capture.exported import quiet

    try:
        with quiet():
            effects = effects_of(source.replace(args=call[0], kwargs=call[1]))
            sizes = program.signature.check(program.signature.flatten(*call))
            found, _ = program.results(run_on_fakes(program, sizes))
    except NotDescribedError:
        return False
    except Exception:  # refused for its shapes, or because of values that fake tensors do not have
        return None
    values, spec = pytree.tree_flatten(found)
    kinds = zip(map(_kind, values), effects.outputs, strict=False)
    return spec == effects.out_spec and all(kind == other or None in (kind, other) for kind, other in kinds)


def _run_checked(
    program: Program, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[Any, dict[str, torch.Tensor]]:
    leaves = program.signature.flatten(*call)
    sizes = program.signature.check(leaves)
    with plainly():
        return program.results(program.execute(leaves, AsDescribed(program.graph_module, sizes).run))


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.is_floating_point or a.dtype.is_complex:
        accuracy = torch.finfo(a.dtype).eps
        return torch.allclose(a, b, rtol=100 * accuracy, atol=100 * accuracy, equal_nan=True)
    return torch.equal(a, b)


def _kind(value: Any) -> Any:
    """dtype and shape of a tensor, a number or constant; None where a size is not known."""
    if isinstance(value, torch.Tensor):
        sizes = tuple(_hint(size) for size in value.shape)
        return None if None in sizes else (value.dtype, sizes)
    return _hint(value)


def _hint(size: Any) -> Any:
    if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
        return size.node.hint if size.node.has_hint() else None
    return size
