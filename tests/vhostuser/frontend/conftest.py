"""Guest memory, and back-ends that the test plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from backend_rig import handing_over, memfd, scripted

from vhostuser.frontend import GuestMemory, RegionLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vhostuser.fds import OwnedFd


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory([RegionLayout(gpa=0x4000_0000, size=1 << 20)]) as memory:
        yield memory


@pytest.fixture
def join() -> Callable[..., Any]:
    return scripted


@pytest.fixture
def handing() -> Callable[..., Any]:
    return handing_over


@pytest.fixture
def make_memfd() -> Callable[..., OwnedFd]:
    return memfd
