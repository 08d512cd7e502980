"""Drawn data in the official layouts of four benchmarks, to try everything without a download.

Figures on them say that the toolkit works, not how good a method is. The same settings give the same files, byte for
byte where the versions of the libraries are the same.
"""

from benchmark.synthetic.layouts import DEFECTS, Counts, Part, draw_part, write_synthetic

__all__ = ["DEFECTS", "Counts", "Part", "draw_part", "write_synthetic"]
