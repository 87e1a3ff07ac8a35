"""Kinds of values that networks have, beside those of `vhostuser.options.kinds`."""

from __future__ import annotations

import re

from vhostuser.options.kinds import Kind

__all__ = ["Interface", "Mac"]

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_GROUP_BIT = 1
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


class Mac(Kind):
    """The address of a network device."""

    wanted = "an address of one device, for example 02:00:00:00:00:01,"
    metavar = "MAC"

    def read(self, value: object) -> object | None:
        """Take six bytes in hexadecimal that are no group's address."""
        if not isinstance(value, str) or not _MAC.fullmatch(value.lower()):
            return None
        address = bytes.fromhex(value.replace(":", ""))
        return None if address[0] & _GROUP_BIT or not any(address) else address

    def plain(self, kept: object) -> object:
        """Return hexadecimal digits."""
        assert isinstance(kept, bytes)
        return kept.hex(":")


class Interface(Kind):
    """The name of a network interface of the host; whether it exists is not asked here."""

    wanted = "an interface's name of letters, digits and _ . - (at most 15)"
    metavar = "NAME"

    def read(self, value: object) -> object | None:
        """Take what the kernel takes, without its "%" for names that it is to choose."""
        return value if isinstance(value, str) and _INTERFACE.fullmatch(value) else None
