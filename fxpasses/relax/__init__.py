"""From a canonical `Program` to a TVM `IRModule`: a table of lowerings and an emitter."""
