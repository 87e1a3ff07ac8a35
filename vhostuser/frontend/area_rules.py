"""What must hold of an offer of a notify area before anything is done about it.

Pure: numbers in, an error out. Rules that need the file are in `area_map`, those that need the
queues in `areas`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from protocol.vhost_user import VringHostNotifier, VringNotifyArea

__all__ = ["MAX_AREA", "require_area"]

MAX_AREA = 1 << 20
"""Bytes of the largest area: 16 pages where pages are largest. A doorbell needs one."""

_FILE_OFFSETS = 1 << 63


def require_area(message: VringHostNotifier | VringNotifyArea, page_size: int) -> None:
    """Check where an area is said to be.

    Args:
        message: the offer.
        page_size: the host's, bytes.

    Raises:
        RequestError: it cannot be an area on this host.
    """
    size, offset = message.size, message.offset
    if not 0 < size <= MAX_AREA or size % page_size:
        raise RequestError(
            errno.EINVAL,
            f"size is a multiple of the page size ({page_size}), at most {MAX_AREA}",
            field="size",
            value=size,
        )
    if offset % page_size:
        raise RequestError(
            errno.EINVAL,
            f"offset is a multiple of the page size ({page_size})",
            field="offset",
            value=offset,
        )
    if offset + size > _FILE_OFFSETS:
        raise RequestError(
            errno.EOVERFLOW, "offset + size does not pass 2^63", field="offset", value=offset
        )
