"""A vfio-user client: asks a server about its device and drives it, as messages.

All methods may run at the same time; the server's own commands (DMA) are served meanwhile.
`accel.vfio_user.device` makes a `PciDevice` of it. Specification: vfio-user, "Commands".
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, TypeVar

import trio

from accel.vfio_user.channel import Channel
from accel.vfio_user.dma import DmaTable
from accel.vfio_user.given import GivenMemory, serve_dma
from protocol import vfio_user as wire
from protocol.addresses import Iova
from vhostuser.errors import AcceleratorError, UsageError
from vhostuser.fds import OwnedFd
from vhostuser.stream import connect_unix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["SECONDS", "VfioUserClient", "connect", "over"]

SECONDS = 5.0
"""How long an answer may take: what QEMU waits, too."""

_MOST_FDS = 64
_MOST_MAPS = 65535
_MOST_ASKED = 3
"""How often a description is asked for: it may need more room each time, but not for ever."""

_FIRST_WORDS = {
    errno.ETIMEDOUT: "a server may have one client at a time, so end the other one first",
    errno.ENODEV: "make sure that it speaks vfio-user",
}
"""What to do when the first message leads nowhere, by errno."""

_R = TypeVar("_R", bound=wire.Message)


class VfioUserClient:
    """One connection to a server. Make it with `connect` or `over`.

    Args:
        channel: the connection, over which nothing was said yet.
        name: of the device, for messages to people.

    Attributes:
        name: of the device, for messages to people.
        memory: what was given to the device.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self.name = name
        self.memory = DmaTable[GivenMemory](most=_MOST_MAPS)
        self._channel = channel
        self._silent = False

    @property
    def agreed(self) -> wire.Negotiated:
        """What was agreed with the server."""
        agreed = self._channel.connection.negotiated
        assert agreed is not None  # `over` has seen to it
        return agreed

    async def gone(self) -> str:
        """Wait until the server is gone; return why. Cancellable."""
        return await self._channel.wait_ended()

    def leave(self, reason: str) -> None:
        """End the connection: the server must forget what it was given.

        Args:
            reason: what everybody is told from now on.
        """
        self._channel.end(reason)

    async def agree(self) -> None:
        """Say what we can do, and hear what the server can.

        Raises:
            AcceleratorError: as all methods: the server refused, is gone, or is too slow.
        """
        proposal = wire.Version.offering(
            wire.Capabilities(
                max_msg_fds=_MOST_FDS,
                max_data_xfer_size=wire.DEFAULT_DATA_XFER_SIZE,
                max_dma_maps=_MOST_MAPS,
                pgsizes=wire.DEFAULT_PGSIZES,
            )
        )
        try:
            await self._ask(proposal, wire.VersionReply)
        except AcceleratorError as error:
            number = error.errno or errno.EIO
            if number not in _FIRST_WORDS:
                raise
            text = f"{error.strerror}: {_FIRST_WORDS[number]}"
            raise AcceleratorError(text, number) from error

    async def device_info(self) -> wire.DeviceInfo:
        """Return how many regions and interrupts the device has. Raises as `agree`."""
        return (await self._ask(wire.DeviceGetInfo(), wire.DeviceInfo))[0]

    async def region_info(self, index: int) -> tuple[wire.RegionInfo, OwnedFd | None]:
        """Return the description of a region, and what it can be mapped from, the caller's.

        Raises: as `agree`.
        """
        argsz = wire.DeviceGetRegionInfo(index=index).argsz
        for _ in range(_MOST_ASKED):
            message = wire.DeviceGetRegionInfo(index=index, argsz=argsz)
            info, fds = await self._ask(message, wire.RegionInfo)
            if info.complete:
                return info, fds[0] if fds else None
            _close_all(fds)
            argsz = info.needed
        raise self._unsteady(f"region {index}")

    async def io_fds(self, region: int) -> tuple[tuple[wire.IoFd, ...], list[OwnedFd]]:
        """Return fds that do the same as writes to a region, the caller's. Raises as `agree`."""
        argsz = wire.DeviceGetRegionIoFds(index=region).argsz
        for _ in range(_MOST_ASKED):
            message = wire.DeviceGetRegionIoFds(index=region, argsz=argsz)
            info, fds = await self._ask(message, wire.RegionIoFds)
            if info.complete:
                return info.entries, fds
            _close_all(fds)
            argsz = info.needed
        raise self._unsteady(f"the eventfds of region {region}")

    def _unsteady(self, what: str) -> AcceleratorError:
        return AcceleratorError(
            f"{self.name} needs ever more room to describe {what}", errno.EPROTO
        )

    async def irq_info(self, index: int) -> wire.IrqInfo:
        """Return the description of an interrupt index. Raises as `agree`."""
        return (await self._ask(wire.DeviceGetIrqInfo(index=index), wire.IrqInfo))[0]

    async def set_irqs(self, index: int, start: int, fds: Sequence[OwnedFd]) -> None:
        """Have consecutive vectors signal eventfds.

        Args:
            index: interrupt index.
            start: the first vector.
            fds: for it and those that follow; they stay the caller's.

        Raises: as `agree`; some may have been set.
        """
        most = max(self.agreed.max_msg_fds, 1)
        for done in range(0, len(fds), most):
            part = fds[done : done + most]
            flags = wire.IrqSetFlags.DATA_EVENTFD | wire.IrqSetFlags.TRIGGER
            await self._call(
                wire.DeviceSetIrqs(flags=flags, index=index, start=start + done, count=len(part)),
                part,
            )

    async def unset_irqs(self, index: int, start: int, count: int) -> None:
        """Have consecutive vectors signal nothing. Raises as `agree`."""
        flags = wire.IrqSetFlags.DATA_EVENTFD | wire.IrqSetFlags.TRIGGER
        await self._call(wire.DeviceSetIrqs(flags=flags, index=index, start=start, count=count))

    async def read(self, region: int, offset: int, count: int) -> bytes:
        """Read from a region, in as many messages as it takes. Raises as `agree`."""
        most = self.agreed.max_data_xfer_size
        parts = []
        for done in range(0, count, most):
            part = min(most, count - done)
            message = wire.RegionRead(region=region, offset=offset + done, count=part)
            parts.append((await self._ask(message, wire.RegionReadReply))[0].data)
        return b"".join(parts)

    async def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region, in as many messages as it takes. Raises as `agree`."""
        most = self.agreed.max_data_xfer_size
        for done in range(0, len(data), most):
            part = data[done : done + most]
            await self._call(wire.RegionWrite(region=region, offset=offset + done, data=part))

    async def post(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region without waiting; whether it was carried out is not known.

        What is asked afterwards is carried out afterwards. Raises as `agree`, if it is too long for
        one message, too.
        """
        await self._channel.post(wire.RegionWrite(region=region, offset=offset, data=data))

    async def map(self, memory: GivenMemory, fd: OwnedFd | None, offset: int) -> None:
        """Let the device reach memory.

        Args:
            memory: the memory, mapped here until `unmap` has returned.
            fd: the file that holds it, stays the caller's; None: only messages reach it.
            offset: where it begins in that file.

        Raises: as `agree`; nothing is mapped.
        """
        if len(self.memory) >= self.agreed.max_dma_maps:
            raise AcceleratorError(
                f"{self.name} takes {self.agreed.max_dma_maps} ranges of memory at most",
                errno.ENOSPC,
            )
        self._require_answers()
        message = wire.DmaMap(
            offset=offset if fd is not None else 0, address=Iova(memory.address), size=memory.size
        )
        self.memory.add(memory)
        try:
            # Half done would be worse than late: the server would have what nobody takes back.
            with trio.CancelScope(shield=True):
                await self._call(message, () if fd is None else (fd,))
        except BaseException as error:
            self.memory.discard(memory)
            if isinstance(error, AcceleratorError) and error.errno == errno.ETIMEDOUT:
                self.leave(f"{error.strerror}: whether it has the memory is not known")
            raise

    async def unmap(self, memory: GivenMemory) -> None:
        """Take memory away; when this returns the server has let go of it, or is left.

        Not cancellable.

        Args:
            memory: as it was mapped.
        """
        with trio.CancelScope(shield=True):
            message = wire.DmaUnmap(address=Iova(memory.address), size=memory.size)
            try:
                await self._call(message)
            except AcceleratorError as error:
                self.leave(f"{self.name} kept memory that it had to give back: {error.strerror}")
            await self.memory.drain(memory.address, memory.size)
            self.memory.discard(memory)

    async def reset(self) -> None:
        """Reset the device. Raises as `agree`."""
        await self._call(wire.DeviceReset())

    def _require_answers(self) -> None:
        """Ask nothing of a server that owes an answer: all together would take for ever."""
        self._silent = self._silent and self._channel.connection.overdue > 0
        if self._silent:
            raise AcceleratorError(
                f"{self.name} has not answered for too long; look at its server", errno.ETIMEDOUT
            )

    async def _call(self, message: wire.Message, fds: Sequence[OwnedFd] = ()) -> wire.Reply:
        self._require_answers()
        try:
            return await self._channel.call(message, fds)
        except AcceleratorError as error:
            self._silent = error.errno == errno.ETIMEDOUT
            raise

    async def _ask(self, message: wire.Message, kind: type[_R]) -> tuple[_R, list[OwnedFd]]:
        reply = await self._call(message)
        assert isinstance(reply.message, kind)  # the protocol has seen to it
        return reply.message, [fd for fd in reply.fds if isinstance(fd, OwnedFd)]


