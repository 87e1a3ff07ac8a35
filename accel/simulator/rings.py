"""The rings of a simulated device that the engine serves, and how they are started and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.addresses import Uva
from protocol.virtio import RingArea
from vhostuser.datapath import RingStart, StopMode
from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from accel.simulator.actions import StartQueue
    from accel.simulator.doorbells import Doorbells
    from accel.simulator.memory import DeviceMemory
    from vhostuser.datapath import SoftwareDatapath
    from vhostuser.virtqueue import RingState

__all__ = ["Rings"]


class Rings:
    """What the engine serves of a device. No method is cancellable: shield the calls.

    Args:
        datapath: of the device.
        memory: in which rings lie.
        doorbells: of the client.

    Attributes:
        doorbells: of the client; only replaced while no ring is started.
    """

    def __init__(
        self, datapath: SoftwareDatapath, memory: DeviceMemory, doorbells: Doorbells
    ) -> None:
        self._datapath = datapath
        self._memory = memory
        self.doorbells = doorbells
        self._started: set[int] = set()

    @property
    def started(self) -> frozenset[int]:
        """The rings that the engine works on."""
        return frozenset(self._started)

    async def start(self, wanted: StartQueue) -> str | None:
        """Serve a ring; return why that cannot be done, if so."""
        try:
            await self._start(wanted)
        except RequestError as error:
            address: int | None = getattr(wanted, error.field, None)
            if error.field in {area.name.lower() for area in RingArea} and address is not None:
                return f"its {error.field} area: {self._memory.explain(address)}"
            return f"its {error.field} is {error.value}, it takes {error.strerror}"
        except OSError as error:
            return str(error)
        return None

    async def _start(self, wanted: StartQueue) -> None:
        index = wanted.index
        start = RingStart(
            features=wanted.features,
            num=wanted.num,
            desc=Uva(wanted.desc),
            driver=Uva(wanted.driver),
            device=Uva(wanted.device),
            state=wanted.state,
        )
        with self.doorbells.eventfds[index].duplicate() as kick:
            try:
                await self._datapath.set_enabled(index, enabled=True)
                await self._datapath.set_notify_page(index, self.doorbells.address(index))
                await self._datapath.start_queue(index, start, kick)
            except OSError:
                await self._datapath.set_notify_page(index, None)
                raise
        self._started.add(index)

    async def stop(self, index: int, how: StopMode) -> RingState:
        """Stop a ring; return where it stands."""
        self._started.discard(index)
        state = await self._datapath.stop_queue(index, how)
        await self._datapath.set_notify_page(index, None)
        return state

    async def stop_all(self) -> None:
        """Stop every ring, and drop what is in flight."""
        for index in sorted(self._started):
            await self.stop(index, StopMode.ABANDON)
