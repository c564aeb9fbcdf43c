"""How each operator on complex numbers is spelled on pairs of real ones; see `fxpasses.passes.expand_complex`."""
