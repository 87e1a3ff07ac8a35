"""From the options of a port to those of what is at it: a guest's device, or a TAP of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhostuser.devices import NetOptions
from vhostuser.devices.tap import TapOptions

if TYPE_CHECKING:
    from vhostuser.switch.config import PortConfig

__all__ = ["net_options", "tap_options"]

_MTU = 1500


def net_options(config: PortConfig) -> NetOptions:
    """Return how the device of a guest's port is served."""
    return NetOptions(
        mac=config.mac,
        mtu=_MTU if config.mtu is None else config.mtu,
        queue_pairs=config.queue_pairs,
        queue_size=config.queue_size,
        locked=config.lock_mac,
        addresses=config.addresses,
        speed=config.speed,
    )


def tap_options(config: PortConfig, name: str) -> TapOptions:
    """Return which TAP device a port of the host is, and how.

    Raises:
        UsageError: no device can have these.
    """
    return TapOptions(
        name=name,
        queues=config.queue_pairs,
        bridge=config.bridge,
        mtu=config.mtu,
        addresses=config.addresses,
    )
