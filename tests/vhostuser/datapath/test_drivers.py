"""Drivers are found by their entry points, and the page that shows one shows what was tried."""

from __future__ import annotations

import importlib.metadata

import pytest
import trio
from accelerators import EXAMPLE, load_example

from protocol.virtio import VirtioFeatures
from vhostuser.datapath import open_accelerator
from vhostuser.devices import AcceleratedDevice
from vhostuser.errors import UsageError
from vhostuser.frontend import FrontendClient, GuestMemory
from vhostuser.testing import serving

PAGE = EXAMPLE.parents[1] / "how-to/write-a-driver.md"


@pytest.fixture
def installed(monkeypatch):
    """The example as an installed package would bring it."""
    module = load_example()

    class Point:
        name = "entropy"

        def load(self):
            return module.open_accelerator

    class Points(dict):
        names = ("entropy",)

    points = Points(entropy=Point())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


async def test_the_example_serves_a_front_end(installed, tmp_path):
    with trio.fail_after(20), GuestMemory() as memory:
        async with (
            open_accelerator("entropy:anything") as accelerator,
            AcceleratedDevice.open(accelerator) as device,
            serving(tmp_path / "socket", device),
            FrontendClient.connect(tmp_path / "socket", memory) as client,
        ):
            assert device.profile.kind == "rng"
            await client.negotiate(features=VirtioFeatures.VERSION_1 | 1 << 30)
            client.setup_queue(0, num=64)
            await client.start()
            seen = set()
            for _ in range(10):
                buffer = memory.alloc(64)
                assert await client.queues[0].transfer([], [buffer]) == 64
                seen.add(memory.read(buffer.gpa, 64))
    assert len(seen) == 10


def test_the_page_shows_the_example_and_it_has_forty_lines():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert f"```python\n{text}```\n" in PAGE.read_text(encoding="utf-8")
    code = [line for line in text.splitlines()[1:] if line.strip()]
    assert len(code) == 40


@pytest.mark.parametrize("name", ["", "entropy", "entropy:", "other:x", ":x"])
def test_what_names_no_accelerator_is_refused_with_what_there_is(installed, name):
    with pytest.raises(UsageError, match="installed: entropy:ADDRESS"):
        open_accelerator(name)


def test_our_own_drivers_are_installed():
    names = importlib.metadata.entry_points(group="vhostuser.accelerators").names
    assert {"vfio", "vfio-user"} <= names
