"""The sweep: every operator call that PyTorch's own operator samples reach, held against eager.

``python -m tests.sweep run --minutes 5`` works through the samples of `op_db`,
one *unit* (operator and dtype) after the other: the samples are captured in one
program, each operator call of that program is recorded with its real
arguments, and the calls are then canonicalized, compiled and compared with
eager by dtype, shape and value. Workers are processes of their own, so that a
crash is an outcome; a run goes on where the last one stopped.

``run --edges`` does the same with variants of these calls (NaN, infinities,
integers out of range, strided and expanded tensors, nothing along a dim; see
`tests.sweep.edges`), ``run --dynamic`` captures each sample for any sizes and calls
it with others (see `tests.sweep.dynamic`), ``run --system tvm`` has TVM's own importer
in the place of fxpasses.

``python -m tests.sweep report`` shows what was found, side by side, ``python -m
tests.sweep write`` writes the support matrix into the package.
"""
