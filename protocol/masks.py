"""What all sets of features share: 64-bit masks of which the bits without a name are kept."""

from __future__ import annotations

import enum
from typing import TypeVar

__all__ = ["complement"]

_ALL = (1 << 64) - 1
_Mask = TypeVar("_Mask", bound=enum.IntFlag)


def complement(mask: _Mask) -> _Mask:
    """Return all other bits of the 64; IntFlag's own `~` loses those that have no name.

    A set of features takes it as its `__invert__`, in its own body: an enum inherits none.
    """
    return type(mask)(~int(mask) & _ALL)
