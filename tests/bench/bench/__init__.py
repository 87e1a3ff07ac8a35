"""The benchmarks: ours and the peer measured in turns, in one run. `make bench` runs them.

`rows` and `checks` say what is measured and what is promised, as data; `run` measures it and
`report` writes docs/benchmarks.md. Nothing here is part of the timed tests, and nothing of the
product imports it.
"""

__all__: list[str] = []
