"""An accelerator driver in forty lines: a virtio entropy device that lives in this process."""

import contextlib
import ctypes
import os
from dataclasses import asdict

from protocol.virtio import VirtioFeatures
from vhostuser.datapath import Accelerator, AcceleratorIdentity
from vhostuser.virtqueue import PureDeviceRing, PureMemory, PureRingConfig, RingState


class Entropy(Accelerator):
    identity = AcceleratorIdentity(device_id=4, name="entropy")
    features = VirtioFeatures.VERSION_1 | VirtioFeatures.RING_PACKED
    queue_sizes = (64,)

    def __init__(self):
        self.regions, self.call, self.device_ring = {}, None, None

    async def reset(self):
        self.device_ring = None

    async def set_features(self, features):
        self.bits = features

    async def map(self, mapped):
        array = (ctypes.c_ubyte * mapped.region.size).from_address(mapped.hva)
        self.regions[mapped.region.gpa] = memoryview(array).cast("B")

    async def unmap(self, mapped):
        del self.regions[mapped.region.gpa]

    async def start_queue(self, index, at, state):
        self.memory = PureMemory(self.regions)
        config = PureRingConfig(features=self.bits, state=RingState(avail=0, used=0), **asdict(at))
        self.device_ring = PureDeviceRing(self.memory, config)

    async def set_call(self, index, fd):
        old, self.call = self.call, fd and fd.duplicate()
        if old:
            old.close()

    async def ring(self, index):
        while chain := self.device_ring.pop():
            for part in chain.writable:
                self.memory.write(part.address, os.urandom(part.length))
            self.device_ring.push(chain, sum(part.length for part in chain.writable))
        if self.device_ring.publish() and self.call:
            os.eventfd_write(self.call.fileno(), 1)


@contextlib.asynccontextmanager
async def open_accelerator(address):
    yield Entropy()
