"""The network device: a port of a switch, served to a guest by the engine.

What it says of itself is in `vhostuser.devices.net_profile`; frames go from port to port without
Python, and so does what the driver says by its control queue. Specification: VIRTIO 1.2, section
5.1.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

import trio

from protocol.virtio import NetFeatures, NetStatus
from vhostuser.devices.net_port import NetPort, NetPortOptions
from vhostuser.devices.net_profile import NetOptions, net_config, net_profile, require_station
from vhostuser.devices.net_rings import NetDatapath
from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from protocol.virtio import VirtioFeatures
    from vhostuser.devices.net_switch import NetSwitch

__all__ = ["NetDevice"]

_ANNOUNCES = NetFeatures.CTRL_VQ | NetFeatures.GUEST_ANNOUNCE


class NetDevice:
    """A network device. Make it with `async with NetDevice.open(switch, options)`.

    Attributes:
        profile: what it offers.
        port: of the switch; its own.
        datapath: what serves its rings.
    """

    def __init__(self, port: NetPort, options: NetOptions, datapath: NetDatapath) -> None:
        self.profile = net_profile(options)
        self.port = port
        self.datapath = datapath
        self._options = options
        self._features = NetFeatures(0)
        self._unset = port.state().changes  # by a driver, as long as there were no more
        self._asked: int | None = None  # announcements that were acknowledged when we asked for one
        self._shown = self._config()
        datapath.on_change(self._look)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, switch: NetSwitch, options: NetOptions | None = None
    ) -> AsyncIterator[NetDevice]:
        """Have a device at a new port of a switch for the length of the block.

        Args:
            switch: must outlive the block.
            options: how it is served.

        Raises:
            OSError: the switch has as many ports as it may have (ENOSPC), or the host is out of
                memory or file descriptors.
        """
        options = options or NetOptions()
        with contextlib.ExitStack() as stack:
            of_port = NetPortOptions(
                pairs=options.queue_pairs,
                addresses=options.addresses,
                mac=options.mac or stack.enter_context(switch.local_mac()),
                locked=options.locked,
            )
            port = stack.enter_context(NetPort.open(switch, of_port))
            async with NetDatapath.open(
                port.make_queue, queues=options.queues, workers=switch.workers, place=port.place
            ) as datapath:
                yield cls(port, options, datapath)

    @property
    def mac(self) -> bytes:
        """Its address: the one that it was given, or that its driver has set."""
        state = self.port.state()
        return self.port.options.mac if state.changes == self._unset else state.mac

    @property
    def status(self) -> NetStatus:
        """Of its link, as the driver sees it."""
        status = NetStatus.LINK_UP if self.port.link_up else NetStatus(0)
        # Not by the event: who has its command acknowledged may read this before that comes.
        awaited = self._asked is not None and self.port.state().announced == self._asked
        return status | NetStatus.ANNOUNCE if awaited else status

    def use_features(self, features: VirtioFeatures) -> None:
        """Learn what the driver has accepted. See `Device`."""
        self._features = NetFeatures(int(features))
        if not self.datapath.started:  # the same driver may say it again while it runs
            self._reset()
        self._shown = self._config()  # who accepts features reads it afterwards

    def _reset(self) -> None:
        """Forget what a driver has said: another begins, or this one anew."""
        self.datapath.arrange(self._features)
        self.port.reset()
        self._unset = self.port.state().changes
        self._asked = None

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return part of the configuration space; zeros beyond its end. See `Device`."""
        await trio.lowlevel.checkpoint()
        return self._config()[offset : offset + size].ljust(size, b"\0")

    def _config(self) -> bytes:
        return bytes(net_config(self._options, self.mac, self.status))

    async def write_config(self, offset: int, data: bytes, *, migration: bool) -> None:
        """Refuse: there is nothing to write. See `Device`."""
        await trio.lowlevel.checkpoint()
        if not migration or data != self._config()[offset : offset + len(data)]:
            raise RequestError(
                errno.EPERM,
                "read-only; the control queue sets the address",
                field="offset",
                value=offset,
            )

    def set_link(self, *, up: bool) -> None:
        """Plug the cable in, or pull it, and tell the driver."""
        self.port.set_link(up=up)
        self._look()

    def announce(self, mac: bytes | None = None) -> None:
        """Have the other ports learn where the guest is now, as after a migration.

        A driver that can announces itself: it knows its addresses and VLANs. For one that cannot,
        the switch does.

        Args:
            mac: announce this address, and do not ask the driver. None: the guest's, as far as it
                is known.

        Raises:
            RequestError: the address is not one that this device may use, or is not known.
        """
        if mac is not None:
            self._require_own(mac)
            self.port.announce(mac)
        elif _ANNOUNCES in self._features:
            self._asked = self.port.state().announced
            self._look()
        else:
            self.port.announce(self._guest_mac())

    def _guest_mac(self) -> bytes:
        """Return the guest's address; our default is not: QEMU tells its guest another."""
        if self._options.mac is not None or self.mac != self.port.options.mac:
            return self.mac
        known = self.port.switch.addresses()
        learned = [each.mac for each in known if each.port == self.port.number]
        if len(learned) != 1:
            why = "several are" if learned else "none is"
            raise RequestError(
                errno.ENODATA,
                f"which address is the guest's? Give mac: {why} known at this port "
                "(query-addresses shows those that have sent something)",
                field="mac",
                value=None,
            )
        return learned[0]

    def _require_own(self, mac: bytes) -> None:
        try:
            require_station(mac)
        except ValueError as error:
            raise RequestError(errno.EINVAL, str(error), field="mac", value=mac.hex()) from error
        own = self.port.options.mac
        if self._options.locked and mac != own:
            rule = f"the port is locked to {own.hex(':')}"
            raise RequestError(errno.EPERM, rule, field="mac", value=mac.hex())

    def _look(self) -> None:
        """Take up what the driver has set, and tell it of a configuration that changed."""
        config = self._config()
        if config != self._shown:
            self._shown = config
            self.datapath.config_changed()
