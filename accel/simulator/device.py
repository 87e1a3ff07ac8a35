"""The simulated device: does what the register model says, with the engine serving the rings."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from accel.pci import Area
from accel.simulator.actions import (
    BindQueue,
    Reset,
    RingDoorbell,
    StartQueue,
    StopQueue,
    TellDriver,
    UseFeatures,
    WriteConfig,
)
from accel.simulator.doorbells import Doorbells
from accel.simulator.engine_device import BUS_FEATURES, layout_of, offered
from accel.simulator.function import PciFunction
from accel.simulator.injector import Injector
from accel.simulator.layout import DEVICE, NOTIFY_BAR
from accel.simulator.memory import DeviceMemory
from accel.simulator.rings import Rings
from accel.simulator.vectors import Vectors
from accel.vfio_user import MSIX_IRQ, EmulatedDevice, EmulatedRegion, IoFd
from protocol.virtio import VirtioFeatures
from protocol.virtio.pci import MSI_NO_VECTOR
from vhostuser.datapath import RingFd, StopMode
from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from accel.simulator.actions import Action
    from accel.simulator.engine_device import EngineDevice
    from accel.simulator.faults import FaultRequest
    from accel.simulator.layout import Layout
    from accel.simulator.options import SimulatorOptions
    from accel.vfio_user import ClientMemory, DmaRange
    from vhostuser.fds import OwnedFd
    from vhostuser.virtqueue import Fault

__all__ = ["SimulatedDevice"]

_log = logging.getLogger(__name__)
_ERROR_IRQ, _REQUEST_IRQ = 3, 4
_MISSED_SECONDS = 5.0
"""How long a ring may be without its memory before the driver is told."""


class SimulatedDevice(EmulatedDevice):
    """A virtio PCI device on an engine device. Make it with `async with SimulatedDevice.open(…)`.

    What a register write asks for has happened when the write is answered: a queue whose
    suspension was asked for is suspended, a reset device touches nothing.

    Attributes:
        function: its registers.
        injector: the faults that it shall have.
    """

    def __init__(
        self,
        device: EngineDevice,
        name: str,
        layout: Layout,
        faults: Sequence[FaultRequest],
        nursery: trio.Nursery,
    ) -> None:
        self.name = name
        self._device = device
        self._datapath = device.datapath
        self._nursery = nursery
        profile = device.profile
        sizes = [profile.queue_size] * profile.queues
        self.function = PciFunction(layout, offered(profile), sizes)
        self.irqs = {MSIX_IRQ: layout.vectors, _ERROR_IRQ: 1, _REQUEST_IRQ: 1}
        self._vectors = Vectors()
        self._missed: dict[int, object] = {}
        self._memory = DeviceMemory(self._datapath)
        self._new_client = False
        self.injector = Injector(self._datapath, faults, self._need_reset)
        doorbells = Doorbells(layout, layout.bar_sizes[NOTIFY_BAR])
        self._rings = Rings(self._datapath, self._memory, doorbells)
        self._use(doorbells)
        self._datapath.report_to(self)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        device: EngineDevice,
        options: SimulatorOptions,
        *,
        name: str,
        faults: Sequence[FaultRequest] = (),
    ) -> AsyncIterator[SimulatedDevice]:
        """Have a simulated device for the length of the block.

        Args:
            device: what its rings are served from; stays the caller's.
            options: the shape of the PCI function.
            name: for messages to people.
            faults: what shall go wrong, and when.

        Raises:
            OSError: the host is out of memory or file descriptors.
        """
        layout = layout_of(device.profile, options)
        async with trio.open_nursery() as nursery:
            simulated = cls(device, name, layout, faults, nursery)
            try:
                await simulated._show_config()
                nursery.start_soon(simulated.injector.run)
                yield simulated
            finally:
                await simulated._close()
                nursery.cancel_scope.cancel()

    def _use(self, doorbells: Doorbells) -> None:
        """Have doorbells that nobody knows yet."""
        self._rings.doorbells = doorbells
        layout = self.function.layout
        sizes = self.function.region_sizes
        self.regions: Mapping[int, EmulatedRegion] = {
            number: EmulatedRegion(
                size=size,
                areas=(Area(0, layout.notify_size),) if number == NOTIFY_BAR else (),
                fd=doorbells.fd if number == NOTIFY_BAR else None,
            )
            for number, size in sizes.items()
        }

    # ---- the client -------------------------------------------------------------------------

    async def connected(self, memory: ClientMemory) -> None:
        """Give a new client doorbells of its own. See `EmulatedDevice.connected`."""
        del memory  # rings must lie in files
        await trio.lowlevel.checkpoint()
        if self._new_client:
            layout = self.function.layout
            fresh = Doorbells(layout, layout.bar_sizes[NOTIFY_BAR])
            self._rings.doorbells.close()
            self._use(fresh)
        self._new_client = True

    async def read(self, region: int, offset: int, count: int) -> bytes:
        """Read registers. See `EmulatedDevice.read`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self.function.read(region, offset, count)

    async def write(self, region: int, offset: int, data: bytes) -> None:
        """Write registers, and do what that means. See `EmulatedDevice.write`."""
        await self._do(self.function.write(region, offset, data))

    async def map(self, dma: DmaRange) -> None:
        """Let rings use memory. See `EmulatedDevice.map`."""
        await self._memory.map(dma)
        await self._do(self.function.state.give_memory(self._memory.reaches))

    async def unmap(self, dma: DmaRange) -> None:
        """Use memory no longer; rings in it wait for it. See `EmulatedDevice.unmap`."""
        waiting = self.function.state.take_memory(dma.address, dma.size)
        await self._do(waiting)
        await self._memory.unmap(dma)
        for action in waiting:
            if isinstance(action, StopQueue):
                self._nursery.start_soon(self._miss, action.index)

    async def set_irqs(self, index: int, start: int, fds: Sequence[OwnedFd | None]) -> None:
        """Bind vectors. See `EmulatedDevice.set_irqs`."""
        if index != MSIX_IRQ:
            return  # errors and requests of the host: there are none to signal
        self._vectors.set(start, fds)
        changed = range(start, start + len(fds))
        for queue, registers in enumerate(self.function.state.queues):
            if registers.vector in changed:
                await self._bind(queue)

    def io_fds(self, region: int) -> Sequence[IoFd]:
        """Return an eventfd for each doorbell. See `EmulatedDevice.io_fds`."""
        if region != NOTIFY_BAR:
            return ()
        layout = self.function.layout
        return [
            IoFd(offset=layout.doorbell(index), size=2, fd=fd, datamatch=index)
            for index, fd in enumerate(self._rings.doorbells.eventfds)
        ]

    async def reset(self) -> None:
        """Reset the function. See `EmulatedDevice.reset`."""
        await self._do(self.function.reset())

    async def disconnected(self) -> None:
        """Reset the device and forget the client. See `EmulatedDevice.disconnected`."""
        with trio.CancelScope(shield=True):
            await self.reset()
            self._vectors.clear()
            await self._datapath.leave()

    async def _close(self) -> None:
        with trio.CancelScope(shield=True):
            await self.disconnected()
            await self._memory.close()
            self._rings.doorbells.close()

    # ---- what registers ask for -------------------------------------------------------------

    async def _do(self, actions: Iterable[Action]) -> None:
        """Do what a register access asks for, and what follows from it. Not cancellable."""
        waiting = deque(actions)
        with trio.CancelScope(shield=True):
            while waiting:
                waiting.extend(await self._do_one(waiting.popleft()))

    async def _do_one(self, action: Action) -> Iterable[Action]:
        """Do one thing; return what follows."""
        match action:
            case Reset():
                await self._reset()
            case UseFeatures(features=features):
                await self._use_features(features)
            case StartQueue():
                return await self._start(action)
            case StopQueue(index=index, drain=drain):
                how = StopMode.DRAIN if drain else StopMode.ABANDON
                state = await self._rings.stop(index, how)
                self.function.state.stopped(index, state)
            case BindQueue(index=index):
                await self._bind(index)
            case RingDoorbell(index=index):
                await self._datapath.look(index)
            case WriteConfig(offset=offset, data=data):
                await self._write_config(offset, data)
            case TellDriver(error=error):
                self._tell(error)
        return ()

    async def _use_features(self, features: VirtioFeatures) -> None:
        self._device.use_features(features & ~BUS_FEATURES)
        await self._show_config()

    async def _show_config(self) -> None:
        """Show the configuration of a driver that need not be told: it did this itself."""
        self.function.state.show_config(await self._device.read_config(0, DEVICE.size))

    async def _write_config(self, offset: int, data: bytes) -> None:
        try:
            await self._device.write_config(offset, data, migration=False)
        except RequestError as error:
            _log.warning("%s: configuration not written: %s", self.name, error.strerror)
        await self._show_config()

    async def _start(self, wanted: StartQueue) -> Iterable[Action]:
        """Serve a queue; return what follows if that cannot be done."""
        why = await self._rings.start(wanted)
        return () if why is None else self.function.state.refused(wanted.index, why)

    async def _miss(self, index: int) -> None:
        """Tell the driver of a queue whose memory does not come back."""
        token = self._missed[index] = object()
        await trio.sleep(_MISSED_SECONDS)
        queue = self.function.state.queues[index]
        if queue.waits and self._missed[index] is token:
            why = f"its ring was taken away: {self._memory.explain(queue.desc)}"
            self._follow(self.function.state.refused(index, why))

    async def _reset(self) -> None:
        await self._rings.stop_all()
        for index in range(self.function.layout.queues):
            await self._datapath.set_fd(index, RingFd.CALL, None)
        await self._use_features(VirtioFeatures(0))

    async def _bind(self, index: int) -> None:
        vector = self.function.state.queues[index].vector
        await self._datapath.set_fd(index, RingFd.CALL, self._vectors.duplicate(vector))

    def _tell(self, error: str) -> None:
        """Interrupt for the configuration, or for a status that says what went wrong."""
        if error:
            _log.warning("%s: %s; the driver must reset the device", self.name, error)
        vector = self.function.state.config_vector
        if vector != MSI_NO_VECTOR:
            self._nursery.start_soon(self._signal, vector)

    async def _signal(self, vector: int) -> None:
        try:
            await self._vectors.signal(vector)
        except OSError as error:
            _log.warning("%s: an interrupt is lost: %s", self.name, error)

    # ---- what the engine has to say ---------------------------------------------------------

    def ring_broken(self, index: int, fault: Fault, value: int) -> None:
        """Tell the driver. See `DatapathEvents`."""
        self._follow(self.function.state.broke(index, f"{fault.name}: {value:#x}"))

    def ring_failed(self, index: int, reason: str) -> None:
        """Tell the driver. See `DatapathEvents`."""
        self._follow(self.function.state.broke(index, reason))

    def area_ended(self, index: int, reason: str) -> None:
        """Nothing: the engine offers no area. See `DatapathEvents`."""

    def config_changed(self) -> None:
        """Look at the configuration, and tell the driver. See `DatapathEvents`."""
        self._nursery.start_soon(self._look_at_config)

    async def _look_at_config(self) -> None:
        config = await self._device.read_config(0, DEVICE.size)
        self._follow(self.function.state.config_changed(config))

    def _need_reset(self, error: str) -> None:
        self._follow(self.function.state.fail(error))

    def _follow(self, actions: Iterable[Action]) -> None:
        """Do what follows from news: nothing but telling the driver."""
        for action in actions:
            if isinstance(action, TellDriver):
                self._tell(action.error)
