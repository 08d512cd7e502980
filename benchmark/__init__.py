"""Trains and evaluates AST on the benchmarks of the field and prints its tables beside the paper's."""
