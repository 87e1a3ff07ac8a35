"""The common configuration structure of the function: one getter or setter a field.

Specification: VIRTIO 1.2, 4.1.4.3 "Common configuration structure layout".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.simulator.actions import BindQueue
from accel.simulator.structure import Structure
from protocol.virtio.pci import (
    COMMON_SIZE_WITH_RESET,
    FEATURE_WORDS,
    MSI_NO_VECTOR,
    CommonRegister,
)

if TYPE_CHECKING:
    from accel.simulator.actions import Action
    from accel.simulator.queue import QueueRegisters
    from accel.simulator.state import FunctionState

__all__ = ["CommonStructure"]

_WORD = (1 << 32) - 1


class CommonStructure(Structure):
    """Shows and changes the function's state.

    Args:
        state: of the function.
    """

    table = CommonRegister
    size = COMMON_SIZE_WITH_RESET

    def __init__(self, state: FunctionState) -> None:
        super().__init__()
        self._state = state
        self.forget()

    def forget(self) -> None:
        """Choose the first of everything, as after a reset."""
        self._device_word = 0
        self._driver_word = 0
        self._index = 0

    @property
    def _queue(self) -> QueueRegisters | None:
        """The chosen queue; None: there is none of this number."""
        queues = self._state.queues
        return queues[self._index] if self._index < len(queues) else None

    # ---- the function -----------------------------------------------------------------------

    def _get_device_feature_select(self) -> int:
        return self._device_word

    def _set_device_feature_select(self, value: int) -> list[Action]:
        self._device_word = value
        return []

    def _get_device_feature(self) -> int:
        return _word_of(int(self._state.features), self._device_word)

    def _get_driver_feature_select(self) -> int:
        return self._driver_word

    def _set_driver_feature_select(self, value: int) -> list[Action]:
        self._driver_word = value
        return []

    def _get_driver_feature(self) -> int:
        return _word_of(int(self._state.driver_features), self._driver_word)

    def _set_driver_feature(self, value: int) -> list[Action]:
        # Words that nobody knows yet: what is not offered is refused, and they cannot be kept.
        self._state.accept(min(self._driver_word, FEATURE_WORDS), value)
        return []

    def _get_config_msix_vector(self) -> int:
        return self._state.config_vector

    def _set_config_msix_vector(self, value: int) -> list[Action]:
        self._state.config_vector = self._state.vector(value)
        return []

    def _get_num_queues(self) -> int:
        return len(self._state.queues)

    def _get_device_status(self) -> int:
        return int(self._state.status)

    def _set_device_status(self, value: int) -> list[Action]:
        if value == 0:
            self.forget()
        return self._state.set_status(value)

    def _get_config_generation(self) -> int:
        return self._state.generation

    # ---- the chosen queue -------------------------------------------------------------------

    def _get_queue_select(self) -> int:
        return self._index

    def _set_queue_select(self, value: int) -> list[Action]:
        self._index = value
        return []

    def _get_queue_size(self) -> int:
        return 0 if self._queue is None else self._queue.size

    def _set_queue_size(self, value: int) -> list[Action]:
        if self._queue is not None and self._queue.settled:
            self._queue.size = value
        return []

    def _get_queue_msix_vector(self) -> int:
        return MSI_NO_VECTOR if self._queue is None else self._queue.vector

    def _set_queue_msix_vector(self, value: int) -> list[Action]:
        if self._queue is None:
            return []
        self._queue.vector = self._state.vector(value)
        return [BindQueue(index=self._index)]

    def _get_queue_enable(self) -> int:
        return 0 if self._queue is None else int(self._queue.enabled)

    def _set_queue_enable(self, value: int) -> list[Action]:
        # Only 1 means something: a queue is disabled by a reset, its own or the device's.
        if self._queue is None or value != 1:
            return []
        return self._state.enable_queue(self._index)

    def _get_queue_notify_off(self) -> int:
        return 0 if self._queue is None else self._index

    def _get_queue_desc(self) -> int:
        return self._address("desc")

    def _set_queue_desc(self, value: int) -> list[Action]:
        return self._set_address("desc", value)

    def _get_queue_driver(self) -> int:
        return self._address("driver")

    def _set_queue_driver(self, value: int) -> list[Action]:
        return self._set_address("driver", value)

    def _get_queue_device(self) -> int:
        return self._address("device")

    def _set_queue_device(self, value: int) -> list[Action]:
        return self._set_address("device", value)

    def _set_queue_reset(self, value: int) -> list[Action]:
        if self._queue is None or value != 1:
            return []
        return self._state.reset_queue(self._index)

    def _address(self, area: str) -> int:
        address: int = 0 if self._queue is None else getattr(self._queue, area)
        return address

    def _set_address(self, area: str, value: int) -> list[Action]:
        if self._queue is not None and self._queue.settled:
            setattr(self._queue, area, value)
        return []


def _word_of(features: int, word: int) -> int:
    """Return 32 bits of a mask; words without features are 0."""
    return features >> 32 * word & _WORD if word <= FEATURE_WORDS else 0
