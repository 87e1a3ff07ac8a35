"""The driver's end of a network device's control queue: commands, one after the other.

Specification: VIRTIO 1.2, section 5.1.6.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio import NetCommand, NetControlStatus
from vhostuser.frontend.errors import CommandError
from vhostuser.frontend.parts import allocate, free, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.frontend.queue import DriverQueue

__all__ = ["NetControl"]

_NO_ANSWER = 0xFF  # what the byte of the answer holds until the device writes it


class NetControl:
    """A control queue that runs.

    Args:
        queue: the ring behind all pairs; ring 2 where MQ was not negotiated.
    """

    def __init__(self, queue: DriverQueue) -> None:
        self.queue = queue

    async def command(self, command: NetCommand, data: bytes = b"") -> None:
        """Give a command.

        Args:
            command: which.
            data: what comes with it, see `NetCommand`.

        Raises:
            CommandError: the device refused it.
            RingError: the ring has failed.
            MemoryError: guest memory is full.
        """
        answer = await self.execute(bytes(command) + data)
        if answer != NetControlStatus.OK:
            raise CommandError(command, answer)

    async def execute(self, data: bytes, sizes: Sequence[int] = ()) -> int:
        """Have the device carry out any command, legal or not.

        Args:
            data: class, number, and what comes with it.
            sizes: of buffers that it is cut into; what is left is one more.

        Returns:
            The answer; 0xFF: the device wrote none.

        Raises:
            RingError: the ring has failed.
            MemoryError: guest memory is full.
        """
        memory = self.queue.memory
        request = place(memory, data, sizes)
        try:
            (answer,) = allocate(memory, [1])
        except MemoryError:
            free(memory, request)
            raise
        memory.write(answer.gpa, bytes([_NO_ANSWER]))
        parts = [*request, answer]
        await self.queue.lend(request, [answer], lambda: free(memory, parts))
        status = memory.read(answer.gpa, 1)[0]
        free(memory, parts)
        return status
