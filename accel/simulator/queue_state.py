"""The queue state structure of the function: stop one queue, learn where it stands, start it there.

What the fields mean is told in `protocol.virtio.pci.queue_state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.simulator.structure import Structure
from protocol.virtio.pci import QUEUE_STATE_SIZE, QueueCommand, QueueStateRegister, QueueStatus

if TYPE_CHECKING:
    from accel.simulator.actions import Action
    from accel.simulator.queue import QueueRegisters
    from accel.simulator.state import FunctionState

__all__ = ["QueueStateStructure"]


class QueueStateStructure(Structure):
    """Shows and changes the function's state.

    Args:
        state: of the function.
    """

    table = QueueStateRegister
    size = QUEUE_STATE_SIZE

    def __init__(self, state: FunctionState) -> None:
        super().__init__()
        self._state = state
        self.forget()

    def forget(self) -> None:
        """Choose the first queue, as after a reset."""
        self._index = 0

    @property
    def _queue(self) -> QueueRegisters | None:
        """The chosen queue; None: there is none of this number."""
        queues = self._state.queues
        return queues[self._index] if self._index < len(queues) else None

    def _get_queue_select(self) -> int:
        return self._index

    def _set_queue_select(self, value: int) -> list[Action]:
        self._index = value
        return []

    def _set_command(self, value: int) -> list[Action]:
        if self._queue is None or value != QueueCommand.SUSPEND:
            return []
        return self._state.suspend_queue(self._index)

    def _get_status(self) -> int:
        return QueueStatus.IDLE if self._queue is None else self._queue.status

    def _get_avail(self) -> int:
        return 0 if self._queue is None else self._queue.avail

    def _set_avail(self, value: int) -> list[Action]:
        if self._queue is not None:
            self._queue.place("avail", value)
        return []

    def _get_used(self) -> int:
        return 0 if self._queue is None else self._queue.used

    def _set_used(self, value: int) -> list[Action]:
        if self._queue is not None:
            self._queue.place("used", value)
        return []
