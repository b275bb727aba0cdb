"""Subtle single-line faults of the package, each with the tests that must see it; ``make mutants`` tries them all."""
