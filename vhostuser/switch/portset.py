"""The ports of a switch: guests' by vhost-user and the host's by TAP, in one process.

They share the switch's threads (docs/decisions/0013); what goes wrong with one of them ends that
port alone.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import trio

from vhostuser import log
from vhostuser.datapath import WorkerOptions
from vhostuser.devices import NetDevice, NetSwitch, SwitchOptions
from vhostuser.devices.tap import TapPort
from vhostuser.errors import UsageError
from vhostuser.server import Server
from vhostuser.serving import Served, ServedSet
from vhostuser.switch.config import PortConfig, same_address, same_tap
from vhostuser.switch.opening import net_options, tap_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from vhostuser.devices import NetPort
    from vhostuser.switch.config import SwitchConfig

__all__ = ["Port", "PortSet"]

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Port(Served[PortConfig]):
    """One port that is served.

    Attributes:
        device: of the guest; None: the port is a TAP.
        tap: of the host; None: the port is a guest's.
    """

    device: NetDevice | None
    tap: TapPort | None

    @property
    def _end(self) -> NetDevice | TapPort:
        end = self.device or self.tap
        assert end is not None
        return end

    @property
    def port(self) -> NetPort:
        """The port of the switch."""
        return self._end.port

    @property
    def mac(self) -> bytes:
        """The address of the guest's device, or of the host at its TAP."""
        return self._end.mac

    @property
    def facts(self) -> Mapping[str, object]:
        """Its number."""
        return {"number": self.port.number}

    @property
    def ending(self) -> str:
        """Why it ends by itself, in words."""
        return "no other front-end can come" if self.tap is None else "its TAP device is gone"

    def describe(self) -> str:
        """Say in a few words what is served, and where."""
        place = self.config.place
        if self.config.bridge is not None:
            place += f" in bridge {self.config.bridge}"
        pairs = self.port.pairs
        queues = "1 queue pair" if pairs == 1 else f"{pairs} queue pairs"
        return f"port {self.port.number} with {queues} on {place}"

    async def serve(self) -> None:
        """Serve until no front-end can come, or the TAP device is gone."""
        if self.tap is not None:
            await self.tap.removed.wait()
        else:
            await Served.serve(self)

    async def set_link(self, *, up: bool) -> None:
        """Plug the cable in, or pull it; the guest or the host sees it.

        Raises:
            OSError: the TAP device is gone.
        """
        if self.tap is not None:
            await self.tap.set_link(up=up)
        elif self.device is not None:
            self.device.set_link(up=up)

    def announce(self, mac: bytes | None) -> None:
        """Have the other ports learn that an address is here.

        Args:
            mac: the address; None: the port's own, by the guest itself where it can.

        Raises:
            OSError: it is not one that the guest may use, or not known.
        """
        if self.device is not None:
            self.device.announce(mac)
        else:
            self.port.announce(self.mac if mac is None else mac)


class PortSet(ServedSet[PortConfig, Port]):
    """Serves the ports of a switch. Make it with `async with PortSet.open(config)`.

    Args:
        nursery: in which ports are served.
        switch: whose ports they are.

    Attributes:
        switch: whose ports they are.
    """

    WORD: ClassVar[str] = PortConfig.WORD

    def __init__(self, nursery: trio.Nursery, switch: NetSwitch) -> None:
        super().__init__(nursery)
        self.switch = switch
        self._addresses: dict[bytes, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: SwitchConfig) -> AsyncIterator[PortSet]:
        """Have a switch, without ports at first, for the length of the block.

        Raises:
            OSError: the host is out of threads, memory or file descriptors.
        """
        options = SwitchOptions(
            mode=config.mode, ageing_s=config.ageing_s, frame_size=config.frame_size
        )
        workers = WorkerOptions(
            count=config.workers, poll_us=config.poll_us, busy_poll=config.busy_poll
        )
        async with NetSwitch.open(options, workers) as switch, trio.open_nursery() as nursery:
            yield cls(nursery, switch)
            nursery.cancel_scope.cancel()

    async def add(self, config: PortConfig) -> Port:
        """Serve one more port. See `ServedSet.add`."""
        for other in self.members:
            if config.tap is not None and config.tap == other.config.tap:
                raise UsageError(str(same_tap(config.tap, other.id)))
        return await ServedSet.add(self, config)

    @contextlib.asynccontextmanager
    async def open_member(self, config: PortConfig) -> AsyncIterator[Port]:
        """Have a port, and what serves it, for the length of the block. See `ServedSet`."""
        if config.tap is not None:
            async with TapPort.open(self.switch, tap_options(config, config.tap)) as tap:
                yield Port(config=config, server=None, device=None, tap=tap)
            return
        # First the socket: a front-end that comes too early then waits instead of failing.
        with self._address(config), self.endpoint(config) as endpoint:
            async with NetDevice.open(self.switch, net_options(config)) as device:
                server = Server(device=device, endpoint=endpoint)
                self.forward_events(server, config)
                yield Port(config=config, server=server, device=device, tap=None)

    @contextlib.contextmanager
    def _address(self, config: PortConfig) -> Iterator[None]:
        """Keep the address that a port was given from others, for the length of the block.

        Raises:
            UsageError: another port has it, or is about to.
        """
        if config.mac is None:
            yield
            return
        if config.mac in self._addresses:
            raise UsageError(str(same_address(self._addresses[config.mac])))
        self._addresses[config.mac] = config.id
        try:
            yield
        finally:
            del self._addresses[config.mac]

    def by_number(self, number: int) -> Port | None:
        """Return the port that the switch knows by a number; None: it has just gone."""
        return next((each for each in self.members if each.port.number == number), None)

    async def set_link(self, identity: str, *, up: bool) -> None:
        """Plug a port's cable in, or pull it.

        Raises:
            UsageError: there is no such port.
            OSError: its TAP device is gone.
        """
        port = self.find(identity)
        await port.set_link(up=up)
        with log.bound(port=port.id):
            _log.info("the link is %s now", "up" if up else "down")
        self.notify("PORT_LINK", {"id": port.id, "up": up})
