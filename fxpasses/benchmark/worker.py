"""`Worker`: one system with one model in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fxpasses.errors import FxpassesError

__all__ = ["Worker", "resolve"]

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")

# A round takes at least so long, in calls of the model.
_ROUND_SECONDS = 0.05

# A model that takes so long needs no warming up.
_SLOW_SECONDS = 1.0


class Worker:
    """Starts the process, waits until the model is ready, and asks for rounds.

    Attributes:
        error: why the model does not run there, None if it does.
        prepare: seconds from the model to the first result, without the import of the system.
        memory: bytes of the process in a call, at most, beyond what it had before the model was made;
            pages of files are not counted, nor are the modules that the system and the model import.
        outputs: the tensors of the first result.
        folder: where the process keeps what it compiles.

    Nothing that an earlier process left in a cache is found there, unless *environment* says so.
    """

    def __init__(
        self, system: str, source: Any, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        try:
            data = pickle.dumps(source)
        except Exception as error:
            raise FxpassesError(
                f"the model cannot be sent to another process ({error}); give bench a function that makes it, "
                "as 'package.module:function'"
            ) from error
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, system, data, threads), daemon=True)
        self._folder = tempfile.TemporaryDirectory(prefix="fxpasses-bench-", ignore_cleanup_errors=True)
        self.folder = self._folder.name
        cold = {"FXPASSES_CACHE_DIR": self.folder, "TORCHINDUCTOR_CACHE_DIR": self.folder}
        with _environment({**dict.fromkeys(_THREAD_SETTINGS, str(threads)), **cold, **(environment or {})}):
            self._process.start()
        theirs.close()
        self.error: str | None = None
        self.prepare = self.memory = float("nan")
        self.outputs: list[torch.Tensor] = []
        answer = self._receive()
        if isinstance(answer, str):
            self.error = answer
        else:
            self.prepare, self.memory, outputs = answer
            self.outputs = [torch.from_numpy(output) for output in outputs]

    def round(self) -> float:
        """Milliseconds of a call, over a few calls.

        Raises:
            FxpassesError: the process ended.
        """
        with contextlib.suppress(OSError):  # there is nobody to read it; the answer says why
            self._pipe.send("round")
        answer = self._receive()
        if isinstance(answer, str):
            raise FxpassesError(f"a process of the benchmark ended: {answer}")
        return answer * 1000

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return f"the process ended with exit code {self._process.exitcode}"

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
        self._folder.cleanup()


def resolve(source: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Model, args and kwargs; *source* has them, or names the function that makes them."""
    if not isinstance(source, str):
        return source
    module, _, function = source.partition(":")
    model, args, *rest = getattr(importlib.import_module(module), function)()
    return model, tuple(args), dict(rest[0]) if rest else {}


def _serve(pipe: Any, system: str, data: bytes, threads: int) -> None:
    """The life of the process."""
    _silence()
    from torch.utils import _pytree as pytree

    from fxpasses.benchmark.systems import IMPORTS, SYSTEMS

    torch.set_num_threads(threads)
    with torch.inference_mode(not system.startswith("fxpasses")), torch.no_grad():
        try:
            for module in IMPORTS.get(system, ()):
                importlib.import_module(module)
            resolve(pickle.loads(data))  # its imports are nobody's memory; some systems share them
            _trim()
            before = _resident()
            model, args, kwargs = resolve(pickle.loads(data))
            _load(model)
            del data
            start = time.perf_counter()
            call = SYSTEMS[system](model, args, kwargs, threads)
            result = call()
            seconds = time.perf_counter() - start
            del model
            outputs = [_array(leaf) for leaf in pytree.tree_leaves(_plain(result)) if _is_array(leaf)]
            del result
            peak, slow = _peak(call)
            memory = peak - before
        except Exception as error:
            pipe.send(
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]
            )
            return
        pipe.send((seconds, memory, outputs))
        del outputs
        if not slow:
            for _ in range(2):
                call()
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(_round(call, slow))


def _silence() -> None:
    """Let the exporters and compilers of other systems print to nowhere, from C++ too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _peak(call: Any) -> tuple[float, bool]:
    """Bytes of this process during a call, at most; NaN where the system does not tell. Then whether it was slow."""
    _trim()  # what was freed before is not of this call
    peak = float("nan")
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts anew
        peak = 0.0
    start = time.perf_counter()
    call()
    slow = time.perf_counter() - start > _SLOW_SECONDS
    return peak + _status("VmHWM") - _status("RssFile"), slow


def _load(model: Any) -> None:
    """Have the weights in memory, also where a file of them was mapped."""
    if isinstance(model, torch.nn.Module):
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.data = tensor.data.clone()


def _trim() -> None:
    """Give free memory back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> float:
    """Bytes of this process that are no pages of a file, such as a library, which it shares with others."""
    return _status("RssAnon")


def _status(name: str) -> float:
    """Bytes that Linux tells of this process; NaN elsewhere."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float("nan")


def _round(call: Any, slow: bool) -> float:
    """Seconds of a call."""
    if not slow:
        call()  # wakes the threads
    count, start = 0, time.perf_counter()
    while True:
        call()
        count += 1
        seconds = time.perf_counter() - start
        if seconds >= _ROUND_SECONDS:
            return seconds / count


def _plain(result: Any) -> Any:
    """TVM's containers as Python's."""
    return (
        list(result) if type(result).__module__.startswith("tvm") and hasattr(result, "__len__") else result
    )


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "numpy") or type(leaf).__module__ == "numpy"


def _array(leaf: Any) -> Any:
    return (
        leaf.detach().clone().numpy()
        if isinstance(leaf, torch.Tensor)
        else getattr(leaf, "numpy", lambda: leaf)()
    )


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
