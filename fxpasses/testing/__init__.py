"""What users import to test passes: random programs, comparison, bisection."""
