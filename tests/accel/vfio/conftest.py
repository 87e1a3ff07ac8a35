"""A host in a folder: sysfs as files, VFIO as a kernel object that answers as Linux does."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from accel.vfio import Kernel, KernelVfioDevice, Sysfs
from protocol.virtio.pci import (
    CAPABILITIES_START,
    CapabilityType,
    MsixCapability,
    StructureCapability,
    build_capabilities,
)
from vhostuser.fds import OwnedFd
from vhostuser.testing import held

ADDRESS = "0000:01:00.0"
GROUP = "7"
PAGE = 4096
_REGION_SHIFT = 40
_CAPABILITIES = (
    MsixCapability(vectors=3, table_bar=1, table_offset=0, pending_bar=1, pending_offset=2048),
    StructureCapability(type=CapabilityType.COMMON, bar=4, offset=0, size=PAGE),
    StructureCapability(type=CapabilityType.ISR, bar=4, offset=PAGE, size=PAGE),
    StructureCapability(type=CapabilityType.DEVICE, bar=4, offset=2 * PAGE, size=PAGE),
    StructureCapability(
        type=CapabilityType.NOTIFY, bar=4, offset=3 * PAGE, size=2 * PAGE, multiplier=PAGE
    ),
)

_REGISTERS = {
    4: 3,  # features: both words, so that VERSION_1 and ACCESS_PLATFORM are among them
    18: 1,  # queues
    24: 256,  # descriptors of the queue
}
"""What the common configuration holds; it takes whatever is written."""


@dataclass
class FakeKernel(Kernel):
    """Answers as Linux does for one device; its file is memory, with the regions where they are.

    Attributes:
        refuse: errno by path or request; a pair is (errno, how often it works before).
        log: what it was asked, in order.
        regions: flags and size by number, then the areas of a sparse capability (or None).
        vectors: what interrupts signal, by kind and vector.
        mapped: address and size by IOVA.
    """

    refuse: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    regions: dict = field(
        default_factory=lambda: {
            1: (15, PAGE, None),
            4: (7, 5 * PAGE, None),
            7: (3, 4096, None),
        }
    )
    viable: bool = True
    device_flags: int = 3
    irqs: dict = field(default_factory=lambda: {0: (7, 1), 1: (1, 0), 2: (1, 3), 3: (1, 1)})
    ranges: list = field(default_factory=lambda: [(0, 0xFEDFFFFF), (0xFEF00000, 2**48 - 1)])
    page_sizes: int = 0x40201000
    dma_avail: int = 65535
    free_vectors: int = 2048
    type1v2: int = 1
    version: int = 0
    vectors: dict = field(default_factory=dict)
    mapped: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)
    device: int = -1

    def __post_init__(self):
        self.irqs[4] = (1, 1)

    def _step(self, what):
        self.log.append(what)
        found = self.refuse.get(what)
        number, after = found if isinstance(found, tuple) else (found, 0)
        if number and self.log.count(what) > after:
            raise OSError(number, os.strerror(number))

    def open(self, path: Path) -> OwnedFd:
        self._step(str(path))
        return OwnedFd(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))

    def pread(self, fd, size, offset):
        self._step(("pread", offset >> _REGION_SHIFT, size))
        return super().pread(fd, size, offset)

    def pwrite(self, fd, data, offset):
        self._step(("pwrite", offset >> _REGION_SHIFT, len(data)))
        return super().pwrite(fd, data, offset)

    def ioctl(self, fd, request, argument=0):
        assert not fd.closed
        self._step(request)
        return getattr(self, f"_{request.name.lower()}")(argument) or 0

    def _get_api_version(self, argument):
        return self.version

    def _check_extension(self, argument):
        return self.type1v2 if argument == 3 else 0

    def _set_iommu(self, argument):
        assert argument == 3

    def _group_get_status(self, argument):
        struct.pack_into("=I", argument, 4, int(self.viable))

    def _group_set_container(self, argument):
        (number,) = struct.unpack("=i", argument)
        assert os.path.samestat(os.fstat(number), Path("/dev/null").stat())

    def _group_get_device_fd(self, argument):
        assert bytes(argument) == ADDRESS.encode() + b"\0"
        self.device = os.memfd_create("device", os.MFD_CLOEXEC)
        os.ftruncate(self.device, 8 << _REGION_SHIFT)
        os.pwrite(self.device, config_space(), 7 << _REGION_SHIFT)
        for offset, value in _REGISTERS.items():
            os.pwrite(self.device, struct.pack("<H", value), (4 << _REGION_SHIFT) + offset)
        return self.device

    def _device_get_info(self, argument):
        struct.pack_into("=III", argument, 4, self.device_flags, 9, 5)

    def _device_get_region_info(self, argument):
        (number,) = struct.unpack_from("=I", argument, 8)
        if number == 6:
            raise OSError(errno.EINVAL, "no ROM")
        flags, size, areas = self.regions.get(number, (0, 0, None))
        capabilities = b""
        if number == 1 and flags & 8:
            capabilities = struct.pack("=HHI", 3, 1, 0)
        if areas is not None:
            flags |= 8
            capabilities = struct.pack("=HHIII", 1, 1, 0, len(areas), 0)
            capabilities += b"".join(struct.pack("=QQ", *area) for area in areas)
        struct.pack_into("=I", argument, 4, flags)
        struct.pack_into("=QQ", argument, 16, size, number << _REGION_SHIFT)
        self._add_capabilities(argument, 32, 12, capabilities)

    def _add_capabilities(self, argument, fixed, offset_at, capabilities):
        """Answer as Linux does: all of it, or only how much room it would take."""
        if not capabilities:
            return
        needed = fixed + len(capabilities)
        if len(argument) < needed:
            struct.pack_into("=I", argument, 0, needed)
            struct.pack_into("=I", argument, offset_at, 0)
            return
        struct.pack_into("=I", argument, offset_at, fixed)
        argument[fixed:needed] = capabilities

    def _device_get_irq_info(self, argument):
        (number,) = struct.unpack_from("=I", argument, 8)
        if number not in self.irqs:
            raise OSError(errno.EINVAL, "no such interrupt")
        flags, count = self.irqs[number]
        struct.pack_into("=I", argument, 4, flags)
        struct.pack_into("=I", argument, 12, count)

    def _device_set_irqs(self, argument):
        size, flags, index, start, count = struct.unpack_from("=IIIII", argument)
        assert size == len(argument)
        if flags == 0x21:
            self.vectors = {key: fd for key, fd in self.vectors.items() if key[0] != index}
            return 0
        assert flags == 0x24
        if index == 2 and start + count > self.free_vectors:
            return self.free_vectors
        for number, fd in enumerate(struct.unpack_from(f"={count}i", argument, 20)):
            self.vectors[index, start + number] = fd
        return 0

    def _device_reset(self, argument):
        os.pwrite(self.device, b"\0\0", (7 << _REGION_SHIFT) + 4)

    def _device_ioeventfd(self, argument):
        _size, width, offset, value, fd, _zero = struct.unpack("=IIQQiI", argument)
        self.writes[offset, width, value] = fd

    def _iommu_get_info(self, argument):
        struct.pack_into("=IQ", argument, 4, 3, self.page_sizes)
        first = struct.pack("=HHIII", 1, 1, 24 + 16 + 16 * len(self.ranges), len(self.ranges), 0)
        first += b"".join(struct.pack("=QQ", *each) for each in self.ranges)
        self._add_capabilities(
            argument, 24, 16, first + struct.pack("=HHII", 3, 1, 0, self.dma_avail)
        )

    def _iommu_map_dma(self, argument):
        size, flags, address, iova, length = struct.unpack("=IIQQQ", argument)
        assert (size, flags) == (32, 3)
        self.mapped[iova] = (address, length)

    def _iommu_unmap_dma(self, argument):
        iova, length = struct.unpack_from("=QQ", argument, 8)
        if any(
            (start < iova + length and iova < start + size and (start, size) != (iova, length))
            for start, (_address, size) in self.mapped.items()
        ):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # it would be torn apart
        if iova in self.mapped:
            del self.mapped[iova]
        else:
            struct.pack_into("=Q", argument, 16, 0)


def config_space() -> bytes:
    """Return a virtio block device's, with its memory decode and bus mastering off."""
    config = bytearray(256)
    struct.pack_into("<HHHH", config, 0, 0x1AF4, 0x1042, 0, 0x10)
    struct.pack_into("<I", config, 8, 0x01000001)
    config[0x34] = CAPABILITIES_START
    capabilities = build_capabilities(_CAPABILITIES)
    config[CAPABILITIES_START : CAPABILITIES_START + len(capabilities)] = capabilities
    return bytes(config)