def _close_all(fds: Sequence[OwnedFd]) -> None:
    for fd in fds:
        fd.close()


@contextlib.asynccontextmanager
async def connect(
    path: str | os.PathLike[str], *, seconds: float = SECONDS
) -> AsyncIterator[VfioUserClient]:
    """Connect to a server and agree with it; the connection ends with the block.

    Args:
        path: the server's socket.
        seconds: how long each answer may take.

    Raises:
        UsageError: nobody serves a device there; the text says what to do.
        AcceleratorError: the server does not agree.
    """
    try:
        with trio.fail_after(seconds):
            sock = await connect_unix(path)
    except trio.TooSlowError:
        raise UsageError(
            f"the server at {path} does not accept connections: another client may have it"
        ) from None
    except OSError as error:
        raise UsageError(_nobody_at(path, error)) from error
    async with over(sock, f"vfio-user:{path}", seconds=seconds) as client:
        yield client


def _nobody_at(path: str | os.PathLike[str], error: OSError) -> str:
    hint = ""
    if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
        hint = (
            "; start its server first, for example: "
            f"vhostuser simulate blk --socket-path={os.fspath(path)}"
        )
    elif error.errno == errno.EACCES:
        hint = "; it takes write permission on the socket"
    return f"no vfio-user device at {path}: {error.strerror or error}{hint}"


@contextlib.asynccontextmanager
async def over(
    sock: trio.socket.SocketType, name: str, *, seconds: float = SECONDS
) -> AsyncIterator[VfioUserClient]:
    """Agree with the server at the other end of a socket; the connection ends with the block.

    Args:
        sock: taken over.
        name: of the device, for messages to people.
        seconds: how long each answer may take.

    Raises:
        AcceleratorError: the server does not agree.
    """
    limits = wire.Limits(max_msg_fds=_MOST_FDS)
    connection = wire.Connection(wire.Role.CLIENT, limits=limits)
    channel = Channel(sock, connection, peer=name, seconds=seconds)
    client = VfioUserClient(channel, name)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            nursery.start_soon(serve_dma, channel, client.memory)
            try:
                await client.agree()
                yield client
            except BaseException as error:  # noqa: BLE001 - raised again, not in a group
                failure = error
            nursery.cancel_scope.cancel()
    finally:
        channel.close()
    if failure is not None:
        raise failure
