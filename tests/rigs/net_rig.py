"""Network devices at a switch, each served by the real server to a driver in this process."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import NET_CONFIG_SIZE, NetConfig, NetFeatures, VirtioFeatures
from vhostuser.devices import NetDevice, NetOptions
from vhostuser.frontend import (
    NET_DRIVER_FEATURES,
    PROTOCOL_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    FrontendClient,
    GuestMemory,
    NetControl,
    NetDriver,
    Order,
    RegionLayout,
)
from vhostuser.frontend.serving import accept_config_change
from vhostuser.stream import connect_unix
from vhostuser.testing import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from protocol.vhost_user import Request
    from protocol.virtio import NetCommand
    from vhostuser.devices import NetCounters, NetSwitch

SPLIT = TRANSPORT_FEATURES
PACKED = SPLIT | VirtioFeatures.RING_PACKED
LEGACY = SPLIT & ~VirtioFeatures.VERSION_1
MERGE = VirtioFeatures(NetFeatures.MRG_RXBUF)
CONTROL = NET_DRIVER_FEATURES & ~VirtioFeatures(NetFeatures.MQ | NetFeatures.MRG_RXBUF)
PAIRS = VirtioFeatures(NetFeatures.MQ)
NET_PROTOCOL_FEATURES = PROTOCOL_FEATURES | ProtocolFeatures.RARP | ProtocolFeatures.MTU
LAYOUTS = {"split": SPLIT, "packed": PACKED}
BROADCAST = b"\xff" * 6
_KIND = b"\x88\xb5"
_PATIENCE = 60


def frame(destination: bytes, source: bytes, number: int = 0, size: int = 60) -> bytes:
    """A frame with a content of its own."""
    payload = bytes((number + i) % 256 for i in range(size - 14))
    return destination + source + _KIND + payload


def datagram(destination: bytes, source: bytes, flow: int, *, back: bool = False) -> bytes:
    """A frame with UDP over IPv4: of a flow there, or of the same flow back."""
    ports = (1000 + flow, 7)
    hosts = (b"\xc0\0\2\1", b"\xc0\0\2\2")
    if back:
        ports, hosts = ports[::-1], hosts[::-1]
    payload = flow.to_bytes(18, "big")
    udp = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), flow, 0, 64, 17, 0)
    return destination + source + b"\x08\0" + ip + b"".join(hosts) + udp


@dataclass
class Station:
    """A device, and a driver whose rings run.

    Attributes:
        device: what is served.
        client: the front-end.
        memory: of the guest.
        driver: sends and receives.
        control: gives commands, where CTRL_VQ was negotiated.
        news: one entry for each time that the front-end was told of a changed configuration.
    """

    device: NetDevice
    client: FrontendClient
    memory: GuestMemory
    driver: NetDriver
    control: NetControl | None
    news: trio.MemoryReceiveChannel[None]

    @property
    def mac(self) -> bytes:
        return self.device.mac

    def counters(self, ring: int) -> NetCounters:
        return self.device.port.counters()[ring]

    async def config(self) -> NetConfig:
        """What the driver reads."""
        return NetConfig.parse(await self.client.get_config(0, NET_CONFIG_SIZE))

    async def command(self, command: NetCommand, data: bytes = b"") -> None:
        assert self.control is not None
        await self.control.command(command, data)

    async def send(self, to: bytes, number: int = 0, size: int = 60) -> bytes:
        """Send a frame; return it."""
        data = frame(to, self.mac, number, size)
        await self.driver.send(data)
        return data

    async def received(self) -> bytes:
        return (await self.driver.receive()).data

    async def restart(self) -> None:
        await self.client.stop()
        await self.client.start()


@contextlib.asynccontextmanager
async def served(
    switch: NetSwitch,
    options: NetOptions | None = None,
    order: Order = QEMU,
    accept: Callable[[Request], bool] | None = None,
    layout: Sequence[RegionLayout] = (RegionLayout(gpa=0, size=16 << 20),),
) -> AsyncIterator[tuple[NetDevice, FrontendClient]]:
    """Have a device at a switch, and a front-end that has connected to it and said nothing yet."""
    with (
        tempfile.TemporaryDirectory(prefix="vhostuser-net-") as folder,
        GuestMemory(layout) as memory,
        trio.fail_after(_PATIENCE),
    ):
        path = Path(folder) / "socket"
        async with (
            NetDevice.open(switch, options) as device,
            serving(path, device) as server,
        ):
            sock = await connect_unix(path)
            told = accept_config_change if accept is None else accept
            async with FrontendClient.over(sock, memory, order=order, accept=told) as client:
                yield device, client
            while server.connection is not None:  # the session of a front-end that just left
                await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def station(  # noqa: PLR0913 - keyword-only settings of a station
    switch: NetSwitch,
    features: VirtioFeatures = SPLIT,
    *,
    options: NetOptions | None = None,
    buffers: int = 32,
    order: Order = QEMU,
    layout: Sequence[RegionLayout] = (RegionLayout(gpa=0, size=16 << 20),),
    indirect_entries: int = 0,
) -> AsyncIterator[Station]:
    """Have a station at a switch, with all of its rings running.

    Args:
        switch: where.
        features: that the driver takes if they are offered.
        options: of the device.
        buffers: receive buffers of each pair.
        order: whose habits the front-end has.
        layout: of the guest's memory.
        indirect_entries: of the table that each slot of a ring has.
    """
    tell, news = trio.open_memory_channel[None](100)

    def take_news(request: Request) -> bool:
        tell.send_nowait(None)
        return accept_config_change(request)

    async with served(switch, options, order, take_news, layout) as (device, client), tell, news:
        await client.negotiate(features=features, protocol_features=NET_PROTOCOL_FEATURES, queues=2)
        pairs = client.queue_num if NetFeatures.MQ in NetFeatures(int(client.features)) else 1
        rings = 2 * pairs + (1 if NetFeatures.CTRL_VQ in NetFeatures(int(client.features)) else 0)
        queues = [
            client.setup_queue(index, indirect_entries=indirect_entries) for index in range(rings)
        ]
        await client.start()
        both = zip(queues[: 2 * pairs : 2], queues[1 : 2 * pairs : 2], strict=True)
        driver = NetDriver(tuple(both), buffers=buffers)
        control = NetControl(queues[-1]) if rings % 2 else None
        yield Station(device, client, client.memory, driver, control, news)


async def exchange(one: Station, other: Station, sizes: Sequence[int] = (60,)) -> None:
    """Have two stations send each other a frame of each size."""
    for number, size in enumerate(sizes):
        sent = await one.send(other.mac, number, size)
        assert await other.received() == sent
        sent = await other.send(one.mac, number, size)
        assert await one.received() == sent
