"""Benchmarks: each prints its figures and never decides a test. Run them as modules."""
