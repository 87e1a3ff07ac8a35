"""How many examples the property tests of this folder run.

`HYPOTHESIS_PROFILE=long` asks for 100,000 of each; otherwise a few hundred, always the same ones.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("rings", max_examples=500, derandomize=True, database=None, deadline=None)
settings.register_profile(
    "long",
    max_examples=100_000,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
