"""A device that is being served: no test may make the server complain or leave anything open."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import pytest
from served_disk import Served, serving_disk
from served_net import serving_net

from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path


@pytest.fixture
async def served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    """A disk."""
    async with watched(serving_disk(tmp_path / "socket"), caplog) as served:
        yield served


@pytest.fixture
async def served_net(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Served]:
    """A network device."""
    async with watched(serving_net(tmp_path / "socket"), caplog) as served:
        yield served


@contextlib.asynccontextmanager
async def watched(
    serving: AbstractAsyncContextManager[Served], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Served]:
    caplog.set_level(logging.INFO, logger="vhostuser")
    before = held()
    async with serving as served:
        yield served
    assert not held().more_than(before)
    complaints = [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("vhostuser")
    ]
    unexpected = [
        line for line in complaints if not any(words in line for words in served.expected)
    ]
    assert unexpected == []
