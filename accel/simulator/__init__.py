"""An accelerator in software: a virtio PCI device in its own process, served over vfio-user.

Its registers are a model without I/O (`accel.simulator.function`), its rings are served by the
engine. It has what hardware has: doorbells that can be mapped, MSI-X, positions of its queues, and
faults on request.
"""

from accel.simulator.device import SimulatedDevice
from accel.simulator.engine_device import EngineDevice
from accel.simulator.faults import FAULT_SYNTAX, FaultKind, FaultRequest, parse_fault
from accel.simulator.function import PciFunction
from accel.simulator.layout import Layout
from accel.simulator.options import PAGE_SIZES, NetSimulatorOptions, SimulatorOptions

__all__ = [
    "FAULT_SYNTAX",
    "PAGE_SIZES",
    "EngineDevice",
    "FaultKind",
    "FaultRequest",
    "Layout",
    "NetSimulatorOptions",
    "PciFunction",
    "SimulatedDevice",
    "SimulatorOptions",
    "parse_fault",
]
