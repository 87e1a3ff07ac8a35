"""The front-end: connects to a back-end, negotiates, shares guest memory, starts and stops rings.

It can play the orders of messages that real front-ends use (`vhostuser.frontend.orders`), or send
single messages by `request`. Requests of the back-end are served between our own, as the
specification allows, so a back-end that waits for them while we wait for it is found out.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

import trio

from protocol.vhost_user import (
    CURRENT,
    U64,
    AddMemReg,
    ConfigReply,
    Connection,
    GetConfig,
    GetVringBase,
    ProtocolFeatures,
    RemMemReg,
    Role,
    SetConfig,
    SetMemTable,
    VringState,
)
from protocol.virtio import VirtioFeatures
from vhostuser.frontend.area_map import identify_file
from vhostuser.frontend.background import background
from vhostuser.frontend.channel import MessageChannel
from vhostuser.frontend.errors import FrontendError, RequestRefusedError
from vhostuser.frontend.features import PROTOCOL_FEATURES, TRANSPORT_FEATURES
from vhostuser.frontend.hand_over import HandOver, Host
from vhostuser.frontend.orders import QEMU, Order, Step
from vhostuser.frontend.queue import DriverQueue
from vhostuser.frontend.serving import accept_config_change, serve_backend_channel
from vhostuser.frontend.steps import REQUEST_STEPS, RING_STEPS
from vhostuser.stream import connect_unix

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from protocol.vhost_user import Dialect, Message, Reply, Request
    from vhostuser.fds import OwnedFd
    from vhostuser.frontend.area_map import FileIdentity
    from vhostuser.frontend.memory import GuestMemory, GuestRegion

__all__ = ["FrontendClient"]

_DEFAULT_HOST = Host()
_BLK_CONFIG_SIZE = 60


class FrontendClient:
    """A front-end on one connection. Make it with `connect` or `over`.

    Attributes:
        memory: the guest's memory; the caller's.
        order: whose habits are played.
        queues: rings that were set up, by index.
        bases: position of each, as SET_VRING_BASE and GET_VRING_BASE carry it.
        shared: regions that the back-end was told of.
        wanted, offered, features: virtio features that we would take, that were offered, that are
            used.
        wanted_protocol, offered_protocol: the same for protocol features.
        queue_num: how many queues the back-end has; 1 unless it said.
        max_mem_slots: how many regions it can take; 8 unless it said.
        config: the device's configuration space, as far as it was asked for.
        config_size: how much of it to ask for, in bytes.
        areas: notify areas that the back-end handed over, by queue.
        groups: VFIO groups that it handed over, by queue.
    """

    def __init__(  # noqa: PLR0913 - called by `over` alone
        self,
        channel: MessageChannel,
        memory: GuestMemory,
        nursery: trio.Nursery,
        *,
        order: Order,
        accept: Callable[[Request], bool],
        host: Host,
    ) -> None:
        self._channel = channel
        self._nursery = nursery
        self._accept = accept
        self._busy = trio.Lock()
        self._watches: dict[int, trio.CancelScope] = {}
        self.memory = memory
        self.order = order
        self.queues: dict[int, DriverQueue] = {}
        self.bases: dict[int, int] = {}
        self.shared: list[GuestRegion] = []
        self.wanted = TRANSPORT_FEATURES
        self.offered = self.features = VirtioFeatures(0)
        self.wanted_protocol = PROTOCOL_FEATURES
        self.offered_protocol = ProtocolFeatures(0)
        self.queue_num = 1
        self.max_mem_slots = 8
        self.config = b""
        self.config_size = _BLK_CONFIG_SIZE
        self._hand_over = HandOver(
            channel.connection.dialect, self.queues, host, self._is_guest_memory
        )
        self.areas = self._hand_over.areas
        self.groups = self._hand_over.groups

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        path: str | os.PathLike[str],
        memory: GuestMemory,
        *,
        order: Order = QEMU,
        dialect: Dialect = CURRENT,
        host: Host = _DEFAULT_HOST,
    ) -> AsyncIterator[FrontendClient]:
        """Connect to a back-end that listens at `path`; disconnect at the end of the block.

        Args:
            path: the back-end's socket.
            memory: the guest's memory; it must outlive the block.
            order: whose habits to play.
            dialect: version of the protocol.
            host: what a hand-over finds on this machine.

        Raises:
            OSError: nobody listens there.
        """
        sock = await connect_unix(path)
        async with cls.over(sock, memory, order=order, dialect=dialect, host=host) as client:
            yield client

    @classmethod
    @contextlib.asynccontextmanager
    async def over(  # noqa: PLR0913 - keyword-only settings of a connection
        cls,
        sock: trio.socket.SocketType,
        memory: GuestMemory,
        *,
        order: Order = QEMU,
        dialect: Dialect = CURRENT,
        accept: Callable[[Request], bool] = accept_config_change,
        host: Host = _DEFAULT_HOST,
    ) -> AsyncIterator[FrontendClient]:
        """Speak over a connected socket; close it at the end of the block.

        The rings' queues are closed too: the back-end sees the end of the connection, not a stop.

        Args:
            sock: taken over.
            memory: the guest's memory; it must outlive the block.
            order: whose habits to play.
            dialect: version of the protocol.
            accept: told of each request of the back-end that hands nothing over; False: it is
                refused.
            host: what a hand-over finds on this machine.
        """
        channel = MessageChannel(sock, Connection(Role.FRONT_END, dialect=dialect))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(channel.close)
            async with background() as nursery:
                client = cls(channel, memory, nursery, order=order, accept=accept, host=host)
                # Only when no task waits for their fds any more.
                stack.push_async_callback(client._close)
                yield client

    async def _close(self) -> None:
        for queue in self.queues.values():
            queue.close()
        await self._hand_over.clear()

    def _is_guest_memory(self, file: FileIdentity) -> bool:
        return any(identify_file(region.fd) == file for region in self.memory.regions)

    @property
    def connection(self) -> Connection:
        """The protocol's side of the main channel."""
        return self._channel.connection

    def has(self, feature: ProtocolFeatures) -> bool:
        """Whether a protocol feature was negotiated."""
        return feature in self.connection.negotiated.protocol_features

    async def request(
        self, message: Message, fds: Sequence[OwnedFd] = (), *, need_reply: bool | None = None
    ) -> Reply | None:
        """Send one message; return its reply, or None where none is due.

        Args:
            message: what to ask.
            fds: sent along; they stay the caller's.
            need_reply: whether to ask for an acknowledgement; None: as the order played has it.

        Raises:
            FrontendError: the back-end refused, or closed the connection; or the message would make
                a notify area guest memory.
            ProtocolError: the message, or the reply, breaks the protocol.
        """
        if need_reply is None:
            need_reply = self.order.acknowledge and self.has(ProtocolFeatures.REPLY_ACK)
        if isinstance(message, AddMemReg | SetMemTable):
            self._require_no_area(fds)
        async with self._busy:
            await self._hand_over.before(message)
            reply = await self._channel.request(message, fds, need_reply=need_reply)
            await self._hand_over.after(message)
            return reply

    def _require_no_area(self, files: Sequence[OwnedFd]) -> None:
        if any(self.areas.holds(identify_file(fd)) for fd in files):
            raise FrontendError(
                "a notify area is no guest memory: share a region whose file is none's"
            )

    async def ask(self, message: Message) -> int:
        """Send a message whose reply is a number; return that. Raises as `request`."""
        return _payload(await self.request(message), U64).value

    async def get_vring_base(self, index: int) -> int:
        """Stop a ring; return its position as SET_VRING_BASE takes it. Raises as `request`."""
        reply = await self.request(GetVringBase(index=index))
        return _payload(reply, VringState).num

    async def get_config(self, offset: int, size: int) -> bytes:
        """Read `size` bytes of the device's configuration space from `offset` on.

        Raises:
            RequestRefusedError: the back-end has no such bytes.
            FrontendError, ProtocolError: as `request`.
        """
        message = GetConfig(offset=offset, size=size)
        data = _payload(await self.request(message), ConfigReply).data
        if not data:
            raise RequestRefusedError(message, 0)
        return data

    async def set_config(self, offset: int, data: bytes, *, migration: bool = False) -> None:
        """Write to the device's configuration space from `offset` on.

        Args:
            offset: of the first byte.
            data: what to write.
            migration: it is part of a migration, and may say again what cannot be written.

        Raises:
            FrontendError, ProtocolError: as `request`.
        """
        await self.request(SetConfig(offset=offset, flags=int(migration), data=data))

    async def add_region(self, region: GuestRegion) -> None:
        """Share one more region of guest memory. Raises as `request`."""
        await self.request(AddMemReg(region=region.description), [region.fd])
        self.shared.append(region)

    async def remove_region(self, region: GuestRegion) -> None:
        """Take a region back. Raises as `request`."""
        await self.request(RemMemReg(region=region.description))
        self.shared.remove(region)

    async def negotiate(
        self,
        *,
        features: VirtioFeatures = TRANSPORT_FEATURES,
        protocol_features: ProtocolFeatures | None = None,
        queues: int = 1,
    ) -> None:
        """Play the order up to where the device is known.

        Args:
            features: virtio features to take if they are offered.
            protocol_features: the same for protocol features; None: PROTOCOL_FEATURES, and those by
                which the dialect hands over notify areas.
            queues: rings of which QEMU speaks before it knows them.

        Raises:
            FrontendError, ProtocolError: as `request`.
        """
        if protocol_features is None:
            protocol_features = PROTOCOL_FEATURES | self.connection.dialect.hand_over_features
        self.wanted, self.wanted_protocol = features, protocol_features
        # SET_FEATURES may come as late as `start`, but what it will say is known.
        await self._play(self.order.connect, range(queues))
        self.features = self.offered & self.wanted

    def setup_queue(
        self, index: int, *, num: int = 128, indirect_entries: int = 0, poll: bool = False
    ) -> DriverQueue:
        """Make a fresh ring in guest memory, of the layout that was negotiated; `start` starts it.

        The queue that `index` had before is closed; stop it first.

        Args:
            index: number of the ring.
            num: ring size in descriptors.
            indirect_entries: length of each slot's indirect table; 0: chains are always direct.
            poll: whether to poll the ring instead of having a call fd.

        Raises:
            MemoryError: guest memory is full.
            OSError: the host is out of file descriptors, or `num` is not legal for the layout.
        """
        old = self.queues.pop(index, None)
        if old is not None:
            old.close()
        queue = DriverQueue(
            self.memory,
            index,
            num=num,
            features=self.features,
            indirect_entries=indirect_entries,
            poll=poll,
        )
        packed = VirtioFeatures.RING_PACKED in self.features
        self.bases[index] = self.order.first_packed_base if packed else 0
        self.queues[index] = queue
        if self.areas.mapped(index):
            self.areas.attach(index)
        return queue

    async def start(self) -> None:
        """Start all rings that were set up. Raises as `request`."""
        await self._play(self.order.start, self.queues)
        for queue in self.queues.values():
            self._watches[queue.index] = trio.CancelScope()
            self._nursery.start_soon(self._watch_errors, queue, self._watches[queue.index])

    async def stop(self) -> None:
        """Stop all rings; `start` goes on where they stopped. Raises as `request`."""
        for watch in self._watches.values():
            watch.cancel()
        self._watches.clear()
        await self._play(self.order.stop, self.queues)

    async def _play(
        self, sequence: Iterable[Step | tuple[Step, ...]], indexes: Iterable[int]
    ) -> None:
        for entry in sequence:
            if isinstance(entry, Step):
                await REQUEST_STEPS[entry](self)
                continue
            for index in indexes:
                for step in entry:
                    await RING_STEPS[step](self, index)

    def serve(self, channel: MessageChannel) -> None:
        """Answer the back-end's requests on `channel` from now on; it is taken over."""
        self._nursery.start_soon(self._serve, channel)

    async def _serve(self, channel: MessageChannel) -> None:
        await serve_backend_channel(channel, self._busy, self._take)
        async with self._busy:
            await self._hand_over.clear()

    async def _take(self, request: Request) -> bool:
        if self._hand_over.concerns(request.message):
            return await self._hand_over.take(request)
        return self._accept(request)

    @staticmethod
    async def _watch_errors(queue: DriverQueue, scope: trio.CancelScope) -> None:
        with scope:
            await trio.lowlevel.wait_readable(queue.err.fileno())
            queue.fail("the back-end reported that the ring is broken; its log says why")


_Reply = TypeVar("_Reply", bound="Message")


def _payload(reply: Reply | None, kind: type[_Reply]) -> _Reply:
    """Return the payload of a reply whose kind the message table promises."""
    if reply is None or not isinstance(reply.message, kind):
        raise TypeError(f"this request is not answered by a {kind.__name__}")
    return reply.message
