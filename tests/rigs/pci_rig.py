"""A virtio PCI function in memory: obedient, or as wrong as a test wants it.

It keeps to the register tables of `protocol.virtio.pci` and moves no buffers. What a test makes it
do otherwise: `lies` (registers that read as something else), `refuses_features`, `stuck_reset`,
`stuck_queue`, `dead` (reads give all ones), `depart` (it is pulled out).
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from accel.pci import CONFIG_REGION, Area, MappedArea, PciDevice, Region
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import (
    CAPABILITIES_START,
    CONFIG_SPACE_SIZE,
    MODERN_DEVICE_ID,
    MSI_NO_VECTOR,
    PCI_STATUS_CAPABILITIES,
    QUEUE_STATE_SIZE,
    VIRTIO_VENDOR,
    Capability,
    CapabilityType,
    CommonRegister,
    DeviceStatus,
    MsixCapability,
    PciHeader,
    QueueCommand,
    QueueStateCapability,
    QueueStateRegister,
    QueueStatus,
    StructureCapability,
    build_capabilities,
    find_register,
)
from vhostuser.datapath import NotifyArea
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vhostuser.memory import MappedRegion

BAR = 4
COMMON_AT, ISR_AT, CONFIG_AT, STATE_AT, NOTIFY_AT = 0x0, 0x1000, 0x2000, 0x2800, 0x10000
BASIC = VirtioFeatures.VERSION_1 | VirtioFeatures.ACCESS_PLATFORM | VirtioFeatures.EVENT_IDX
_IN_ONE_QUEUE = (CommonRegister, QueueStateRegister)


@dataclass
class ModelQueue:
    largest: int
    notify_off: int
    size: int = 0
    vector: int = MSI_NO_VECTOR
    enable: int = 0
    areas: dict[CommonRegister, int] = field(default_factory=dict)
    status: QueueStatus = QueueStatus.IDLE
    avail: int = 0
    used: int = 0

    def reset(self) -> None:
        self.size, self.vector, self.enable = self.largest, MSI_NO_VECTOR, 0
        self.areas = {}
        self.status, self.avail, self.used = QueueStatus.IDLE, 0, 0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a model is like from the beginning."""

    sizes: Sequence[int] = (256, 256)
    features: VirtioFeatures = BASIC
    multiplier: int = 4096
    vectors: int = 8
    queue_state: bool = False
    notify_offs: Sequence[int] | None = None
    notify_size: int | None = None
    extra: Sequence[Capability] = ()
    config: bytes = bytes(range(64))
    in_group: bool = False


