"""The payloads' byte layouts, declared once with construct.

Which values are legal is checked by the messages, not here. All numbers are in native byte order.
Specification: vhost-user, "Payload".
"""

import construct as c

from protocol.layouts import Format

__all__ = ["CONFIG_HEAD", "MAX_CONFIG", "MAX_REGIONS", "SHMEM_REGIONS", "Format"]

MAX_REGIONS = 8
"""Regions that one SET_MEM_TABLE can carry."""

MAX_CONFIG = 256
"""Bytes of configuration space that one message can carry."""

CONFIG_HEAD = 12
SHMEM_REGIONS = 256
_REGION_SIZE = 32
_CRYPTO_MIN = 16
_CRYPTO_MAX = 4096

_REGION = c.Struct(
    "gpa" / c.Int64un,
    "size" / c.Int64un,
    "uva" / c.Int64un,
    "offset" / c.Int64un,
)

NOTHING = Format("no payload", c.Struct(c.Terminated))

U64 = Format("u64", c.Struct("value" / c.Int64un, c.Terminated))

VRING_STATE = Format(
    "vring state description",
    c.Struct("index" / c.Int32un, "num" / c.Int32un, c.Terminated),
)

VRING_ADDRESS = Format(
    "vring address description",
    c.Struct(
        "index" / c.Int32un,
        "flags" / c.Int32un,
        "desc" / c.Int64un,
        "used" / c.Int64un,
        "avail" / c.Int64un,
        "log" / c.Int64un,
        c.Terminated,
    ),
)

VRING_FD = Format(
    "u64: vring index and no-fd flag", c.Struct("index_and_flags" / c.Int64un, c.Terminated)
)

MEM_TABLE = Format(
    "memory regions description",
    c.Struct("count" / c.Int32un, c.Padding(4), "regions" / c.GreedyRange(_REGION), c.Terminated),
    sizes=(8, 8 + MAX_REGIONS * _REGION_SIZE),
)

MEM_REGION = Format(
    "single memory region description",
    c.Struct(
        c.Padding(8),
        "gpa" / c.Int64un,
        "size" / c.Int64un,
        "uva" / c.Int64un,
        "offset" / c.Int64un,
        c.Terminated,
    ),
)

LOG = Format("log description", c.Struct("size" / c.Int64un, "offset" / c.Int64un, c.Terminated))

LOG_REPLY = Format(
    "nothing (or a u64 without meaning)",
    c.Struct("body" / c.GreedyBytes, c.Terminated),
    sizes=(0, 8),
)

IOTLB = Format(
    "IOTLB message",
    c.Struct(
        "iova" / c.Int64un,
        "size" / c.Int64un,
        "uva" / c.Int64un,
        "perm" / c.Int8un,
        "type" / c.Int8un,
        c.Padding(6),
        c.Terminated,
    ),
)

CONFIG = Format(
    "virtio device config space",
    c.Struct(
        "offset" / c.Int32un,
        "size" / c.Int32un,
        "flags" / c.Int32un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(CONFIG_HEAD, CONFIG_HEAD + MAX_CONFIG),
)

CONFIG_REPLY = Format(
    CONFIG.name, CONFIG.layout, sizes=(CONFIG_HEAD, CONFIG_HEAD + MAX_CONFIG), may_be_empty=True
)

MAC = Format("u64: MAC address", c.Struct("mac" / c.Bytes(6), c.Padding(2), c.Terminated))

CRYPTO_SESSION = Format(
    "crypto session description",
    c.Struct("op_code" / c.Int64un, "setup_and_id" / c.GreedyBytes, c.Terminated),
    sizes=(_CRYPTO_MIN, _CRYPTO_MAX),
)

INFLIGHT = Format(
    "inflight description",
    c.Struct(
        "mmap_size" / c.Int64un,
        "mmap_offset" / c.Int64un,
        "num_queues" / c.Int16un,
        "queue_size" / c.Int16un,
        c.Padding(4),
        c.Terminated,
    ),
)

SHARED_OBJECT = Format("shared object UUID", c.Struct("uuid" / c.Bytes(16), c.Terminated))

SHARED_OBJECT_REPLY = Format(
    "shared object UUID, or nothing",
    c.Struct("uuid" / c.Bytes(16), c.Terminated),
    may_be_empty=True,
)

DEVICE_STATE = Format(
    "device state transfer parameters",
    c.Struct("direction" / c.Int32un, "phase" / c.Int32un, c.Terminated),
)

SHMEM_CONFIG = Format(
    "VIRTIO shared memory region configuration",
    c.Struct(
        "count" / c.Int32un,
        c.Padding(4),
        "sizes" / c.Array(SHMEM_REGIONS, c.Int64un),
        c.Terminated,
    ),
    sizes=(8 + 8 * SHMEM_REGIONS, 8 + 8 * SHMEM_REGIONS),
)

SHMEM_MAP = Format(
    "VIRTIO shared memory map",
    c.Struct(
        "shmid" / c.Int8un,
        c.Padding(7),
        "fd_offset" / c.Int64un,
        "shm_offset" / c.Int64un,
        "length" / c.Int64un,
        "flags" / c.Int64un,
        c.Terminated,
    ),
)

VRING_AREA = Format(
    "vring area description",
    c.Struct("index_and_flags" / c.Int64un, "size" / c.Int64un, "offset" / c.Int64un, c.Terminated),
)
