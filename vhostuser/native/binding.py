"""The one door between Python and the engine: the cffi module and the check of return codes.

Callers reach each C function as `lib.vhu_…`, named exactly as in the header, and pass what it
returns through `check`, so that no failure gets lost. No logic lives here, and nothing owns
anything: who creates an engine object destroys it. Any is tolerated in this package only.
"""

from __future__ import annotations

import os
from typing import Any, TypeAlias

from vhostuser.native._engine import ffi, lib

__all__ = ["Pointer", "check", "ffi", "lib"]

# A cffi object: a pointer to one of the engine's structs, or the struct itself.
Pointer: TypeAlias = Any


def check(rc: int, action: str) -> int:
    """Return the result of an engine call, or raise what its negative errno means.

    Args:
        rc: what the call returned.
        action: what was tried, for the error's text, e.g. "map a region of guest memory".

    Returns:
        `rc`, which is 0 or more.

    Raises:
        OSError: `rc` is negative; the subclass that belongs to the errno (e.g. FileExistsError).
    """
    if rc < 0:
        raise OSError(-rc, f"cannot {action}: {os.strerror(-rc)}")
    return rc
