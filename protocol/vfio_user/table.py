"""THE command table: one row for each command, and nothing about commands listed anywhere else.

Dispatch, the decoder and the reference page are derived from it. Number 14 (dirty pages) was
removed from the protocol. Specification: vfio-user, "Commands".
"""

from protocol.vfio_user import formats as f
from protocol.vfio_user import messages as m
from protocol.vfio_user.rows import CommandRow, Part, Role

__all__ = ["COMMANDS", "ROWS", "row_of"]

_MOST_FDS = 253
_DONE = Part()


def _row(
    number: int, name: str, request: Part, reply: Part = _DONE, sender: Role = Role.CLIENT
) -> CommandRow:
    return CommandRow(number=number, name=name, sender=sender, request=request, reply=reply)


ROWS: tuple[CommandRow, ...] = (
    _row(1, "VERSION", Part(m.Version, f.VERSION), Part(m.VersionReply, f.VERSION, (0, 1))),
    _row(2, "DMA_MAP", Part(m.DmaMap, f.DMA_MAP, (0, 1))),
    _row(3, "DMA_UNMAP", Part(m.DmaUnmap, f.DMA_UNMAP), Part(m.DmaUnmapReply, f.DMA_UNMAP)),
    _row(
        4,
        "DEVICE_GET_INFO",
        Part(m.DeviceGetInfo, f.DEVICE_INFO),
        Part(m.DeviceInfo, f.DEVICE_INFO),
    ),
    _row(
        5,
        "DEVICE_GET_REGION_INFO",
        Part(m.DeviceGetRegionInfo, f.REGION_INFO),
        Part(m.RegionInfo, f.REGION_INFO, (0, 1)),
    ),
    _row(
        6,
        "DEVICE_GET_REGION_IO_FDS",
        Part(m.DeviceGetRegionIoFds, f.IO_FDS),
        Part(m.RegionIoFds, f.IO_FDS, (0, _MOST_FDS)),
    ),
    _row(
        7,
        "DEVICE_GET_IRQ_INFO",
        Part(m.DeviceGetIrqInfo, f.IRQ_INFO),
        Part(m.IrqInfo, f.IRQ_INFO),
    ),
    _row(8, "DEVICE_SET_IRQS", Part(m.DeviceSetIrqs, f.SET_IRQS, (0, _MOST_FDS))),
    _row(
        9,
        "REGION_READ",
        Part(m.RegionRead, f.REGION_ACCESS),
        Part(m.RegionReadReply, f.REGION_DATA),
    ),
    _row(
        10,
        "REGION_WRITE",
        Part(m.RegionWrite, f.REGION_DATA),
        Part(m.RegionWriteReply, f.REGION_ACCESS),
    ),
    _row(
        11,
        "DMA_READ",
        Part(m.DmaRead, f.DMA_ACCESS),
        Part(m.DmaReadReply, f.DMA_DATA),
        Role.SERVER,
    ),
    _row(
        12,
        "DMA_WRITE",
        Part(m.DmaWrite, f.DMA_DATA),
        Part(m.DmaWriteReply, f.DMA_ACCESS),
        Role.SERVER,
    ),
    _row(13, "DEVICE_RESET", Part(m.DeviceReset)),
    _row(
        15,
        "REGION_WRITE_MULTI",
        Part(m.RegionWriteMulti, f.WRITE_MULTI),
        Part(m.RegionWriteMultiReply, f.COUNT),
    ),
    _row(
        16,
        "DEVICE_FEATURE",
        Part(m.DeviceFeature, f.FEATURE),
        Part(m.DeviceFeatureReply, f.FEATURE),
    ),
    _row(
        17,
        "MIG_DATA_READ",
        Part(m.MigDataRead, f.MIGRATION_SIZE),
        Part(m.MigDataReadReply, f.MIGRATION_DATA),
    ),
    _row(18, "MIG_DATA_WRITE", Part(m.MigDataWrite, f.MIGRATION_DATA)),
)
"""The commands, by number."""

COMMANDS = {row.number: row for row in ROWS}
_BY_MESSAGE = {row.request.message: row for row in ROWS}
_BY_REPLY = {row.reply.message: row for row in ROWS if row.reply.message}


def row_of(message: type[m.Message]) -> CommandRow | None:
    """Return the row that has this class as its request or its reply."""
    return _BY_MESSAGE.get(message) or _BY_REPLY.get(message)
