"""Accelerators that live in this process: the documentation's example, and variations of it."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vhostuser.datapath import AcceleratorCapabilities, AcceleratorNews, NotifyArea
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from vhostuser.virtqueue import RingState

EXAMPLE = Path(__file__).parents[2] / "docs/examples/entropy.py"
PAGE = 4096


def load_example():
    spec = importlib.util.spec_from_file_location("entropy", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Entropy(load_example().Entropy):
    """The example, with a diary and faults on request."""

    def __init__(self, *, stateful: bool = False, queues: int = 1, area: bool = False) -> None:
        super().__init__()
        self.diary: list[str] = []
        self.queue_sizes = (64,) * queues
        self.refuse: dict[str, str] = {}
        self.burnt = False
        self.area = OwnedFd(os.memfd_create("area", os.MFD_CLOEXEC)) if area else None
        if self.area is not None:
            os.truncate(self.area.fileno(), PAGE)
        self.capabilities = AcceleratorCapabilities(
            start_at_state=stateful, report_state=stateful, late_queues=stateful
        )
        self._say, self._news = trio.open_memory_channel[AcceleratorNews](10)

    def note(self, what: str) -> None:
        self.diary.append(what)
        reason = self.refuse.pop(what.partition(" ")[0], None)
        if reason is not None:
            raise AcceleratorError(reason)

    async def reset(self):
        self.note("reset")
        if self.burnt:
            raise AcceleratorError("it burnt", errno.ENODEV)
        await super().reset()

    async def set_features(self, features):
        self.note("features")
        await super().set_features(features)

    async def map(self, mapped):
        self.note(f"map {mapped.region.gpa:#x}")
        await super().map(mapped)

    async def unmap(self, mapped):
        self.diary.append(f"unmap {mapped.region.gpa:#x}")
        await super().unmap(mapped)

    async def start_queue(self, index, at, state):
        self.note(f"start_queue {index} {'at state' if state else 'at the beginning'}")
        await super().start_queue(index, at, None)
        if state is not None:
            self.device_ring = self.at(state)

    def at(self, state: RingState):
        raise NotImplementedError

    async def start(self):
        self.note("start")

    def doorbell(self, index):
        return None

    async def notify_area(self, index, page_size):
        if self.area is None:
            return await super().notify_area(index, page_size)
        return NotifyArea(fd=self.area.duplicate(), offset=0, size=page_size)

    async def news(self):
        return await self._news.receive()

    def say(self, news: AcceleratorNews) -> None:
        self._say.send_nowait(news)

    def close(self) -> None:
        if self.area is not None:
            self.area.close()
        if self.call is not None:
            self.call.close()


@contextlib.contextmanager
def entropy(**options):
    accelerator = Entropy(**options)
    with contextlib.closing(accelerator):
        yield accelerator
