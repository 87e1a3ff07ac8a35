"""The engine's binding: see `vhostuser.native.binding` and include/vhu.h."""

from __future__ import annotations

from vhostuser.native.binding import Pointer, check, ffi, lib

__all__ = ["Pointer", "check", "ffi", "lib"]
