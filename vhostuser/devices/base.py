"""What a session must know of a device, and what a device must be able to do.

A device outlives sessions: it owns its store, its configuration and its data path. The profile is
plain data, so that a session can be driven without a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from protocol.vhost_user import ProtocolFeatures
    from protocol.virtio import VirtioFeatures
    from vhostuser.datapath import Datapath

__all__ = ["AnnouncedDevice", "Device", "DeviceProfile", "SizedDevice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What a device offers to a front-end.

    Attributes:
        kind: the virtio device type as vhost-user programs name it ("block", "net", ...).
        queues: number of rings.
        queue_size: largest ring size accepted, in descriptors.
        features: virtio features offered, with bit 30 for protocol features.
        protocol_features: vhost-user protocol features offered.
        queue_num: what GET_QUEUE_NUM answers, where it is not the number of rings: front-ends count
            the pairs of a network device, and leave its control queue away.
        mtu: largest MTU that a front-end may set; None: there is nothing to set.
    """

    kind: str
    queues: int
    queue_size: int
    features: VirtioFeatures
    protocol_features: ProtocolFeatures
    queue_num: int | None = None
    mtu: int | None = None


class Device(Protocol):
    """A device that the server can serve."""

    @property
    def profile(self) -> DeviceProfile:
        """What it offers."""

    @property
    def datapath(self) -> Datapath:
        """What serves its rings."""

    def use_features(self, features: VirtioFeatures) -> None:
        """Learn which features the driver has accepted; none: a session has ended."""

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the configuration space; zeros beyond its end.

        Raises:
            OSError: the device is gone.
        """

    async def write_config(self, offset: int, data: bytes, *, migration: bool) -> None:
        """Write to the configuration space.

        Args:
            offset: of the first byte.
            data: what to write; the space has 256 bytes.
            migration: it is part of a migration: read-only fields may be there, too, as they are.

        Raises:
            RequestError: it cannot be written; nothing has changed.
        """


class SizedDevice(Device, Protocol):
    """A device that holds an amount of data."""

    @property
    def size(self) -> int:
        """Capacity in bytes, as front-ends see it."""


@runtime_checkable
class AnnouncedDevice(Device, Protocol):
    """A device whose place in a network others must learn: it offers the protocol feature RARP."""

    def announce(self, mac: bytes) -> None:
        """Tell the others where the station with an address is from now on.

        Raises:
            RequestError: the address is not one that this device may use.
        """
