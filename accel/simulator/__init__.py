"""An accelerator in software: a virtio PCI device in its own process, served over vfio-user.

Its registers are a model without I/O (`accel.simulator.function`), its rings are served by the
engine. It has what hardware has: doorbells that can be mapped, MSI-X, positions of its queues, and
faults on request.
"""

from accel.simulator.function import PciFunction
from accel.simulator.layout import Layout

__all__ = ["Layout", "PciFunction"]