class ModelDevice(PciDevice):
    """One function. Close it after its driver."""

    def __init__(self, shape: Shape | None = None) -> None:
        shape = shape or Shape()
        sizes = shape.sizes
        self.name = "model"
        self.vectors = shape.vectors
        offs = shape.notify_offs if shape.notify_offs is not None else range(len(sizes))
        self.queues = [ModelQueue(size, off) for size, off in zip(sizes, offs, strict=True)]
        self.offered = shape.features
        self.config = bytearray(shape.config)
        self.generation = 0
        self.status = 0
        self.accepted = 0
        self.config_vector = MSI_NO_VECTOR
        self.selects: dict[object, int] = {}
        self.lies: dict[object, int] = {}
        self.refused_vectors: set[int] = set()
        self.refuses_features = self.stuck_reset = self.stuck_queue = self.dead = False
        self.function_resets = 0
        self.map_doorbells = True
        self.eventfd_doorbells = False
        self.shares = True
        self.rung: list[int] = []
        self.writes: list[tuple[object, int]] = []
        self.mapped: list[MappedRegion] = []
        self.bound: dict[int, OwnedFd] = {}
        self.doorbells: list[OwnedFd] = []
        self._in_group = shape.in_group
        self._gone: str = ""
        self._departed = trio.Event()
        notify_size = (
            shape.notify_size or max(1, shape.multiplier) * max(len(sizes), *offs, 1) + 0x10000
        )
        self.bar_size = NOTIFY_AT + notify_size
        self.regions: Mapping[int, Region] = {
            BAR: Region(
                size=self.bar_size,
                readable=True,
                writable=True,
                areas=(Area(NOTIFY_AT, notify_size),),
            ),
            CONFIG_REGION: Region(size=CONFIG_SPACE_SIZE, readable=True, writable=True),
        }
        self.memory = OwnedFd(os.memfd_create("model", os.MFD_CLOEXEC))
        os.ftruncate(self.memory.fileno(), self.bar_size)
        capabilities: list[Capability] = [
            *shape.extra,
            StructureCapability(type=CapabilityType.COMMON, bar=BAR, offset=COMMON_AT, size=60),
            StructureCapability(
                type=CapabilityType.NOTIFY,
                bar=BAR,
                offset=NOTIFY_AT,
                size=notify_size,
                multiplier=shape.multiplier,
            ),
            StructureCapability(type=CapabilityType.ISR, bar=BAR, offset=ISR_AT, size=1),
            StructureCapability(
                type=CapabilityType.DEVICE, bar=BAR, offset=CONFIG_AT, size=len(shape.config)
            ),
            MsixCapability(
                vectors=max(1, shape.vectors),
                table_bar=1,
                table_offset=0,
                pending_bar=1,
                pending_offset=0x800,
            ),
        ]
        if shape.queue_state:
            capabilities.append(
                QueueStateCapability(bar=BAR, offset=STATE_AT, size=QUEUE_STATE_SIZE)
            )
        self.config_space = config_space(capabilities)

    # PciDevice

    async def read(self, region: int, offset: int, width: int) -> int:
        await self._arrive()
        if self.dead:
            return (1 << 8 * width) - 1
        row = self._row(region, offset, width)
        if row in self.lies:
            return self.lies[row]
        return self._get(row)

    async def write(self, region: int, offset: int, width: int, value: int) -> None:
        await self._arrive()
        assert 0 <= value < 1 << 8 * width
        if offset >= NOTIFY_AT:
            assert width == 2
            self.rung.append(value)
            return
        row = self._row(region, offset, width)
        self.writes.append((row, value))
        if not self.dead:
            self._set(row, value, offset)

    async def read_block(self, region: int, offset: int, size: int) -> bytes:
        await self._arrive()
        if self.dead:
            return b"\xff" * size
        if region == CONFIG_REGION:
            return bytes(self.config_space[offset : offset + size])
        assert region == BAR
        start = offset - CONFIG_AT
        assert 0 <= start <= start + size <= len(self.config)
        return bytes(self.config[start : start + size])

    async def write_block(self, region: int, offset: int, data: bytes) -> None:
        await self._arrive()
        start = offset - CONFIG_AT
        assert region == BAR
        assert 0 <= start <= start + len(data) <= len(self.config)
        self.config[start : start + len(data)] = data

    def map_area(self, region: int, offset: int, size: int) -> MappedArea | None:
        areas = self.regions[region].areas
        if not self.map_doorbells or not any(area.holds(offset, size) for area in areas):
            return None
        return MappedArea(self.memory, offset, size)

    def share_area(self, region: int, offset: int, size: int) -> NotifyArea:
        if not self.shares:
            raise AcceleratorError("the model does not share")
        return NotifyArea(fd=self.memory.duplicate(), offset=offset, size=size)

    async def doorbell_fd(self, region: int, offset: int, width: int, value: int) -> OwnedFd | None:
        await self._arrive()
        if not self.eventfd_doorbells:
            return None
        fd = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self.doorbells.append(fd.duplicate())
        return fd

    async def set_vectors(self, fds: Mapping[int, OwnedFd | None]) -> None:
        await self._arrive()
        for vector, fd in fds.items():
            assert 0 <= vector < self.vectors
            old = self.bound.pop(vector, None)
            if old is not None:
                old.close()
            if fd is not None:
                self.bound[vector] = fd.duplicate()

    async def map_memory(self, region: MappedRegion) -> None:
        await self._arrive()
        self.mapped.append(region)

    async def unmap_memory(self, region: MappedRegion) -> None:
        await self._arrive()
        self.mapped.remove(region)

    async def reset(self) -> None:
        await self._arrive()
        self.function_resets += 1
        if self.function_resets > 1 or not self.stuck_reset:
            raise OSError(errno.EINVAL, "no function reset")
        self.stuck_reset = False
        self._reset()

    def group(self) -> OwnedFd | None:
        return self.memory.duplicate() if self._in_group else None

    async def gone(self) -> str:
        await self._departed.wait()
        return self._gone

    # What tests do

    def interrupt(self, vector: int) -> None:
        os.eventfd_write(self.bound[vector].fileno(), 1)

    def change_config(self, data: bytes) -> None:
        self.config[: len(data)] = data
        self.generation = (self.generation + 1) % 256

    def depart(self, why: str) -> None:
        self._gone = why
        self._departed.set()
        for fd in self.bound.values():
            fd.close()
        self.bound.clear()

    def doorbell_value(self, index: int, multiplier: int) -> bytes:
        place = NOTIFY_AT + self.queues[index].notify_off * multiplier
        return os.pread(self.memory.fileno(), 2, place)

    def close(self) -> None:
        assert not self.bound, "vectors stayed bound"
        for fd in (self.memory, *self.doorbells):
            fd.close()

    # Registers

    async def _arrive(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._gone:
            raise OSError(errno.ENODEV, self._gone)

    def _row(self, region: int, offset: int, width: int) -> object:
        assert region == BAR
        for table, at in ((CommonRegister, COMMON_AT), (QueueStateRegister, STATE_AT)):
            found = find_register(table, offset - at, width)
            if found is not None:
                return found[0]
        raise AssertionError(f"no register at {offset:#x} with {width} bytes")

    def _queue(self, row: object) -> ModelQueue | None:
        select = (
            CommonRegister.QUEUE_SELECT
            if isinstance(row, CommonRegister)
            else QueueStateRegister.QUEUE_SELECT
        )
        index = self.selects.get(select, 0)
        return self.queues[index] if index < len(self.queues) else None

    def _get(self, row: object) -> int:
        queue = self._queue(row)
        word = self.selects.get(CommonRegister.DEVICE_FEATURE_SELECT, 0)
        whole: dict[object, int] = {
            CommonRegister.NUM_QUEUES: len(self.queues),
            CommonRegister.DEVICE_STATUS: self.status,
            CommonRegister.CONFIG_GENERATION: self.generation,
            CommonRegister.CONFIG_MSIX_VECTOR: self.config_vector,
            CommonRegister.DEVICE_FEATURE: (int(self.offered) >> 32 * word) & 0xFFFFFFFF,
        }
        if row in whole:
            return whole[row]
        if queue is None:
            return 0
        return {
            CommonRegister.QUEUE_SIZE: queue.size,
            CommonRegister.QUEUE_MSIX_VECTOR: queue.vector,
            CommonRegister.QUEUE_ENABLE: queue.enable,
            CommonRegister.QUEUE_NOTIFY_OFF: queue.notify_off,
            CommonRegister.QUEUE_RESET: 0,
            QueueStateRegister.STATUS: queue.status.value,
            QueueStateRegister.AVAIL: queue.avail,
            QueueStateRegister.USED: queue.used,
        }[row]

    def _set(self, row: object, value: int, offset: int) -> None:
        if row is CommonRegister.DEVICE_STATUS:
            self._set_status(value)
        elif row is CommonRegister.DRIVER_FEATURE:
            self.accepted |= value << 32 * self.selects[CommonRegister.DRIVER_FEATURE_SELECT]
        elif row is CommonRegister.CONFIG_MSIX_VECTOR:
            self.config_vector = MSI_NO_VECTOR if value in self.refused_vectors else value
        elif isinstance(row, CommonRegister | QueueStateRegister) and row.name.endswith("SELECT"):
            self.selects[row] = value
        else:
            queue = self._queue(row)
            assert queue is not None
            self._set_in_queue(queue, row, value, offset)

    def _set_in_queue(self, queue: ModelQueue, row: object, value: int, offset: int) -> None:
        if row is CommonRegister.QUEUE_SIZE:
            queue.size = value
        elif row is CommonRegister.QUEUE_MSIX_VECTOR:
            queue.vector = MSI_NO_VECTOR if value in self.refused_vectors else value
        elif row is CommonRegister.QUEUE_ENABLE:
            queue.enable, queue.status = value, QueueStatus.ENABLED
        elif row is CommonRegister.QUEUE_RESET:
            if not self.stuck_queue:
                queue.reset()
        elif row is QueueStateRegister.COMMAND:
            assert value == QueueCommand.SUSPEND
            queue.status = QueueStatus.SUSPENDING if self.stuck_queue else QueueStatus.SUSPENDED
            queue.enable = int(self.stuck_queue)
        elif row is QueueStateRegister.AVAIL:
            queue.avail = value
        elif row is QueueStateRegister.USED:
            queue.used = value
        elif isinstance(row, CommonRegister):
            half = 8 * (offset - COMMON_AT - row.value.offset)
            kept = queue.areas.get(row, 0) & ~(0xFFFFFFFF << half)
            queue.areas[row] = kept | value << half

    def _set_status(self, value: int) -> None:
        if value == 0:
            if not self.stuck_reset:
                self._reset()
            return
        if value & DeviceStatus.FEATURES_OK and self.refuses_features:
            value &= ~DeviceStatus.FEATURES_OK
        self.status = value

    def _reset(self) -> None:
        self.status = self.accepted = 0
        self.config_vector = MSI_NO_VECTOR
        for queue in self.queues:
            queue.reset()


def config_space(capabilities: Sequence[Capability], *, device_type: int = 2) -> bytearray:
    """Return the configuration space of a modern virtio function."""
    space = bytearray(CONFIG_SPACE_SIZE)
    struct.pack_into("<HH", space, PciHeader.VENDOR, VIRTIO_VENDOR, MODERN_DEVICE_ID + device_type)
    struct.pack_into("<H", space, PciHeader.STATUS, PCI_STATUS_CAPABILITIES)
    space[PciHeader.CAPABILITIES] = CAPABILITIES_START
    built = build_capabilities(capabilities)
    space[CAPABILITIES_START : CAPABILITIES_START + len(built)] = built
    return space
