"""The door of `torch.export`, which all other doors lead to in the end."""

from __future__ import annotations

import io
import linecache
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.utils import _pytree as pytree

from fxpasses.capture.plain_state import refuse_lost_state, watched
from fxpasses.capture.replay import has_regions, replay_graph
from fxpasses.capture.shapes import Captured
from fxpasses.capture.source import Source
from fxpasses.errors import CaptureError
from fxpasses.interop import guards_of, unguarded
from fxpasses.program import Input, Program
from fxpasses.tracing import mended_operators
from fxpasses.tracing.functions import functions_in_graphs
from fxpasses.tracing.stack_traces import quick_stack_traces

__all__ = ["by_export", "export", "inference_tracing", "load_pt2", "quiet", "with_traced_constants"]


def by_export(source: Source) -> Captured:
    """Capture with `torch.export.export`, which runs the Python code on fake tensors."""
    if not isinstance(source.root, fx.GraphModule):
        return export(source)
    captured = export(replay_graph(source) if has_regions(source.root) else source)
    program = with_traced_constants(captured.program)
    return Captured(program.replace(out_spec=_plain_containers(program.out_spec)), captured.guards)


def export(source: Source, *, strict: bool = False) -> Captured:
    """Export a module, and make a `Program` of the result."""
    if strict:
        return _export(source, strict=True)
    with watched(source.root) as state:
        captured = _export(source)
    if state.changes:
        refuse_lost_state(captured.program, state, lambda: _export(source).program)
    return captured


def _export(source: Source, *, strict: bool = False) -> Captured:
    contexts = [_forgotten(), inference_tracing(), mended_operators(), quiet(), quick_stack_traces()]
    if not strict:  # dynamo would read these, as it would a hook, as code of the model's
        contexts += [functions_in_graphs(), _output_containers(source.root)]
        contexts += [_use_lazy_graph_module(True)]  # nobody reads the code of the graphs on the way
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        exported = torch.export.export(
            source.root,
            source.args,
            source.kwargs,
            dynamic_shapes=source.dynamic_shapes,
            strict=strict,
        )
        program = unguarded(exported)
    return Captured(program, guards_of(exported))


@contextmanager
def _forgotten() -> Iterator[None]:
    """Drop what torch remembers of a trace when it is done: the last graph, and the text of files and of graphs."""
    from torch.fx.experimental import proxy_tensor
    from torch.fx.graph_module import _loader

    files, graphs = set(linecache.cache), set(_loader.eval_cache)
    try:
        yield
    finally:
        proxy_tensor._FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT.clear()
        for name in linecache.cache.keys() - files:
            if os.path.isfile(name):  # else nobody could read it again
                linecache.cache.pop(name, None)
        for name in _loader.eval_cache.keys() - graphs:  # of graphs on the way to the one that is returned
            _loader.eval_cache.pop(name, None)
            linecache.cache.pop(name, None)


def load_pt2(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    """The `ExportedProgram` in a ``.pt2`` file.

    Raises:
        CaptureError: no such file, or no ExportedProgram in it.
    """
    file = Path(path)
    if not file.is_file():
        raise CaptureError(
            f"there is no file {str(file)!r}; give the path of a .pt2 that torch.export.save wrote"
        )
    try:
        return torch.export.load(file)
    except Exception as error:
        raise CaptureError(
            f"{str(file)!r} cannot be read as a .pt2 of torch {torch.__version__}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
            "Write it again with torch.export.save or Program.save; a file with operators of your own needs their "
            "registration imported first"
        ) from error


def with_traced_constants(program: Program) -> Program:
    """Give the ``_tensor_constant0`` of fx and make_fx the role that they have."""
    mutated = program.mutations
    for node in program.placeholders:
        role = node.meta["role"]
        name = role.target.rpartition(".")[2]
        digits = name.removeprefix("_tensor_constant")
        if role.kind == "buffer" and digits != name and digits.isdigit() and role.target not in mutated:
            node.meta["role"] = Input("constant", role.target)
    return program


def _plain_containers(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """*spec* with dicts and lists in the place of fx's immutable ones, which a graph returns."""
    from torch.fx.immutable_collections import immutable_dict, immutable_list

    if spec.is_leaf():
        return spec
    plain = {immutable_dict: dict, immutable_list: list}.get(spec.type, spec.type)
    return pytree.TreeSpec(plain, spec.context, [_plain_containers(child) for child in spec.children()])


@contextmanager
def inference_tracing() -> Iterator[None]:
    """What all doors trace under: no gradients, and no fused kernels chosen by Python code.

    Without gradients ``torch.no_grad()`` in a model leaves no trace, so that all
    doors see one graph.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _output_containers(root: torch.nn.Module) -> Iterator[None]:
    """Let a model return dataclasses and caches that nobody has registered with torch."""
    from fxpasses.capture.source import register_containers

    def hook(module: Any, args: Any, output: Any) -> None:
        register_containers(output)

    handle = root.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


_LOGGERS = (
    "torch._guards",
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
    "torch.fx.experimental.symbolic_shapes",
    "torch._export.converter",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what torch logs and prints when a trace fails: the error says it all."""
    text = io.StringIO()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    states = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with redirect_stderr(text), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch of itself
            warnings.filterwarnings("ignore", message=".*_flat_weights", category=UserWarning)  # and its LSTM
            yield
        sys.stderr.write(text.getvalue())
    finally:
        for logger, state in zip(loggers, states, strict=True):
            logger.disabled = state
