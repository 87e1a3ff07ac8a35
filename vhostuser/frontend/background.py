"""Tasks beside a block: they end with it, and leave its own exception as it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["background"]


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Give a nursery that ends with the block and does not wrap the block's own exception."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