class FakeSysfs(Sysfs):
    """Files, and what Linux does when one of them is written.

    Attributes:
        natural: the driver that the kernel would choose, by address.
        unwilling: drivers that take no device.
        errors: errno by the end of a path.
        written: what was, in order.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "sys", folder / "proc")
        self.root = folder / "sys"
        self.proc = folder / "proc"
        self.natural = {}
        self.unwilling = set()
        self.errors = {}
        self.written = []
        for name in ("bus/pci/devices", "bus/pci/drivers/vfio-pci", "kernel/iommu_groups"):
            (self.root / name).mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)

    def add(self, address=ADDRESS, *, ids=(0x1AF4, 0x1042), class_code=0x010000, driver, group):
        path = self.root / "devices" / "pci0000:00" / address
        path.mkdir(parents=True)
        for name, text in {
            "vendor": f"{ids[0]:#06x}",
            "device": f"{ids[1]:#06x}",
            "class": f"{class_code:#08x}",
            "driver_override": "(null)",
        }.items():
            (path / name).write_text(text + "\n")
        (self.bus / "devices" / address).symlink_to(path)
        if driver is not None:
            self.natural[address] = driver
            self._attach(address, driver)
        if group is not None:
            devices = self.root / "kernel" / "iommu_groups" / group / "devices"
            devices.mkdir(parents=True, exist_ok=True)
            (devices / address).symlink_to(path)
            (path / "iommu_group").symlink_to(devices.parent)
        return path

    def _attach(self, address, driver):
        folder = self.bus / "drivers" / driver
        folder.mkdir(exist_ok=True)
        if driver not in self.unwilling:
            (self.path(address) / "driver").symlink_to(folder)

    def write(self, path, text):
        where = str(path.relative_to(self.bus))
        self.written.append((where, text))
        for end, number in self.errors.items():
            if where.endswith(end):
                raise OSError(number, os.strerror(number))
        address = text.strip()
        match path.name:
            case "driver_override":
                path.write_text((text.strip() or "(null)") + "\n")
            case "unbind":
                assert path.parent.readlink().parent == self.bus / "drivers"
                path.parent.unlink()
            case "drivers_probe":
                override = (self.path(address) / "driver_override").read_text().strip()
                driver = self.natural.get(address) if override == "(null)" else override
                if driver and not (self.path(address) / "driver").exists():
                    self._attach(address, driver)
            case "bind":
                self._attach(address, path.parent.name)


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = held()
    yield
    assert not held().more_than(before)


@pytest.fixture
def kernel():
    return FakeKernel()


@pytest.fixture
def sysfs(tmp_path):
    return FakeSysfs(tmp_path)


@pytest.fixture
def open_device(kernel, sysfs):
    """Opens the one device; closed when the test ends."""
    opened = []

    def make(**options):
        if not sysfs.functions():
            sysfs.add(driver="vfio-pci", group=GROUP)
        device = KernelVfioDevice(ADDRESS, kernel=kernel, sysfs=sysfs, **options)
        opened.append(device)
        return device

    yield make
    for device in opened:
        device.close()
