"""Compiled programs leave the threads of the process as they are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, torch, fxpasses as fxp
torch.set_num_threads(2)
x = torch.randn(64, 64)
compiled = fxp.compile(torch.nn.Linear(64, 64).eval(), (x,))
before = os.sched_getaffinity(0)
for _ in range(3):
    compiled(x)
assert os.sched_getaffinity(0) == before, (before, os.sched_getaffinity(0))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell the affinity")
def test_a_call_does_not_bind_the_calling_thread_to_a_core() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


FOLLOWS = """
import os, torch, fxpasses as fxp
from fxpasses.relax import tvm_api as T
torch.set_num_threads(1)
x = torch.randn(1 << 16)
compiled = fxp.compile(torch.sin, (x,))
threads = T.tvm_ffi.get_global_func("runtime.NumThreads")
for count in (1, len(os.sched_getaffinity(0)), 1):
    torch.set_num_threads(count)
    compiled(x)
    assert threads() == count, (threads(), count)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell the affinity")
def test_a_call_runs_in_the_threads_of_torch_and_may_use_all_processors() -> None:
    free = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    run = subprocess.run([sys.executable, "-c", FOLLOWS], capture_output=True, text=True, env=free)
    assert run.returncode == 0, run.stderr
