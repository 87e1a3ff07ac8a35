"""What the control socket of `vhostuser blk` can do with disks: add, remove and resize them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.disks import DiskConfig
from vhostuser.monitor.common import COMMON, Which, chosen, plain_config
from vhostuser.monitor.table import CommandRow, Remove, command_table
from vhostuser.options import OptionTable, Size, option
from vhostuser.serving import ID

if TYPE_CHECKING:
    from vhostuser.disks import DiskSet
    from vhostuser.monitor.table import Answer

__all__ = ["DISK_COMMANDS", "OF_DISKS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(OptionTable):
    """Which disk, and how large."""

    id: str | None = option(ID, "which disk (without: the only one)")
    size: int | None = option(
        Size(), "the new size in bytes, or with a unit (without: look how large the image is now)"
    )


async def query_disks(disks: DiskSet, which: Which) -> Answer:
    """Return every disk: how it is served, and to whom."""
    return [
        {
            "id": disk.id,
            "size": disk.size,
            "connection": disk.server.connection and disk.server.connection.number,
            "io": getattr(disk.device.datapath, "io", None),  # not every data path does any
            "config": plain_config(disk.config),
        }
        for disk in chosen(disks, which)
    ]


async def disk_add(disks: DiskSet, config: DiskConfig) -> Answer:
    """Serve one more disk."""
    disk = await disks.add(config)
    return {"id": disk.id, "size": disk.size}


async def disk_remove(disks: DiskSet, which: Remove) -> Answer:
    """End a disk."""
    await disks.remove(which.id)
    return {}


async def block_resize(disks: DiskSet, resize: Resize) -> Answer:
    """Give a disk another size."""
    disk, size = await disks.resize(resize.id, resize.size)
    return {"id": disk.id, "size": size}


OF_DISKS: dict[str, CommandRow] = {
    "query-disks": CommandRow(
        run=query_disks,
        arguments=Which,
        returns="each disk: id, size in bytes, the connection that it is served to (null: none), "
        "how its requests wait for the image, and its options as `disk-add` takes them",
    ),
    "disk-add": CommandRow(
        run=disk_add,
        arguments=DiskConfig,
        returns="id and size in bytes of the disk, once front-ends can connect to it",
    ),
    "disk-remove": CommandRow(
        run=disk_remove,
        arguments=Remove,
        returns="nothing, once its front-end was left, its socket removed and its image closed",
    ),
    "block-resize": CommandRow(
        run=block_resize,
        arguments=Resize,
        returns="id and size in bytes that the disk has now; a running guest is told",
    ),
}
"""What only a server of disks can do."""

DISK_COMMANDS = command_table(COMMON, OF_DISKS)
"""All commands of a server of disks."""
