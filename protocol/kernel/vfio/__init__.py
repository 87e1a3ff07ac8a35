"""VFIO of the Linux kernel as data: request numbers, structures, capability chains.

Use it by the module's name (`vfio.Request.IOMMU_MAP_DMA`). Structures are in native byte order.
Only the type 1 IOMMU and PCI devices are described. Specification: Linux,
Documentation/driver-api/vfio.rst and <linux/vfio.h>.
"""

from protocol.kernel.vfio.answers import (
    DeviceInfo,
    GroupStatus,
    IommuInfo,
    IovaRange,
    IrqInfo,
    RegionInfo,
    SparseArea,
    answer_size,
    request_buffer,
)
from protocol.kernel.vfio.arguments import (
    container_argument,
    dma_map,
    dma_unmap,
    dma_unmapped,
    ioeventfd,
    irq_eventfds,
    irqs_off,
)
from protocol.kernel.vfio.numbers import (
    API_VERSION,
    NO_FD,
    DeviceFlags,
    Extension,
    GroupFlags,
    IommuFlags,
    IrqFlags,
    IrqIndex,
    RegionFlags,
    RegionIndex,
    Request,
)

__all__ = [
    "API_VERSION",
    "NO_FD",
    "DeviceFlags",
    "DeviceInfo",
    "Extension",
    "GroupFlags",
    "GroupStatus",
    "IommuFlags",
    "IommuInfo",
    "IovaRange",
    "IrqFlags",
    "IrqIndex",
    "IrqInfo",
    "RegionFlags",
    "RegionIndex",
    "RegionInfo",
    "Request",
    "SparseArea",
    "answer_size",
    "container_argument",
    "dma_map",
    "dma_unmap",
    "dma_unmapped",
    "ioeventfd",
    "irq_eventfds",
    "irqs_off",
    "request_buffer",
]
