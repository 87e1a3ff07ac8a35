"""Plans carried out: where the slow parts of a memory change happen."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from vhostuser.frontend import FrontendClient, GuestMemory, RegionLayout
from vhostuser.memory import MemoryChange
from vhostuser.testing import FakeDevice, serving

MAPPING = "memfd:guest-memory"


def mappings():
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(MAPPING)


@pytest.fixture
def released(monkeypatch):
    """For each release: the thread that it ran in, and how many mappings it took away."""
    seen = []
    release = MemoryChange.release

    def spy(change):
        before = mappings()
        release(change)
        seen.append((threading.current_thread(), before - mappings()))

    monkeypatch.setattr(MemoryChange, "release", spy)
    return seen


async def test_memory_is_unmapped_in_a_thread_and_before_the_answer(tmp_path, released):
    layout = [RegionLayout(gpa=gpa, size=1 << 20) for gpa in (0, 1 << 32)]
    with GuestMemory(layout) as memory, trio.fail_after(30):
        async with (
            serving(tmp_path / "socket", FakeDevice()),
            FrontendClient.connect(tmp_path / "socket", memory) as client,
        ):
            await client.negotiate(queues=1)
            for region in memory.regions:
                await client.add_region(region)
            assert [taken for _, taken in released] == [0, 0]
            await client.remove_region(memory.regions[1])
            assert [taken for _, taken in released] == [0, 0, 1]
    assert all(thread is not threading.main_thread() for thread, _ in released)
    assert released[-1][1] == 1  # the end of the session
