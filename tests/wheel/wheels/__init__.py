"""Builds the wheel, looks into it, and tries it where nothing but its own needs is met."""

from __future__ import annotations

from .building import BuildError, build
from .environment import Environment
from .inspection import ENGINE, ROOT, findings
from .trying import attempt

__all__ = ["ENGINE", "ROOT", "BuildError", "Environment", "attempt", "build", "findings"]
