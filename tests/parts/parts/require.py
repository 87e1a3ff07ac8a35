"""What a test calls when it needs a part: `require("qemu-10")`. The only way here to skip a test.

tests/conftest.py counts on that: every other skip makes the run fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .catalogue import CATALOGUE, reason_missing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SKIP_MARK", "require"]

SKIP_MARK = "part missing: "


def require(name: str) -> Path:
    """Return the folder of a part, or skip the test that asks when the part is not there.

    Args:
        name: a name in the catalogue of parts.

    Returns:
        The folder of the part.
    """
    part = CATALOGUE[name]
    if not part.is_there():
        pytest.skip(f"{SKIP_MARK}{name}: {reason_missing(part)}")
    return part.folder
