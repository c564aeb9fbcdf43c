"""The one door to TVM: every Python name of TVM that moves between releases.

Attributes are imported at first use, so that importing this module, and with
it the lowering table, does not import TVM.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "tvm": "tvm",
    "relax": "tvm.relax",
    "te": "tvm.te",
    "tirx": "tvm.tirx",
    "topi": "tvm.topi",
    "s_tir": "tvm.s_tir",
    "ir": "tvm.ir",
    "ir_builder": "tvm.script.ir_builder",
    "tvm_ffi": "tvm_ffi",
    "target_codegen": "tvm.target.codegen",
}


def __getattr__(name: str) -> Any:
    if name == "TensorType":
        value = importlib.import_module("tvm.relax").TensorType
    elif name in ("Analyzer", "detect_linear_equation"):
        value = _arithmetic(name)
    elif name == "BufferType":
        value = importlib.import_module("tvm.tirx.buffer").BufferType
    elif name == "ScheduleError":
        value = importlib.import_module("tvm.s_tir").ScheduleError
    elif name == "block_realize":
        value = importlib.import_module("tvm").get_global_func("s_tir.schedule.GetSBlockRealize")
    elif name == "InternalError":
        value = importlib.import_module("tvm").error.InternalError
    elif name == "register_tir_pipeline":
        value = importlib.import_module("tvm.tirx.compilation_pipeline").register_tir_pipeline
    elif name == "config_threadpool":
        value = importlib.import_module("tvm").get_global_func("runtime.config_threadpool")
    elif name == "find_compiler":
        value = importlib.import_module("tvm.support.cc").get_cc
    elif name in _MODULES:
        try:
            value = importlib.import_module(_MODULES[name])
        except ImportError as error:
            raise ImportError(
                f"{_MODULES[name]} cannot be imported ({error}); lowering needs TVM: pip install apache-tvm"
            ) from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _arithmetic(name: str) -> Any:
    tvm = importlib.import_module("tvm")
    for home in ("arith", "sym"):
        module = getattr(tvm, home, None)
        if module is not None and hasattr(module, name):
            return getattr(module, name)
    raise ImportError(f"this TVM has no {name} for arithmetic that fxpasses knows")
