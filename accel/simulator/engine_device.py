"""What a device of the engine is as a PCI function: its type, its queues, what it offers."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Protocol

from accel.simulator.layout import Layout
from protocol.virtio import VirtioFeatures
from vhostuser.devices import Device

if TYPE_CHECKING:
    from accel.simulator.options import SimulatorOptions
    from vhostuser.datapath import SoftwareDatapath
    from vhostuser.devices import DeviceProfile

__all__ = ["BUS_FEATURES", "EngineDevice", "layout_of", "offered"]

BUS_FEATURES = VirtioFeatures.ACCESS_PLATFORM | VirtioFeatures.RING_RESET
"""What the function adds to what the device offers: its own business."""
_OF_VHOST_USER = VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.LOG_ALL
_TYPES = {"net": 1, "block": 2}


class EngineDevice(Device, Protocol):
    """A device whose rings the engine serves."""

    @property
    def datapath(self) -> SoftwareDatapath:
        """What serves its rings."""


def layout_of(profile: DeviceProfile, options: SimulatorOptions) -> Layout:
    """Return the shape of a device's PCI function."""
    return Layout(
        device_type=_TYPES[profile.kind],
        queues=profile.queues,
        vectors=options.vectors or profile.queues + 1,
        page_size=options.page_size or mmap.PAGESIZE,
        shared_notify=options.shared_notify,
    )


def offered(profile: DeviceProfile) -> VirtioFeatures:
    """Return the features that a device's PCI function offers."""
    return profile.features & ~_OF_VHOST_USER | BUS_FEATURES
