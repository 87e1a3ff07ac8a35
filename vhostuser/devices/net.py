"""Network devices whose frames go from port to port in the engine: back to oneself, or to a peer.

No frame passes through Python. There are no offloads: what a driver sends is whole, and so is what
it receives. Specification: VIRTIO 1.2, section 5.1.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import NetConfig, NetFeatures, NetStatus, VirtioFeatures
from vhostuser.datapath import SoftwareDatapath, WorkerOptions
from vhostuser.datapath.workers import Workers
from vhostuser.devices.base import DeviceProfile
from vhostuser.errors import RequestError
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vhostuser.native import Pointer

__all__ = ["NetCounters", "NetDevice", "NetOptions", "NetPorts"]

_QUEUES = 2
"""A pair: the first receives, the second sends."""
_LOCAL_MAC = bytes.fromhex("02000000")
"""How an address begins that nobody was assigned; the port's number follows."""
_FEATURES = (
    VirtioFeatures.VERSION_1
    | VirtioFeatures.RING_PACKED
    | VirtioFeatures.INDIRECT_DESC
    | VirtioFeatures.EVENT_IDX
    | VirtioFeatures.IN_ORDER
    | VirtioFeatures.PROTOCOL_FEATURES
)
_NET_FEATURES = NetFeatures.MAC | NetFeatures.STATUS | NetFeatures.MTU | NetFeatures.MRG_RXBUF
_PROTOCOL_FEATURES = (
    ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
    | ProtocolFeatures.STATUS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """How a port shows itself.

    Attributes:
        mac: its address, 6 bytes; None: 02:00:00:00 and the port's number.
        mtu: largest payload of a frame, bytes; larger ones are not refused.
        queue_size: largest ring size accepted, in descriptors.
    """

    mac: bytes | None = None
    mtu: int = 1500
    queue_size: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NetCounters:
    """What became of the frames that a port sent.

    Attributes:
        frames: its peer received them.
        bad: dropped: not 14 to 65550 bytes, or a header that is too short or asks for offloads.
        too_large: dropped: more than the receiver's next buffers hold.
        no_receiver: dropped: the peer's ring is not served.
    """

    frames: int
    bad: int
    too_large: int
    no_receiver: int


class NetPorts:
    """Ports whose frames one thread moves. Make them with `async with NetPorts.open(...)`.

    Peers share that thread, and can hold up each other: a frame waits until its receiver has a
    buffer.
    """

    def __init__(self, native: Pointer, workers: Workers) -> None:
        self.native = native
        self.workers = workers

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, count: int = 1, *, workers: WorkerOptions | None = None
    ) -> AsyncIterator[NetPorts]:
        """Have `count` ports for the length of the block; each gets back what it sends.

        Args:
            count: 1 to 4096.
            workers: how the thread waits; their `count` is not looked at.

        Raises:
            OSError: the host is out of threads, memory or file descriptors, or `count` is not in
                its range (EINVAL).
        """
        ret = ffi.new("struct vhu_net **")
        check(lib.vhu_net_create(count, ret), f"make {count} network ports")
        native = ret[0]
        try:
            threads = Workers(workers or WorkerOptions(), 1)
        except BaseException:
            lib.vhu_net_destroy(native)
            raise
        try:
            yield cls(native, threads)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(threads.stop)
            threads.close()
            lib.vhu_net_destroy(native)

    def connect(self, port: int, peer: int) -> None:
        """Have two ports receive what the other sends. Only before devices are opened on them.

        Raises:
            OSError: there is no such port (EINVAL).
        """
        check(lib.vhu_net_connect(self.native, port, peer), f"connect ports {port} and {peer}")

    def counters(self, port: int) -> NetCounters:
        """Return what became of the frames that `port` sent."""
        ret = ffi.new("struct vhu_net_counters *")
        lib.vhu_net_counters(self.native, port, ret)
        return NetCounters(
            frames=ret.frames, bad=ret.bad, too_large=ret.too_large, no_receiver=ret.no_receiver
        )

    def make_queue(self, port: int, worker: Pointer, index: int, event_fd: int) -> Pointer:
        """Make the engine's queue of a port's ring `index`. Raises OSError."""
        ret = ffi.new("struct vhu_queue **")
        code = lib.vhu_queue_create_net(worker, self.native, port, index, event_fd, ret)
        check(code, "create a queue")
        return ret[0]


class NetDevice:
    """A network device at a port. Make it with `async with NetDevice.open(ports, port, options)`.

    Attributes:
        profile: what it offers.
        datapath: what serves its rings.
    """

    def __init__(self, config: NetConfig, options: NetOptions, datapath: SoftwareDatapath) -> None:
        self.profile = DeviceProfile(
            kind="net",
            queues=_QUEUES,
            queue_size=options.queue_size,
            features=VirtioFeatures(int(_FEATURES) | int(_NET_FEATURES)),
            protocol_features=_PROTOCOL_FEATURES,
        )
        self.datapath = datapath
        self._config = bytes(config)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, ports: NetPorts, port: int = 0, options: NetOptions | None = None
    ) -> AsyncIterator[NetDevice]:
        """Have a device at a port for the length of the block; one at a time.

        Args:
            ports: must outlive the block.
            port: one of them.
            options: how it shows itself.

        Raises:
            OSError: the host is out of memory or file descriptors, or there is no such port.
        """
        options = options or NetOptions()
        mac = options.mac or _LOCAL_MAC + port.to_bytes(2, "big")
        config = NetConfig(mac=mac, status=NetStatus.LINK_UP, mtu=options.mtu)
        make = functools.partial(ports.make_queue, port)
        async with SoftwareDatapath.open(make, queues=_QUEUES, workers=ports.workers) as datapath:
            yield cls(config, options, datapath)

    def use_features(self, features: VirtioFeatures) -> None:
        """Learn what the driver has accepted: each ring is told by itself. See `Device`."""

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return part of the configuration space; zeros beyond its end. See `Device`."""
        await trio.lowlevel.checkpoint()
        return self._config[offset : offset + size].ljust(size, b"\0")

    async def write_config(self, offset: int, data: bytes, *, migration: bool) -> None:
        """Refuse: there is nothing to write. See `Device`."""
        await trio.lowlevel.checkpoint()
        if not migration or data != self._config[offset : offset + len(data)]:
            raise RequestError(
                errno.EPERM, "read-only, as all of this device", field="offset", value=offset
            )
