"""The sweep: every operator call that PyTorch's own operator samples reach, held against eager.

``python -m tests.sweep run --minutes 5`` works through the samples of `op_db`,
one *unit* (operator and dtype) after the other: the samples are captured in one
program, each operator call of that program is recorded with its real
arguments, and the calls are then canonicalized, compiled and compared with
eager by dtype, shape and value. Workers are processes of their own, so that a
crash is an outcome; a run goes on where the last one stopped.

``python -m tests.sweep report`` shows what was found, ``python -m tests.sweep
write`` writes the support matrix into the package.
"""
