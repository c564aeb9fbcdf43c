"""From an `IRModule` to a callable on torch tensors: targets, build, runtime, files."""
