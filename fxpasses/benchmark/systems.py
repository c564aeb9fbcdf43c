"""The systems that `bench` compares: each makes a callable of a model and the arguments of a call."""

from __future__ import annotations

import copy
import pkgutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["CACHED", "IMPORTS", "SYSTEMS"]

Prepare = Callable[[Any, tuple[Any, ...], dict[str, Any], int], Callable[[], Any]]
"""Of model, args, kwargs and threads, the function that runs one call."""


def _fxpasses(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int) -> Callable[[], Any]:
    import fxpasses

    compiled = fxpasses.compile(model, args, kwargs)
    return lambda: compiled(*args, **kwargs)


def _eager(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int) -> Callable[[], Any]:
    return lambda: model(*args, **kwargs)


def _eager_channels_last(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int
) -> Callable[[], Any]:
    def last(value: Any) -> Any:
        is_image = isinstance(value, torch.Tensor) and value.dim() == 4
        return value.to(memory_format=torch.channels_last) if is_image else value

    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    args, kwargs = pytree.tree_map(last, (args, kwargs))
    return lambda: model(*args, **kwargs)


def _inductor(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int) -> Callable[[], Any]:
    import torch._dynamo.config
    import torch._inductor.config as config

    config.freezing = True
    torch._dynamo.config.allow_rnn = True  # it leaves an LSTM to eager PyTorch otherwise
    compiled = torch.compile(model)
    return lambda: compiled(*args, **kwargs)


def _onnx_file(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    torch.onnx.export(model, args, path, kwargs=kwargs, dynamo=True, verbose=False)
    return path


def _arrays(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [leaf.numpy() for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]


def _onnxruntime(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int
) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = _onnx_file(model, args, kwargs, folder)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = dict(zip(names, _arrays(args, kwargs), strict=True))
    return lambda: session.run(None, feed)


def _openvino(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int) -> Callable[[], Any]:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        converted = openvino.convert_model(_onnx_file(model, args, kwargs, folder))
        request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()
    arrays = _arrays(args, kwargs)
    return lambda: [*request.infer(arrays).values()]


def _tvm(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], threads: int) -> Callable[[], Any]:
    """TVM's own importer and its default pipeline."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    from fxpasses.codegen.target import host_target
    from fxpasses.relax import tvm_api as T

    mod = from_exported_program(torch.export.export(model, args, kwargs))
    machine = relax.VirtualMachine(tvm.compile(mod, target=host_target()), tvm.cpu())
    T.config_threadpool(1, threads)
    arrays = [tvm.runtime.tensor(array) for array in _arrays(args, kwargs)]
    return lambda: machine["main"](*arrays)


CACHED = "fxpasses-cached"
"""fxpasses once more, in a process that finds in the cache what the one before has compiled."""

SYSTEMS: dict[str, Prepare] = {
    "fxpasses": _fxpasses,
    "eager": _eager,
    "eager-channels-last": _eager_channels_last,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tvm": _tvm,
    CACHED: _fxpasses,
}
"""By name; inductor is with freezing, OpenVINO in float32, TVM with its own importer and default pipeline."""


def _below(*packages: str) -> tuple[str, ...]:
    """The modules of *packages*, which are without packages of their own."""
    folders = [(name, Path(__file__).parents[1].joinpath(*name.split(".")[1:])) for name in packages]
    return tuple(
        f"{name}.{module.name}" for name, at in folders for module in pkgutil.iter_modules([str(at)])
    )


# What torch.export imports, and with it dynamo, when it is first called.
_EXPORT = (
    "torch.export._trace",
    *(f"torch._export.passes.replace_{name}_with_hop_pass" for name in ("autocast", "set_grad")),
    "torch._export.passes._node_metadata_hook",
    *("torch._inductor.fx_passes.dedupe_symint_uses", "torch._inductor.compiler_bisector"),
    "torch._inductor.sizevars",
    "torch._subclasses.schema_check_mode",
    "torch.fx.experimental.validator",
    "sympy.tensor.tensor",  # by the first sum of two sizes
)
_ONNX = (*_EXPORT, "torch.onnx", "onnx", "onnxscript")

_FXPASSES = (
    *("fxpasses.codegen.compile", "fxpasses.passes", "fxpasses.capture.exported", "fxpasses.capture.reasons"),
    *_below("fxpasses.relax.ops", "fxpasses.passes.decompositions", "fxpasses.passes.complexes"),
    *("tvm", "tvm.relax", "tvm.contrib.tvmjs", *_EXPORT),
)

IMPORTS: dict[str, tuple[str, ...]] = {
    "fxpasses": _FXPASSES,
    CACHED: _FXPASSES,
    "inductor": ("torch._dynamo", "torch._inductor.compile_fx"),
    "onnxruntime": (*_ONNX, "onnxruntime"),
    "openvino": (*_ONNX, "openvino"),
    "tvm": ("tvm", "tvm.relax.frontend.torch", *_EXPORT),
}
"""What each system imports, which is no part of the time that it takes to compile, or of its memory."""
