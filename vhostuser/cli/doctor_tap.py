"""What `vhostuser doctor` says of TAP devices: may `vhostuser net` have some here?

It matters only to those who connect guests with the host, so that nothing here is more than a note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhostuser.cli.finding import Finding
from vhostuser.devices.tap import TapOptions
from vhostuser.devices.tap_check import check_tap

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["tap_devices"]


def tap_devices() -> Iterator[Finding]:
    """Look at what keeps this user from making a TAP device."""
    try:
        check_tap(TapOptions())
    except OSError as error:
        value, _, advice = (error.strerror or str(error)).partition(": ")
        yield Finding("TAP devices", "note", value, advice or "vhostuser net --tap needs it")
    else:
        yield Finding("TAP devices", "ok", "can be made")
