"""Virtio over PCI (modern): where a function's registers are, what they hold, and their layout.

Drivers (`accel.virtio_pci`) and devices (`accel.simulator`) derive from the same tables. Bytes and
numbers only, little-endian throughout; nothing here reads or writes a device. Specification: VIRTIO
1.2, section 4.1 "Virtio Over PCI Bus".
"""

from protocol.virtio.pci.capabilities import (
    CAPABILITIES_START,
    CONFIG_SPACE_SIZE,
    Capability,
    CapabilityType,
    MsixCapability,
    QueueStateCapability,
    StructureCapability,
    build_capabilities,
    walk_capabilities,
)
from protocol.virtio.pci.function import (
    MODERN_DEVICE_ID,
    PCI_STATUS_CAPABILITIES,
    VIRTIO_VENDOR,
    PciCommand,
    PciHeader,
    VirtioFunction,
    parse_function,
)
from protocol.virtio.pci.queue_state import (
    QUEUE_STATE_SIZE,
    QueueCommand,
    QueueStateRegister,
    QueueStatus,
    decode_position,
    encode_position,
)
from protocol.virtio.pci.registers import (
    COMMON_SIZE,
    COMMON_SIZE_WITH_RESET,
    DOORBELL_WIDTH,
    FEATURE_WORDS,
    GONE,
    MSI_NO_VECTOR,
    CommonRegister,
    DeviceStatus,
    IsrStatus,
    Register,
    find_register,
    notify_offset,
)

__all__ = [
    "CAPABILITIES_START",
    "COMMON_SIZE",
    "COMMON_SIZE_WITH_RESET",
    "CONFIG_SPACE_SIZE",
    "DOORBELL_WIDTH",
    "FEATURE_WORDS",
    "GONE",
    "MODERN_DEVICE_ID",
    "MSI_NO_VECTOR",
    "PCI_STATUS_CAPABILITIES",
    "QUEUE_STATE_SIZE",
    "VIRTIO_VENDOR",
    "Capability",
    "CapabilityType",
    "CommonRegister",
    "DeviceStatus",
    "IsrStatus",
    "MsixCapability",
    "PciCommand",
    "PciHeader",
    "QueueCommand",
    "QueueStateCapability",
    "QueueStateRegister",
    "QueueStatus",
    "Register",
    "StructureCapability",
    "VirtioFunction",
    "build_capabilities",
    "decode_position",
    "encode_position",
    "find_register",
    "notify_offset",
    "parse_function",
    "walk_capabilities",
]
