"""A device that an accelerator is: what it offers goes to the front-end, as far as that can use it.

Left out are features of the device's own bus, features that change how a doorbell is rung, and what
needs a control queue, which front-ends keep to themselves: a net device has one pair of queues.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import CURRENT, ProtocolFeatures
from protocol.virtio import OF_THE_BUS, VirtioFeatures
from vhostuser.datapath import PassthroughDatapath, Software
from vhostuser.devices.base import DeviceProfile
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from protocol.vhost_user import Dialect
    from vhostuser.datapath import Accelerator
    from vhostuser.devices.base import Device

__all__ = ["AcceleratedDevice"]

_KINDS = {1: "net", 2: "block", 3: "console", 4: "rng", 5: "balloon", 8: "scsi", 16: "gpu"}
_NET, _BLOCK = 1, 2
_SECTOR = 512
_NET_QUEUES = 2
_NET_CONTROL = VirtioFeatures(
    sum(1 << bit for bit in (2, 17, 18, 19, 20, 21, 22, 23, 52, 53, 57, 60))
)
"""CTRL_GUEST_OFFLOADS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE, MQ,
CTRL_MAC_ADDR, VQ_NOTF_COAL, NOTF_COAL, HASH_REPORT, RSS."""
_PROTOCOL_FEATURES = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.STATUS
)


class AcceleratedDevice:
    """An accelerator, served. Make it with `async with AcceleratedDevice.open(...)`.

    Attributes:
        datapath: what hands the rings over.
        profile: what is offered.
        size: of a block device when it was opened, in bytes; else 0.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        datapath: PassthroughDatapath,
        profile: DeviceProfile,
        software: Device | None,
        size: int,
    ) -> None:
        self._accelerator = accelerator
        self._software = software
        self.datapath = datapath
        self.profile = profile
        self.size = size

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        accelerator: Accelerator,
        *,
        dialect: Dialect = CURRENT,
        hand_over: bool = True,
        software: Device | None = None,
    ) -> AsyncIterator[AcceleratedDevice]:
        """Serve an accelerator for the length of the block.

        Args:
            accelerator: a device that was reset; it must outlive the block.
            dialect: of the protocol that front-ends speak.
            hand_over: whether to offer drivers the device's notify areas.
            software: the same device in software, on the same store: serves what the accelerator
                cannot. It must outlive the block.

        Raises:
            OSError: the host is out of threads or file descriptors. Later: the accelerator is gone,
                its last front-end has left, and there is no software; in an exception group.
        """
        profile = _profile(accelerator, software)
        if hand_over:
            protocol = profile.protocol_features | dialect.hand_over_features
            profile = replace(profile, protocol_features=protocol)
        below = None
        if software is not None:
            below = Software(software.datapath, software.profile.features)
        size = 0
        if accelerator.identity.device_id == _BLOCK:
            size = int.from_bytes(await accelerator.read_config(0, 8), "little") * _SECTOR
        async with (
            PassthroughDatapath.open(
                accelerator, queues=profile.queues, software=below
            ) as datapath,
            trio.open_nursery() as nursery,
        ):
            if software is None:
                nursery.start_soon(_end_when_gone, datapath.gone, accelerator.identity.name)
            yield cls(accelerator, datapath, profile, software, size)
            nursery.cancel_scope.cancel()

    def use_features(self, features: VirtioFeatures) -> None:
        """Pass on what the driver has accepted. See `Device`."""
        if self._software is not None:
            self._software.use_features(features)

    async def read_config(self, offset: int, size: int) -> bytes:
        """Read the accelerator's configuration space, or the software's beside it. See `Device`."""
        try:
            return await self._accelerator.read_config(offset, size)
        except OSError:
            if self._software is None:
                raise
            return await self._software.read_config(offset, size)

    async def write_config(self, offset: int, data: bytes, *, migration: bool) -> None:
        """Write to the accelerator's configuration space. See `Device`."""
        del migration
        await self._accelerator.write_config(offset, data)


async def _end_when_gone(gone: trio.Event, name: str) -> None:
    """Serve nobody with a device that can serve nothing: whoever starts it starts us again."""
    await gone.wait()
    raise AcceleratorError(f"the accelerator {name} is gone: start it, and then this again")


def _profile(accelerator: Accelerator, software: Device | None) -> DeviceProfile:
    """What a front-end is offered of a device."""
    identity = accelerator.identity
    features = accelerator.features & ~OF_THE_BUS
    queues = len(accelerator.queue_sizes)
    if identity.device_id == _NET:
        features &= ~_NET_CONTROL
        queues = min(queues, _NET_QUEUES)
    if software is not None:
        features &= software.profile.features
        queues = min(queues, software.profile.queues)
    return DeviceProfile(
        kind=_KINDS.get(identity.device_id, f"virtio type {identity.device_id}"),
        queues=queues,
        queue_size=max(accelerator.queue_sizes[:queues]),
        features=features | VirtioFeatures.PROTOCOL_FEATURES,
        protocol_features=_PROTOCOL_FEATURES,
        queue_num=queues // _NET_QUEUES if identity.device_id == _NET else None,
    )
