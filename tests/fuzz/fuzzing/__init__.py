"""Runs the fuzz targets of tests/fuzz/harness, sums up what they did, and compares with Python.

`python -m fuzzing` is the command; tests/fuzz/test_fuzz.py runs a share of it. What is fuzzed and
how states are counted: docs/reference/fuzzing.md.
"""

__all__: list[str] = []
